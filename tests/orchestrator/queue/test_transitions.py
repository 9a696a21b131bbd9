"""The statements that move jobs, against `states.MOVES`: what they can do to a row in any state."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import IntegrityError, InternalError, connection, transaction
from django.utils import timezone

import orchestrator
from orchestrator.attempt.session import transaction_began_at
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import transitions
from orchestrator.queue.transitions import Ending
from orchestrator.running import Cancelled
from orchestrator.states import FINAL, MOVES, Status
from orchestrator.stops import RowMoved
from orchestrator.worker.process import WorkerProcess
from tests.factories import make_job
from tests.orchestrator.workbench import DeclareKind, again

Move = tuple[str, str]

STARTS = {("CREATED", "RUNNING")}
CANCELS = {("CREATED", "CANCELLED"), ("RUNNING", "CANCELLED")}
# An attempt at a transactional job is claimed and ended by one statement, which counts it.
ENDS_AT_ONCE = {("CREATED", "COMPLETED"), ("CREATED", "FAILED")}

# Each verb, and all that it can do to a job in whatever state, leased or not, ready or not, to be cancelled or not.
VERBS: dict[str, set[Move]] = {
    "claim": STARTS,
    "start_parent": STARTS,
    "count_down": STARTS,
    "complete": {("RUNNING", "COMPLETED")},
    "complete_together": {("RUNNING", "COMPLETED")},
    "wait_for_children": set(),
    "complete_locked": {("RUNNING", "COMPLETED"), ("CREATED", "COMPLETED")},
    "fail": {("RUNNING", "FAILED"), ("CREATED", "FAILED")} | CANCELS,
    "retry_later": {("RUNNING", "CREATED")} | CANCELS,
    "hand_back": {("RUNNING", "CREATED")} | CANCELS,
    "hand_back_unstarted": {("RUNNING", "CREATED")},
    "cancel": CANCELS,
    "cancel_unstarted": {("CREATED", "CANCELLED")},
    "cancel_unstarted_children": {("CREATED", "CANCELLED")},
    "cancel_some_unstarted_children": {("CREATED", "CANCELLED")},
    "cancel_pipeline": CANCELS,
    "fail_pipeline": {("RUNNING", "FAILED")},
    "reopen": {("FAILED", "CREATED"), ("CANCELLED", "CREATED")},
    "reopen_compensations": {("FAILED", "CREATED"), ("CANCELLED", "CREATED")},
    "skip": {("CREATED", "COMPLETED")},
    "take_over": {("CREATED", "COMPLETED")},
    "fail_unresolved": {("CREATED", "FAILED"), ("CREATED", "CANCELLED")},
}


class Bench:
    """Applies verbs to a job, each as if it came from whoever knows the job's row best."""

    def __init__(self, kind: Kind, worker: WorkerProcess) -> None:
        self.kind, self.worker = kind, worker

    def claim(self, job: Job) -> None:
        transitions.claim(self.kind, worker_id=self.worker.row_id, worker_name="")

    def start_parent(self, job: Job) -> None:
        transitions.start_parent(job.id)

    def count_down(self, job: Job) -> None:
        done = make_job(Status.COMPLETED, parent=job, name="done")
        Job.objects.filter(id=job.id).update(ready=False, unfinished_dependencies=1)
        transitions.count_down([done.id])

    def complete(self, job: Any) -> None:
        job.watched_since = None
        transitions.complete(job, "1")

    def wait_for_children(self, job: Any) -> None:
        with suppress(Cancelled):
            transitions.wait_for_children(job, 1)

    def complete_together(self, job: Any) -> None:
        job.watched_since = job.ctid = None
        Job.objects.filter(id=job.parent_id).update(unfinished_dependencies=1)
        transitions.complete_together([job], ["1"])

    def complete_locked(self, job: Job) -> None:
        began_at = transaction_began_at(connection)
        locked: Any = SimpleNamespace(
            id=job.id,
            attempt=job.attempt,
            began_at=began_at,
            claimed_at=timezone.now(),
            notify=None,
            watched_since=None,
        )
        transitions.complete_locked([locked], ["1"], worker_name="")

    def fail(self, job: Job) -> None:
        transitions.fail(job, self._ending(job))

    def retry_later(self, job: Job) -> None:
        transitions.retry_later(job, self._ending(job), timedelta(seconds=1))

    def hand_back(self, job: Job) -> None:
        transitions.hand_back(job, self._ending(job))

    def hand_back_unstarted(self, job: Any) -> None:
        transitions.hand_back_unstarted([job])

    def cancel(self, job: Job) -> None:
        transitions.cancel(job.id)

    def cancel_unstarted(self, job: Job) -> None:
        transitions.cancel_unstarted([job.id])

    def cancel_unstarted_children(self, job: Job) -> None:
        assert job.parent_id is not None
        transitions.cancel_unstarted_children(job.parent_id)

    def cancel_some_unstarted_children(self, job: Job) -> None:
        assert job.parent_id is not None
        transitions.cancel_some_unstarted_children(job.parent_id, of=[job.kind], at_most=100)

    def cancel_pipeline(self, job: Job) -> None:
        transitions.cancel_pipeline(job.id)

    def fail_pipeline(self, job: Job) -> None:
        transitions.fail_pipeline(job.id, "no")

    def reopen(self, job: Job) -> None:
        transitions.reopen(job.id)

    def reopen_compensations(self, job: Job) -> None:
        transitions.reopen_compensations(job, [job.id], 0)

    def skip(self, job: Job) -> None:
        transitions.skip([job.id])

    def take_over(self, job: Job) -> None:
        transitions.take_over({job.id: make_job(Status.COMPLETED, result=1).id})

    def fail_unresolved(self, job: Job) -> None:
        Job.objects.filter(id=job.id).update(ready=False, unresolved=True)
        transitions.fail_unresolved(job.id, "no")

    def _ending(self, job: Job) -> Ending:
        return Ending(
            number=job.attempt + (job.worker_id is None),
            max_attempts=job.max_attempts,
            error="no",
            worker_name="",
            runs_alone=False,
        )


@pytest.fixture
def bench(kind: DeclareKind, worker: WorkerProcess) -> Bench:
    return Bench(kind(), worker)


def jobs(bench: Bench) -> Iterator[Job]:
    """A job of each sort that the constraints allow, the only one but its parent, and gone when the next comes."""
    for status, ready, leased, asked, unwinding in product(Status, *[(False, True)] * 4):
        with transaction.atomic():
            try:
                with transaction.atomic():
                    yield make_job(
                        Status(str(status)),
                        kind=bench.kind.name,
                        ready=ready,
                        worker_id=bench.worker.row_id if leased else None,
                        cancel_requested_at=timezone.now() if asked else None,
                        unwinding=unwinding,
                        parent=make_job(Status.RUNNING),
                        name="child",
                    )
            except IntegrityError:
                continue
            finally:
                transaction.set_rollback(True)


def moves_of(bench: Bench, verb: str) -> set[Move]:
    """What the verb does to one job after the other."""
    apply: Callable[[Job], None] = getattr(bench, verb)
    seen = set()
    for job in jobs(bench):
        try:
            with transaction.atomic():
                apply(job)
        except (RowMoved, IntegrityError):
            continue
        seen.add((str(job.status), str(again(job).status)))
    return {(before, after) for before, after in seen if before != after}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_makes_these_moves_and_no_other(verb: str, bench: Bench) -> None:
    assert moves_of(bench, verb) == VERBS[verb]


def test_the_verbs_make_the_legal_moves_and_no_other() -> None:
    legal = {(str(before), str(after)) for before, after in MOVES}

    made = set().union(*VERBS.values())

    assert made - ENDS_AT_ONCE == legal


def test_every_statement_that_writes_a_status_has_a_verb_here() -> None:
    public = {name for name, each in vars(transitions).items() if callable(each) and not name.startswith("_")}
    modules = {name: getattr(vars(transitions)[name], "__module__", "") for name in public}
    own = {name for name, module in modules.items() if module.startswith(f"{transitions.__name__}.")}

    assert own - {"Claim", "Ending", "Counted", "priority_step", "unstarted_children"} == VERBS.keys()


WRITES_STATUS = re.compile(r"UPDATE orchestrator_job\b.*?\bSET\b(?:(?!\bWHERE\b).)*?\bstatus\s*=", re.DOTALL)


def writes_a_status(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(WRITES_STATUS.search(node.value))
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("update", "create", "get_or_create", "update_or_create", "bulk_update")
        and any(each.arg == "status" for each in node.keywords)
    )


# Creates a function of the database that one of the verbs calls.
FUNCTION = "orchestrator/migrations/0060_completion_is_a_function.py"


def test_no_other_package_writes_a_status() -> None:
    root = Path(orchestrator.__file__).parent.parent
    writers = {
        name if (name := path.relative_to(root).as_posix()) == FUNCTION else path.parent.relative_to(root).as_posix()
        for app in ("config", "access", "orchestrator", "scheduler", "ingestion")
        for path in (root / app).rglob("*.py")
        if any(writes_a_status(node) for node in ast.walk(ast.parse(path.read_text())))
    }

    assert writers == {"orchestrator/queue/transitions", FUNCTION}


@pytest.mark.parametrize(
    ("before", "after"), [move for move in product(Status, Status) if move[0] != move[1] and move not in MOVES]
)
def test_a_move_that_is_not_legal_fails_in_the_databases_of_tests(
    before: Status, after: Status, transactional_db: None
) -> None:
    job = make_job(before, ready=False)
    finished_at = timezone.now() if after in FINAL else None

    with pytest.raises(InternalError, match=f"No job moves from {before} to {after}"):
        Job.objects.filter(id=job.id).update(status=after, finished_at=finished_at)

    assert again(job).status == before
