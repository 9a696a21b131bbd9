"""A job's priority and start are changed before it starts, and never after."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from access.models import AuditEntry
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.steering.changing import Change, NotChangeable, change
from orchestrator.submission import BadSubmission, submit
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import held_open, waiting
from tests.factories import make_job
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    again,
    claim,
    complete,
    fail,
    lease,
    pipeline,
    run,
)

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def in_an_hour() -> datetime:
    return timezone.now() + HOUR


def order(kind: Kind, worker: WorkerProcess) -> list[str]:
    """The owners of the ready jobs, in the order in which they are claimed."""
    return [job.owner for job in iter(lambda: claim(kind, worker), None)]


def test_an_urgent_job_overtakes(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit(waits, owner="first")
    late = submit(waits, owner="second")

    changed = change(late.id, Change(priority=0))

    assert (changed.priority, changed.rank - late.rank) == (0, timedelta(minutes=-5))
    assert order(waits, worker) == ["second", "first"]


def test_a_job_that_is_to_start_later_is_not_claimed_before(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)
    later = in_an_hour()

    changed = change(job.id, Change(run_at=later))

    assert (changed.run_at, changed.rank, changed.ready) == (later, later + timedelta(minutes=5), False)
    assert claim(waits, worker) is None


def test_a_job_of_the_future_starts_at_once_when_asked_to(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str]
) -> None:
    waits = kind()
    job = submit(waits, run_at=in_an_hour())
    rung.clear()

    changed = change(job.id, Change(at_once=True))

    assert changed.run_at <= timezone.now()
    assert rung == [waits.name]
    assert lease(waits, worker).id == job.id


def test_a_job_that_was_due_keeps_its_place_when_it_is_to_start_at_once(kind: DeclareKind) -> None:
    job = submit(kind())

    assert change(job.id, Change(at_once=True)).rank == job.rank


def test_a_job_that_waits_for_another_attempt_can_be_changed(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind(backoff_seconds=3_600)
    job = submit(waits)
    fail(lease(waits, worker), retryable=True)

    change(job.id, Change(at_once=True))

    assert lease(waits, worker).attempt == 2


@pytest.mark.parametrize("end", ["running", "completed"])
def test_what_has_started_is_not_changed(kind: DeclareKind, worker: WorkerProcess, end: str) -> None:
    waits = kind()
    job = submit(waits)
    held = lease(waits, worker)
    if end == "completed":
        complete(held)

    with pytest.raises(NotChangeable):
        change(job.id, Change(priority=0))

    assert (again(job).priority, again(job).rank) == (5, job.rank)
    assert not AuditEntry.objects.exists()


def test_a_change_that_meets_a_claim_waits_for_it_and_is_refused(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)

    with held_open(lambda: lease(waits, worker)):
        changing = waiting(lambda: change(job.id, Change(priority=0)))

    with pytest.raises(NotChangeable):
        changing.result(PATIENCE_SECONDS)


def test_a_claim_that_meets_a_change_takes_another_job(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job, other = submit(waits), submit(waits)

    with held_open(lambda: change(job.id, Change(run_at=in_an_hour()))):
        assert lease(waits, worker).id == other.id

    assert claim(waits, worker) is None


def test_a_pipeline_is_changed_with_its_children(kind: DeclareKind, worker: WorkerProcess) -> None:
    parent, step = kind(), kind()
    job, children = pipeline(parent, step, {"a": [], "b": ["a"]})

    change(job.id, Change(priority=1, run_at=in_an_hour()))

    assert set(Job.objects.values_list("priority", "ready")) == {(1, False)}
    change(job.id, Change(at_once=True))
    assert lease(step, worker).id == children["a"].id


def test_of_a_pipeline_that_has_begun_the_priority_of_the_rest_is_changed(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    parent, step = kind(), kind()
    job, children = pipeline(parent, step, {"a": [], "b": ["a"]})
    lease(step, worker)

    change(job.id, Change(priority=1))

    assert [again(each).priority for each in (job, children["a"], children["b"])] == [1, 5, 1]
    with pytest.raises(NotChangeable, match="begun"):
        change(job.id, Change(at_once=True))


def test_a_child_that_somebody_holds_is_changed_when_it_is_free(kind: DeclareKind, worker: WorkerProcess) -> None:
    parent, step = kind(), kind()
    job, children = pipeline(parent, step, {"a": [], "b": []})

    with held_open(lambda: Job.objects.select_for_update().get(id=children["a"].id)):
        changing = waiting(lambda: change(job.id, Change(priority=1)))
        assert again(children["b"]).priority == 1

    changing.result(PATIENCE_SECONDS)
    assert again(children["a"]).priority == 1


def test_a_transactional_job_keeps_its_new_place(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(execution="transactional")
    job = submit(batching, run_at=in_an_hour())

    change(job.id, Change(at_once=True))

    assert run(batching, worker) == 1
    assert again(job).status == "COMPLETED"


def test_a_job_that_a_limit_blocks_stays_blocked_until_it_is_to_start_later() -> None:
    job = make_job(ready=False, blocked_by="kind")

    assert change(job.id, Change(priority=0, at_once=True)).blocked_by == "kind"
    later = change(job.id, Change(run_at=in_an_hour()))
    assert (later.blocked_by, later.ready) == (None, False)


def test_a_change_is_in_the_audit_trail() -> None:
    job = make_job()

    change(job.id, Change(priority=0))

    entry = AuditEntry.objects.get()
    assert (entry.action, entry.object_id) == ("job.change", str(job.id))
    assert (entry.before, entry.after) == ({"priority": 5}, {"priority": 0})


def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(BadSubmission, match="Give a priority"):
        Change()


@pytest.mark.parametrize("bad", [{"priority": 10}, {"priority": True}, {"run_at": datetime(2030, 1, 1)}])  # noqa: DTZ001
def test_a_place_that_no_job_could_have_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadSubmission):
        Change(**bad)  # type: ignore[arg-type]
