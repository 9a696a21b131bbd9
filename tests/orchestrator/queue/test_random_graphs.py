"""Random graphs end as a model in memory says.

With lists, conditions, signals, failures, deaths of workers, cancellations, compensations, retries and forks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import submission
from orchestrator.composition import fork
from orchestrator.diagnostics.queries import names
from orchestrator.doctor.jobs import MISCOUNTED, OVERDUE
from orchestrator.graphs.each import ITS_ITEM
from orchestrator.kinds import Child, Kind
from orchestrator.models import Job, Step
from orchestrator.pipelines import ref
from orchestrator.queue import pipelines
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.signalling import AlreadySent, NotAwaited, send_signal
from orchestrator.submission import Compensated, submit
from orchestrator.testing import drain
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, MakeWorker, again, claim, run

pytestmark = pytest.mark.django_db(transaction=True)

# What became of a step, and its result.
End = tuple[str, Any]
DONE = ("COMPLETED", "SKIPPED", "PASSED")
# Of a step. What fails as drawn is not tried again.
MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class Drawn:
    """A step as it is drawn; numbers are of earlier steps."""

    after: tuple[int, ...]
    fails: bool
    goes_on: bool
    when: tuple[int, str] | None
    each: int | None
    at_once: int | None
    waits: bool
    is_undone: bool

    @property
    def needs(self) -> set[int]:
        return {
            *self.after,
            *(() if self.when is None else self.when[:1]),
            *(() if self.each is None else (self.each,)),
        }


@st.composite
def graphs(draw: st.DrawFn, at_most: int) -> list[Drawn]:
    is_undone = draw(st.integers(0, 2)) == 0
    # A long one that fails early says little, so the more steps there are the fewer fail.
    length = draw(st.integers(1, at_most))
    steps: list[Drawn] = []
    for number in range(length):
        earlier = st.integers(max(0, number - 12), max(0, number - 1))
        one_in_three = st.integers(0, 2).map(lambda drawn: drawn == 0)
        steps.append(
            Drawn(
                after=tuple(draw(st.sets(earlier, max_size=3))) if number else (),
                fails=draw(st.integers(0, max(6, length // 3))) == 0,
                goes_on=draw(st.booleans()),
                when=(draw(earlier), draw(st.sampled_from(["completed", "failed", "skipped"])))
                if number and draw(one_in_three) and draw(one_in_three)
                else None,
                each=draw(earlier) if number and draw(one_in_three) else None,
                at_once=draw(st.sampled_from([None, 1, 2])),
                waits=draw(one_in_three) and draw(one_in_three),
                is_undone=is_undone and draw(st.booleans()),
            )
        )
    return steps


def modelled(
    steps: list[Drawn], kept: Mapping[int, End], *, is_mended: bool, dead: Set[str] = frozenset()
) -> dict[int, End] | None:
    """How the steps end; None if one of them fails whose failure is the pipeline's. kept: those that have ended.

    dead: names of steps and items that have used up their attempts by deaths of their workers.
    """
    ends: dict[int, End] = {}
    for number, step in enumerate(steps):
        fails = (step.fails and not is_mended) or str(number) in dead
        ends[number] = kept[number] if number in kept else _end(number, step, ends, fails, dead)
        if ends[number][0] == "FAILED":
            return None
    return ends


def _end(number: int, step: Drawn, ends: Mapping[int, End], fails: bool, dead: Set[str]) -> End:
    failed = ("PASSED" if step.goes_on else "FAILED", None)
    if step.needs and all(ends[each][0] == "SKIPPED" for each in step.needs):
        return "SKIPPED", None
    said = {"COMPLETED": "completed", "PASSED": "failed", "SKIPPED": "skipped"}
    if step.when and said[ends[step.when[0]][0]] != step.when[1]:
        return "SKIPPED", None
    if step.each is None:
        return failed if fails else ("COMPLETED", [number] * (number % 4))
    values = ends[step.each][1]
    if not isinstance(values, list):
        return failed
    if fails and values:
        return ("COMPLETED", [None] * len(values)) if step.goes_on else failed
    lost = {place for place in range(len(values)) if f"{number}[{place}]" in dead}
    if lost and not step.goes_on:
        return failed
    return "COMPLETED", [None if place in lost else value for place, value in enumerate(values)]


def ended(parent: Job) -> dict[int, End]:
    """How the steps have ended that were drawn."""
    outcomes = dict(Step.objects.filter(job__parent=parent).values_list("job", "outcome"))
    ends = {}
    for child in Job.objects.filter(parent=parent):
        if child.name.isdecimal():
            outcome = outcomes.get(child.id) or child.status
            ends[int(child.name)] = ("COMPLETED" if outcome == "REUSED" else outcome, child.result)
    return ends


class Workshop:
    """Kinds whose steps return or fail as drawn, until they are mended."""

    def __init__(self, kind: DeclareKind, worker: WorkerProcess, make_worker: MakeWorker) -> None:
        self.worker, self.make_worker, self.is_mended = worker, make_worker, False
        # How many workers have died of each step, and item of one, of the pipeline.
        self.deaths: Counter[str] = Counter()
        # The ids of the jobs of the pipeline whose compensations have run, in their order.
        self.undone: list[str] = []
        self.step: Kind = kind(
            self._run_step, payload=Any, max_attempts=MAX_ATTEMPTS, backoff_seconds=0, no_retry=(ValueError,)
        )  # fmt: skip
        self.undo: Kind = kind(self._undo, payload=Any, max_attempts=1)
        self.last: Kind = kind(max_attempts=1)

    def _run_step(self, running: Any, payload: Any) -> Any:
        if payload["fails"] and not self.is_mended:
            raise ValueError("as drawn")
        return payload["value"]

    def _undo(self, running: Any, payload: Any) -> None:
        self.undone.append(running.row.name)

    def submit(self, steps: list[Drawn]) -> Job:
        return submit(self.last, children=[self._child(number, step) for number, step in enumerate(steps)])

    def _child(self, number: int, step: Drawn) -> Child:
        value: Any = [number] * (number % 4) if step.each is None else ITS_ITEM
        return Child(
            name=str(number),
            kind=self.step.name,
            payload={"fails": step.fails, "value": value},
            after=[str(each) for each in step.after],
            on_failure="continue" if step.goes_on else None,
            when=None if step.when is None else {"step": str(step.when[0]), "is": step.when[1]},
            each=None if step.each is None else ref(str(step.each)),
            max_running=None if step.each is None else step.at_once,
            wait_for="go" if step.waits else None,
            compensate={"kind": self.undo.name, "payload": ref(str(number))} if step.is_undone else None,
        )

    def kill(self, times: int) -> None:
        """So often a worker claims the most urgent step, and is declared dead."""
        for _ in range(times):
            dying = self.make_worker("dying@here")
            if job := claim(self.step, dying):
                self.deaths[job.name] += 1
                declare_dead(dying.row_id)
                take_back_from_ended()

    @property
    def dead(self) -> set[str]:
        """What has used up its attempts by that."""
        return {name for name, times in self.deaths.items() if times >= MAX_ATTEMPTS}

    def finish(self, parent: Job) -> Job:
        """Lets everything happen that can, with the signals that are waited for, and looks that all was counted."""
        for _ in range(3):
            drain(worker=self.worker)
            # What a tick does for graphs; all of it takes ten times as long.
            pipelines.resolve_left()
            pipelines.unwind_left()
            try:
                send_signal(parent.id, "go", {})
            except NotAwaited:
                break
            except AlreadySent:
                continue  # Before a retry: what waits for it now goes on with it, once that is resolved.
        drain(worker=self.worker)
        assert names(MISCOUNTED, overdue=OVERDUE, most=10_000) == []
        return again(parent)


@pytest.fixture
def workshop(kind: DeclareKind, worker: WorkerProcess, make_worker: MakeWorker) -> Workshop:
    return Workshop(kind, worker, make_worker)


def check_end(
    parent: Job, steps: list[Drawn], kept: Mapping[int, End], *, is_mended: bool, dead: Set[str] = frozenset()
) -> None:
    expected = modelled(steps, kept, is_mended=is_mended, dead=dead)
    if expected is None:
        assert parent.status == "FAILED"
    else:
        assert (parent.status, ended(parent)) == ("COMPLETED", expected)


def check_undone(parent: Job, undone: list[str]) -> bool:
    """What has completed and can be undone was, once and the last first, if the pipeline did not complete."""
    done = Job.objects.filter(parent=parent, status="COMPLETED", step__compensate__isnull=False, step__outcome="")
    in_turn = done.filter(step__each__isnull=True).order_by("-finished_at", "-id").values_list("name", flat=True)
    expected = [] if parent.status == "COMPLETED" else [f"compensate:{name}" for name in in_turn]
    assert undone == expected
    return bool(undone)


def at_or_after(firsts: set[int], steps: list[Drawn]) -> set[int]:
    found = set(firsts)
    for number, step in enumerate(steps):
        if found & step.needs:
            found.add(number)
    return found


def check_graph(
    workshop: Workshop, steps: list[Drawn], killed: tuple[int, int], cancelled_after: int | None, from_step: int
) -> None:
    """Runs it, perhaps cancels it after so many claims, forks it and retries it.

    killed: after so many claims, so many workers die, each with a step.

    All is drawn before, since how many jobs a claim takes depends on how long others took.
    """
    workshop.is_mended = False
    workshop.undone.clear()
    workshop.deaths.clear()
    parent = workshop.submit(steps)
    claims, times = killed
    for _ in range(claims if times else 0):
        run(workshop.step, workshop.worker)
    workshop.kill(times)
    if cancelled_after is not None:
        for _ in range(cancelled_after):
            run(workshop.step, workshop.worker)
        if again(parent).status in ("CREATED", "RUNNING"):
            submission.cancel(parent.id)
    parent = workshop.finish(parent)
    if parent.status == "CANCELLED":
        assert cancelled_after is not None
    else:
        check_end(parent, steps, {}, is_mended=False, dead=workshop.dead)
    is_undone = check_undone(parent, workshop.undone)
    check_fork(workshop, parent, steps, from_step % len(steps))
    if is_undone:
        with pytest.raises(Compensated):
            submission.retry(parent.id)
    elif parent.status in ("FAILED", "CANCELLED"):
        check_retry(workshop, parent, steps)


def check_fork(workshop: Workshop, parent: Job, steps: list[Drawn], first: int) -> None:
    """From that step on, and from what was undone."""
    workshop.is_mended = True
    undone = {int(name.removeprefix("compensate:").partition("[")[0]) for name in workshop.undone}
    again_run = at_or_after({first} | undone, steps)
    completed = {number: end for number, end in ended(parent).items() if end[0] in ("COMPLETED", "SKIPPED")}
    workshop.undone.clear()
    forked = workshop.finish(fork(parent, str(first)))
    kept = {number: end for number, end in completed.items() if number not in again_run}
    check_end(forked, steps, kept, is_mended=True)
    check_undone(forked, workshop.undone)


def check_retry(workshop: Workshop, parent: Job, steps: list[Drawn]) -> None:
    kept = {number: end for number, end in ended(parent).items() if end[0] in DONE}
    passed = Step.objects.filter(job__parent=parent, outcome="PASSED").values_list("job__name", flat=True)
    # Of a list of which some items were passed, those stay, so it has the results of some and null for others.
    is_mixed = any(name.endswith("]") and int(name.partition("[")[0]) not in kept for name in passed)
    workshop.undone.clear()
    submission.retry(parent.id)
    parent = workshop.finish(parent)
    if not is_mixed:
        check_end(parent, steps, kept, is_mended=True)


CANCELLED_AFTER = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 3))
FROM_STEP = st.integers(0, 299)
KILLED = st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 1, 2, 3, 5]))


@settings(
    max_examples=8,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=graphs(6), killed=KILLED, cancelled_after=CANCELLED_AFTER, from_step=FROM_STEP)
def test_a_random_graph_ends_as_the_model_says_and_so_do_its_fork_and_its_retry(
    workshop: Workshop, steps: list[Drawn], killed: tuple[int, int], cancelled_after: int | None, from_step: int
) -> None:
    check_graph(workshop, steps, killed, cancelled_after, from_step)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@settings(max_examples=200, suppress_health_check=[*HealthCheck])
@given(steps=graphs(300), killed=KILLED, cancelled_after=CANCELLED_AFTER, from_step=FROM_STEP)
def test_two_hundred_graphs_of_up_to_three_hundred_steps_do_so(
    workshop: Workshop, steps: list[Drawn], killed: tuple[int, int], cancelled_after: int | None, from_step: int
) -> None:
    check_graph(workshop, steps, killed, cancelled_after, from_step)
