"""5. Pipelines: ten thousand children that fan in beside as many unrelated jobs, and many orchestrations at once."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark, in_turn
from benchmarks.servers import Stack, connect, muster, require, rows, run, until, value
from benchmarks.tasks import PATIENCE_SECONDS, UNFINISHED

FINISHED = """
SELECT count(*), count(*) FILTER (WHERE status = 'COMPLETED' AND attempt = 1 + (kind = 'bench.spread')::integer),
       extract(epoch FROM max(finished_at))::float8, (SELECT count(*) FROM orchestrator_attempt)
FROM orchestrator_job
"""
FROM_FIRST = "From the first request to the last step, in processes that have run 20 before; median of three rounds."
# An orchestration with its two sums, and its children: ten draws and two sums.
STEPS_EACH = 13
RIGHT_SUMS = """
SELECT count(*) FROM orchestrator_job parent
WHERE kind = 'orchestration.two_batches' AND result = jsonb_build_object(
    'first_batch', (SELECT result FROM orchestrator_job WHERE parent_id = parent.id AND name = 'first_sum'),
    'second_batch', (SELECT result FROM orchestrator_job WHERE parent_id = parent.id AND name = 'second_sum'))
  AND (result #>> '{first_batch,aggregated_sum}')::int = (
    SELECT sum((result ->> 'number')::int) FROM orchestrator_job
    WHERE parent_id = parent.id AND name LIKE 'first_draw%')
"""


@benchmark("pipelines", "Fan-in of 10,000 children, and 200 orchestrations at once")
def pipelines(bench: Bench) -> Iterator[Finding]:
    count = bench.size(10_000, 300)
    with muster(bench.servers) as stack:
        seconds(stack, "submit_steps", 100)  # Every process has begun, and imported all.
        fan, each, spread, unrelated = in_turn(
            bench.size(3, 1),
            lambda: seconds(stack, "submit_fan", count),
            lambda: seconds(stack, "submit_each", count),
            lambda: seconds(stack, "submit_spread", count),
            lambda: seconds(stack, "submit_steps", count),
        )
    yield Finding(
        what="fan-in of 10,000, times what 10,000 unrelated jobs take",
        value=fan / unrelated,
        unit="×",
        target=1.5,
        at_most=True,
        note="From the first submission, by a process that calls Muster's functions, to the end of the last job.",
    )
    yield Finding(
        what="a step that runs for each of 10,000 values of an earlier one's result, times the same",
        value=each / unrelated,
        unit="×",
        target=1.5,
        at_most=True,
        note="With the step before, and the list of all results.",
    )
    yield Finding(
        what="a job that adds 10,000 children while it runs, times the same",
        value=spread / unrelated,
        unit="×",
        target=1.5,
        at_most=True,
        note="With the reading of all their results.",
    )
    yield Finding(what="a pipeline of 10,000 children", value=fan, unit="s")
    yield Finding(what="10,000 unrelated jobs", value=unrelated, unit="s")
    with muster(bench.servers) as stack:
        seconds(stack, "submit_leased_fan", 100)
        leased = statistics.median(seconds(stack, "submit_leased_fan", count) for _ in range(bench.size(3, 1)))
    yield Finding(
        what="a pipeline of 10,000 leased children on threads", value=leased, unit="s", target=5, at_most=True
    )
    yield from submissions(bench, bench.size(1_000, 20))
    yield from orchestrations(bench, bench.size(200, 5))


def seconds(stack: Stack, command: str, count: int) -> float:
    """From before the jobs are submitted until the last has ended; each must have run exactly once."""
    with closing(connect(stack.database_url)) as connection:
        answer: dict[str, Any] = json.loads(
            run([sys.executable, "-m", "benchmarks.probe", command, str(count)], stack.environment)
        )
        stack.wait_until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
        # Beside a step that runs for each value there are the one that gives them, and the one before.
        total = count + {"submit_each": 3}.get(command, int(command.endswith(("fan", "spread"))))
        [(kept, right, ended_at, failed)] = rows(connection, FINISHED)
        require((kept, right, failed) == (total, total, 0), f"Of {total:,} jobs {kept:,} are kept, {right:,} right.")
        if command.endswith(("fan", "spread")):
            added_up = "SELECT result::int FROM orchestrator_job WHERE parent_id IS NULL"
            require(value(connection, added_up) == count, "The parent must add up all its children.")
        if command == "submit_each":
            length = "SELECT jsonb_array_length(result) FROM orchestrator_job WHERE parent_id IS NULL"
            require(value(connection, length) == count, "The pipeline must return the results of all items.")
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE orchestrator_job CASCADE")
    return float(ended_at - answer["began_at"])


def submissions(bench: Bench, count: int) -> Iterator[Finding]:
    """A chain of steps in one request, each of which reads the result of the one before."""
    kind = "demo.slices"
    steps: dict[str, Any] = {
        f"s{number}": {"kind": kind, "payload": {"slices": {"$from": f"s{number - 1}.slices"}}}
        for number in range(1, count)
    }
    body = {"steps": {"s0": {"kind": kind}, **steps}}
    with muster(bench.servers) as stack:
        took: list[float] = []
        for _ in range(bench.size(5, 1)):
            took += client.send(stack.port, [client.post("/pipelines", body)]).expect(202).latencies
    yield Finding(
        what="POST /pipelines with 1,000 steps", value=statistics.median(took), unit="s", target=1, at_most=True
    )


def orchestrations(bench: Bench, count: int) -> Iterator[Finding]:
    requests = [client.post(f"/orchestrate/user{number}") for number in range(count)]
    with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
        # Every process has begun, and imported all.
        run_all(stack, connection, [client.post(f"/orchestrate/first{number}") for number in range(20)])
        rounds = [one_round(stack, connection, requests) for _ in range(bench.size(3, 1))]
    took = statistics.median(seconds for seconds, _ in rounds)
    again = sum(again for _, again in rounds)
    yield Finding(what="steps of 200 orchestrations that ran twice", value=again, unit="", target=0, at_most=True)
    yield Finding(what="200 orchestrations at once, no step time", value=count / took, unit="orchestrations/s")
    yield Finding(what="their steps", value=STEPS_EACH * count / took, unit="steps/s", target=2_000, note=FROM_FIRST)


def one_round(stack: Stack, connection: Any, requests: Sequence[bytes]) -> tuple[float, int]:
    """How long orchestrations took, and how many of their steps ran more than once or failed."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE orchestrator_job CASCADE")
    took = run_all(stack, connection, requests)
    [(kept, right, _, failed)] = rows(connection, FINISHED)
    count, right_sums = len(requests), value(connection, RIGHT_SUMS)
    require(kept == STEPS_EACH * count and right_sums == count, f"{right_sums} of {count} have the right sums.")
    return took, STEPS_EACH * count - right + failed


def run_all(stack: Stack, connection: Any, requests: Sequence[bytes]) -> float:
    """Seconds from the first request until the last job has ended."""
    load = client.send(stack.port, requests).expect(202)
    until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
    return time.perf_counter() - load.began_at
