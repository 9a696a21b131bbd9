"""Graphs and jobs that add children, as clients ask for them: drawn at random, with how each is to end."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.client import Client
from tests.chaos.load import KINDS, number, work

SPREADS = ("tests.spread_in_thread", "tests.spread_in_child", "tests.spread_on_loop")
MAX_STEPS = 6
MAX_DEPTH = 3


@dataclass
class Drawn:
    """A graph as a client writes it, and its model: what its steps return that do not fail, and whether it fails.

    numbers: of the steps that return one. result: a reference for each of `returns`.
    """

    steps: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    returns: dict[str, Any] = field(default_factory=dict)
    fails: bool = False

    @property
    def result(self) -> dict[str, Any]:
        return {name: {"$from": name} for name in self.returns}


def drawn(rng: random.Random, *, depth: int = 1, given: int | None = None) -> Drawn:
    """Each step comes after some of the earlier ones. given: the number that is the input, of one that is a step."""
    graph = Drawn()
    for place in range(rng.randint(1, MAX_STEPS)):
        name = f"step{place}"
        add = rng.choices((effect, hopeless, listed, nested), (6, 0.7, 1, 1 if depth < MAX_DEPTH else 0))[0]
        earlier = rng.sample(list(graph.steps), k=min(len(graph.steps), rng.randint(0, 2)))
        add(rng, graph, name, depth=depth, given=given)
        graph.steps[name]["after"] = earlier
    return graph


def effect(rng: random.Random, graph: Drawn, name: str, *, given: int | None, **_: Any) -> None:
    """Leaves a row with a number of its own, of an earlier step, or of the pipeline's input; and one when undone."""
    source: Any = number(rng)
    value = source
    if graph.numbers and rng.random() < 0.5:
        earlier = rng.choice(list(graph.numbers))
        source, value = {"$from": f"{earlier}.number"}, graph.numbers[earlier]
    elif given is not None:
        source, value = {"$from": "$input.n"}, given
    payload = {"number": source, "seconds": rng.choice((0, 0, rng.uniform(0, 0.5))), "failures": rng.randint(0, 1)}
    graph.steps[name] = {"kind": rng.choice(KINDS), "payload": payload}
    graph.numbers[name], graph.returns[name] = value, {"number": value}
    if rng.random() < 0.3:
        undone = {"kind": rng.choice(KINDS), "payload": {"number": {"$from": f"{name}.number"}}}
        graph.steps[name]["compensate"] = undone


def hopeless(rng: random.Random, graph: Drawn, name: str, **_: Any) -> None:
    """Fails for good, after which half of them let the pipeline go on."""
    goes_on = rng.random() < 0.5
    graph.steps[name] = {"kind": rng.choice(KINDS), "payload": {"hopeless": True}}
    if goes_on:
        graph.steps[name]["on_failure"] = "continue"
    graph.fails |= not goes_on


def listed(rng: random.Random, graph: Drawn, name: str, **_: Any) -> None:
    """A list, and a job for each of its values."""
    numbers = [number(rng) for _ in range(rng.randint(0, 5))]
    graph.steps[f"{name}_list"] = {"kind": "pipeline.value", "payload": {"rows": numbers}}
    graph.steps[name] = {
        "kind": rng.choice(KINDS),
        "each": {"$from": f"{name}_list.rows"},
        "payload": {"number": {"$from": "$item"}},
        "max_running": rng.choice((None, 1, 2)),
    }
    graph.returns[name] = [{"number": value} for value in numbers]


def nested(rng: random.Random, graph: Drawn, name: str, *, depth: int, **_: Any) -> None:
    """A pipeline within, whose failure may be passed."""
    given = number(rng)
    inner = drawn(rng, depth=depth + 1, given=given)
    graph.steps[name] = {"pipeline": {"steps": inner.steps, "result": inner.result}, "payload": {"n": given}}
    goes_on = rng.random() < 0.5
    if goes_on:
        graph.steps[name]["on_failure"] = "continue"
    graph.fails |= inner.fails and not goes_on
    if not inner.fails:
        graph.returns[name] = inner.returns


def submit(client: Client, graph: Drawn) -> str:
    body = {"steps": graph.steps, "result": graph.result}
    answer = client.submit("/pipelines", body).json()
    meant = "FAILED" if graph.fails else "COMPLETED"
    fields = {"kind": "pipeline.run", "payload": {}, "meant": meant, "returns": None if graph.fails else graph.returns}
    return client.accept("job", answer["pipeline_id"], **fields)


@work(1)
def a_graph(client: Client, rng: random.Random) -> None:
    submit(client, drawn(rng))


@work(0.3)
def a_graph_cancelled(client: Client, rng: random.Random) -> None:
    job_id = submit(client, drawn(rng))
    time.sleep(rng.uniform(0, 1.5))
    client.cancel(job_id)


@work(0.7)
def a_job_that_adds_children(client: Client, rng: random.Random) -> None:
    numbers = [number(rng) for _ in range(rng.randint(1, 8))]
    payload = {"numbers": numbers, "seconds": rng.choice((0, rng.uniform(0, 1)))}
    client.job(rng.choice(SPREADS), payload)


@work(0.2)
def a_job_that_adds_children_cancelled(client: Client, rng: random.Random) -> None:
    job_id = client.job(rng.choice(SPREADS), {"numbers": [number(rng)] * 4, "seconds": rng.uniform(0, 1)})
    time.sleep(rng.uniform(0, 1.5))
    client.cancel(job_id)
