"""Bulk actions: exactly the jobs that matched when it was asked for, whoever else is at work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from access import audit
from access.models import AuditEntry
from orchestrator import submission
from orchestrator.kinds import kind_named
from orchestrator.models import BulkBatch, Job
from orchestrator.running import Cancelled
from orchestrator.states import Status
from orchestrator.steering import actions, batches
from orchestrator.steering.actions import Started
from orchestrator.steering.batches import Verb
from orchestrator.steering.changing import Change
from orchestrator.steering.selection import BULK_ACTION, BadFilter, JobFilter, count
from orchestrator.submission import submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once, held_open, in_thread
from tests.factories import make_job
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    claim,
    complete,
    fail,
    lease,
    pipeline,
    run,
)

pytestmark = pytest.mark.django_db


def start(verb: Verb, change: Change | None = None, **wanted: Any) -> Started:
    described = JobFilter(**wanted)
    return actions.start(verb, described.apply(Job.objects.all()), described.given, change=change)


@pytest.fixture
def unhelped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for an action leaves all of it to its job."""
    monkeypatch.setattr(actions, "HELP_SECONDS", -1)


@pytest.fixture
def bulk_worker(worker: WorkerProcess, unhelped: None) -> WorkerProcess:
    """A worker that does all of an action."""
    return worker


def finish(started: Started, worker: WorkerProcess) -> dict[str, Any]:
    """Runs the job of an action, and returns its result."""
    assert started.job is not None
    run(kind_named(BULK_ACTION), worker)
    job = again(started.job)
    assert job.status == "COMPLETED", job.error
    assert job.result is not None
    return dict(job.result)


def statuses() -> list[str]:
    return list(Job.objects.exclude(kind=BULK_ACTION).order_by("id").values_list("status", flat=True))


# Which jobs


def test_all_that_is_given_has_to_fit() -> None:
    now = timezone.now()
    columns: dict[str, Any] = {"kind": "a.b", "owner": "ada", "queue": "io", "priority": 3, "finished_at": now}
    wanted = make_job(Status.FAILED, **columns)
    for name, value in {"kind": "a.c", "owner": "eve", "queue": "default", "priority": 4}.items():
        make_job(Status.FAILED, **columns | {name: value})
    described = JobFilter(
        status=["FAILED"],
        kind=["a.b"],
        owner=["ada"],
        queue=["io"],
        priority=[3],
        created_after=now - timedelta(hours=1),
        created_before=now + timedelta(hours=1),
        finished_after=now - timedelta(seconds=1),
        finished_before=now + timedelta(seconds=1),
    )

    assert list(described.apply(Job.objects.all())) == [wanted]


def test_children_are_meant_only_where_that_is_said() -> None:
    parent = make_job()
    child = make_job(parent=parent, name="child")

    assert list(JobFilter(status=["CREATED"]).apply(Job.objects.all())) == [parent]
    assert list(JobFilter(parent=parent.id).apply(Job.objects.all())) == [child]
    assert list(JobFilter(ids=[child.id]).apply(Job.objects.all())) == [child]


def test_a_bulk_action_is_meant_only_by_its_name() -> None:
    make_job(kind=BULK_ACTION)

    assert not JobFilter(status=["CREATED"]).apply(Job.objects.all()).exists()
    assert JobFilter(kind=[BULK_ACTION]).apply(Job.objects.all()).exists()


def test_a_filter_of_nothing_is_refused() -> None:
    with pytest.raises(BadFilter, match="Name at least one of ids, status, kind"):
        JobFilter()


def test_a_count_says_whether_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.steering.selection.MAX_COUNTED", 2)
    make_job()
    make_job()

    assert count(Job.objects.all()) == (2, True)
    make_job()
    assert count(Job.objects.all()) == (2, False)


# What is done


def test_few_jobs_are_cancelled_without_a_worker(django_capture_on_commit_callbacks: Any) -> None:
    wanted, other = make_job(owner="ada"), make_job(owner="eve")

    with django_capture_on_commit_callbacks(execute=True):
        started = start("cancel", owner=["ada"])

    assert (started.matched, started.more) == (1, False)
    assert (again(wanted).status, again(other).status) == ("CANCELLED", "CREATED")


def test_cancelling_respects_what_runs(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 3)
    held, ended = lease(waits, bulk_worker), lease(waits, bulk_worker)
    started = start("cancel", kind=[waits.name])
    complete(ended)

    result = finish(started, bulk_worker)

    assert again(held).cancel_requested_at is not None
    assert statuses() == ["RUNNING", "COMPLETED", "CANCELLED"]
    assert result == {
        "action": "cancel", "matched": 3, "cancelled": 1, "stopping": 1, "ended_before": 1, "gone": 0, "refusals": [],
    }  # fmt: skip


def test_pipelines_are_cancelled_with_their_children(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    parent, step = kind(), kind()
    pipeline(parent, step, {"a": [], "b": ["a"]})

    finish(start("cancel", kind=[parent.name]), bulk_worker)

    assert statuses() == ["CANCELLED"] * 3


def test_a_kinds_on_failure_is_called_for_each(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    called: list[str] = []
    waits = kind(on_failure=lambda job, error: called.append(str(job.id)))
    ids = submit_many(waits, [{}] * 2)

    finish(start("cancel", kind=[waits.name]), bulk_worker)

    assert called == [str(id) for id in ids]


def test_a_job_that_somebody_holds_is_cancelled_when_it_is_free(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    waits = kind()
    first, _ = submit_many(waits, [{}] * 2)
    started = start("cancel", kind=[waits.name])

    with held_open(lambda: Job.objects.select_for_update().get(id=first)):
        finishing = in_thread(lambda: finish(started, bulk_worker))

    assert finishing.result(PATIENCE_SECONDS)["cancelled"] == 2


def test_what_failed_is_retried(kind: DeclareKind, bulk_worker: WorkerProcess, rung: list[str]) -> None:
    waits = kind(max_attempts=1)
    submit_many(waits, [{}] * 3)
    fail(lease(waits, bulk_worker))
    fail(lease(waits, bulk_worker))
    complete(lease(waits, bulk_worker))
    rung.clear()

    result = finish(start("retry", status=["FAILED", "COMPLETED"]), bulk_worker)

    assert result == {"action": "retry", "matched": 2, "retried": 2, "refused": 0, "gone": 0, "refusals": []}
    assert statuses() == ["CREATED", "CREATED", "COMPLETED"]
    assert waits.name in rung


def test_what_fails_again_is_not_retried_twice(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    waits = kind(max_attempts=1)
    job = submit(waits)
    fail(lease(waits, bulk_worker))
    started = start("retry", kind=[waits.name])
    submission.retry(job.id)
    fail(lease(waits, bulk_worker))

    finish(started, bulk_worker)

    assert (again(job).status, again(job).attempt) == ("FAILED", 2)


def test_a_retry_that_is_refused_says_why(bulk_worker: WorkerProcess) -> None:
    job = make_job(Status.FAILED, kind="no.longer_there")

    result = finish(start("retry", status=["FAILED"]), bulk_worker)

    assert (result["retried"], result["refused"]) == (0, 1)
    assert result["refusals"] == [
        {"job_id": str(job.id), "detail": "There is no kind 'no.longer_there'. GET /kinds lists them."}
    ]


def test_a_pipeline_is_retried_with_what_did_not_complete(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    parent, step = kind(), kind(max_attempts=1)
    pipeline(parent, step, {"a": [], "b": []})
    complete(lease(step, bulk_worker))
    fail(lease(step, bulk_worker))

    finish(start("retry", kind=[parent.name]), bulk_worker)

    assert statuses() == ["COMPLETED", "CREATED", "CREATED"]


def test_places_are_changed(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    waits = kind()
    first, _, third = submit_many(waits, [{}] * 3)
    held = lease(waits, bulk_worker)
    Job.objects.filter(id=third).update(owner="ada")

    result = finish(start("change", Change(priority=0), kind=[waits.name], owner=[""]), bulk_worker)

    assert result == {"action": "change", "matched": 1, "changed": 1, "too_late": 0, "refusals": []}
    assert held.id == first
    assert list(Job.objects.filter(kind=waits.name).order_by("id").values_list("priority", flat=True)) == [5, 0, 5]


def test_who_asked_is_in_the_audit_trail_of_each_job(kind: DeclareKind, bulk_worker: WorkerProcess) -> None:
    waits = kind()
    ids = submit_many(waits, [{}] * 2)
    with audit.on_behalf_of({"actor": "grace", "via": "api"}):
        started = start("cancel", kind=[waits.name])

    finish(started, bulk_worker)

    entries = AuditEntry.objects.order_by("id").values_list("actor", "action", "object_id")
    assert started.job is not None
    assert list(entries) == [
        ("grace", "jobs.cancel", str(started.job.id)),
        *(("grace", "job.cancel", str(id)) for id in ids),
    ]


def test_nothing_is_kept_where_nothing_matches() -> None:
    assert start("cancel", owner=["nobody"]) == Started(None, 0, more=False)
    assert not Job.objects.exists()
    assert not AuditEntry.objects.exists()


def test_more_than_one_action_takes_is_left_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MAX_SELECTED", 4)
    monkeypatch.setattr(actions, "BATCH_SIZE", 2)
    for _ in range(5):
        make_job()

    started = start("cancel", status=["CREATED"])

    assert (started.matched, started.more) == (4, True)
    assert sum(BulkBatch.objects.values_list("size", flat=True)) == 4


# Whatever else happens


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "BATCH_SIZE", 3)


def test_what_is_submitted_or_freed_meanwhile_is_left_alone(
    kind: DeclareKind, bulk_worker: WorkerProcess, make_worker: MakeWorker, small_batches: None
) -> None:
    """Submissions, claims, completions and retries go on while the action is asked for and done."""
    waits = kind(max_attempts=1)
    before = submit_many(waits, [{}] * 30)
    workers = [make_worker(f"{n}@here") for n in range(2)]

    def work(worker: WorkerProcess) -> None:
        while (job := claim(waits, worker)) is not None:
            complete(job)

    def ask() -> Started:
        return start("cancel", kind=[waits.name], status=["CREATED"])

    *_, started = at_once(*(lambda worker=worker: work(worker) for worker in workers), ask)
    found = {id for ids in BulkBatch.objects.values_list("job_ids", flat=True) for id in ids}
    after = submit_many(waits, [{}] * 5)
    if started.job is not None:
        result = finish(started, bulk_worker)
        assert result["cancelled"] + result["ended_before"] == started.matched

    assert found <= set(before)
    ended = dict(Job.objects.filter(id__in=before).values_list("id", "status"))
    assert set(ended.values()) <= {"COMPLETED", "CANCELLED"}
    assert {id for id, status in ended.items() if status == "CANCELLED"} <= found
    assert set(Job.objects.filter(id__in=after).values_list("status", flat=True)) == {"CREATED"}


def test_several_do_one_action_together_and_each_job_is_done_once(
    kind: DeclareKind, unhelped: None, small_batches: None, transactional_db: None
) -> None:
    waits = kind()
    submit_many(waits, [{}] * 20)
    started = start("cancel", kind=[waits.name])
    assert started.job is not None
    asked = kind_named(BULK_ACTION).read_payload(started.job.payload)

    def help_out() -> None:
        actions.work_off(started.job.id, asked, check=lambda: None)  # type: ignore[union-attr]

    assert at_once(*[help_out] * 4) == [None] * 4

    assert statuses() == ["CANCELLED"] * 20
    assert AuditEntry.objects.filter(action="job.cancel").count() == 20
    assert actions.result(started.job.id, asked)["cancelled"] == 20


def test_an_action_that_was_interrupted_goes_on_where_it_was(
    kind: DeclareKind, bulk_worker: WorkerProcess, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = kind()
    submit_many(waits, [{}] * 9)
    started = start("cancel", kind=[waits.name])
    acted: list[int] = []
    act = batches.act

    def die_at_the_second(*args: Any) -> Any:
        acted.append(len(args[1]))
        if len(acted) == 2:
            act(*args)
            raise SystemExit
        return act(*args)

    monkeypatch.setattr(batches, "act", die_at_the_second)
    asked = kind_named(BULK_ACTION).read_payload(started.job.payload)  # type: ignore[union-attr]
    with pytest.raises(SystemExit):
        actions.work_off(started.job.id, asked, check=lambda: None)  # type: ignore[union-attr]
    assert actions.progress(started.job.id) == (3, 9)  # type: ignore[union-attr]

    result = finish(started, bulk_worker)

    assert result["cancelled"] == 9
    assert acted == [3, 3, 3, 3]
    assert AuditEntry.objects.filter(action="job.cancel").count() == 9


def test_an_action_that_is_cancelled_stops_and_goes_on_when_it_is_retried(
    kind: DeclareKind, bulk_worker: WorkerProcess, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = kind()
    submit_many(waits, [{}] * 9)
    started = start("cancel", kind=[waits.name])
    assert started.job is not None
    act = batches.act

    def cancelled_midway(*args: Any) -> Any:
        monkeypatch.setattr(batches, "act", act)
        raise Cancelled

    monkeypatch.setattr(batches, "act", cancelled_midway)
    submission.cancel(started.job.id)
    assert again(started.job).status == "CANCELLED"

    submission.retry(started.job.id)

    monkeypatch.setattr(batches, "act", act)
    assert finish(started, bulk_worker)["cancelled"] == 9


def test_a_batch_whose_doer_died_is_taken_by_another_later(kind: DeclareKind, unhelped: None) -> None:
    waits = kind()
    submit_many(waits, [{}])
    started = start("cancel", kind=[waits.name])
    assert started.job is not None
    asked = kind_named(BULK_ACTION).read_payload(started.job.payload)
    BulkBatch.objects.update(begun_at=timezone.now())

    actions.work_off(started.job.id, asked, check=lambda: None)
    assert not actions.is_done(started.job.id)

    BulkBatch.objects.update(begun_at=timezone.now() - timedelta(seconds=actions.BATCH_SECONDS + 1))
    actions.work_off(started.job.id, asked, check=lambda: None)
    assert actions.is_done(started.job.id)
