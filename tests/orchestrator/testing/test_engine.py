"""Jobs run in the test's own process, through the real engine."""

from __future__ import annotations

import time
import traceback
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.utils import timezone

from orchestrator.async_running import AsyncRunningJob
from orchestrator.models import Job, Worker
from orchestrator.models import Kind as KindRow
from orchestrator.running import RunningJob
from orchestrator.submission import Child, cancel, submit, submit_many
from orchestrator.testing import InsideTransaction, NotCompleted, NotFinished, drain, run_now
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    again,
    make_due,
    pipeline,
    threads,
    write,
    written,
)

threaded = pytest.mark.django_db(transaction=True)
# By then even a busy machine has claimed the job.
CLAIMED_BY_SECONDS = 5
inside_transaction = pytest.mark.django_db


def raises(job: RunningJob) -> None:
    write(f"by attempt {job.attempt}")
    raise LookupError("no such user")


def raises_at_first(job: RunningJob) -> str:
    if job.attempt < 3:
        raises(job)
    return f"by attempt {job.attempt}"


def cancel_elsewhere(job: RunningJob) -> None:
    """As another process does, in a transaction of its own."""
    with threads(1) as call:
        call(cancel, job.row.id).result(PATIENCE_SECONDS)


def raises_once_cancelled(job: RunningJob) -> None:
    cancel_elsewhere(job)
    raises(job)


@threaded
def test_async_jobs_run_with_their_retries_and_what_they_submit(kind: DeclareKind) -> None:
    async def child(job: AsyncRunningJob) -> int:
        await Group.objects.acreate(name=f"by attempt {job.attempt}")
        if job.attempt == 1:
            raise LookupError("not yet")
        return job.attempt

    counting = kind(child, queue="io")

    async def parent(job: AsyncRunningJob) -> int:
        await sync_to_async(submit)(counting)
        return 5

    assert run_now(kind(parent, queue="io")) == 5
    drain()

    assert (Job.objects.get(kind=counting.name).result, written()) == (2, {"by attempt 2"})


@threaded
def test_run_now_raises_what_an_async_handler_raised(kind: DeclareKind) -> None:
    async def child(job: AsyncRunningJob) -> None:
        raise LookupError("no such user")

    with pytest.raises(LookupError, match="no such user"):
        run_now(kind(child, queue="io", max_attempts=1))


@threaded
def test_an_async_handler_is_asked_to_end_at_the_limit(kind: DeclareKind) -> None:
    async def waits(job: AsyncRunningJob) -> None:
        await job.sleep(60)

    with pytest.raises(NotFinished):
        run_now(kind(waits, queue="io"), limit_seconds=CLAIMED_BY_SECONDS / 5)


@threaded
@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_run_now_returns_the_result_as_it_is_stored(kind: DeclareKind, execution: Any) -> None:
    doubling = kind(lambda job, payload: (payload, 2 * payload), payload=int, execution=execution)

    assert run_now(doubling, 21, owner="ada") == [21, 42]
    assert Job.objects.get().owner == "ada"


@threaded
@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_run_now_raises_what_the_handler_raised(kind: DeclareKind, execution: Any) -> None:
    with pytest.raises(LookupError, match="no such user") as caught:
        run_now(kind(raises, execution=execution, max_attempts=2))

    assert "raises" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert Job.objects.get().attempt == 2
    assert not written()


@threaded
def test_run_now_tries_again_at_once_what_may_be_tried_again(kind: DeclareKind) -> None:
    failing = kind(raises_at_first, backoff_seconds=3_600)

    assert run_now(failing) == "by attempt 3"


@threaded
def test_a_retry_whose_time_comes_just_after_the_look_for_due_jobs_is_not_overlooked(
    kind: DeclareKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due_ready = tick.make_due_ready

    def looks_just_before() -> None:
        make_due_ready()
        make_due(*Job.objects.filter(status="CREATED", ready=False))

    monkeypatch.setattr(tick, "make_due_ready", looks_just_before)
    failing = kind(raises_at_first)
    submit(failing)

    drain()

    assert Job.objects.get().status == "COMPLETED"
    assert run_now(failing) == "by attempt 3"


@threaded
@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_what_a_kind_declares_for_failures_is_called(kind: DeclareKind, execution: Any) -> None:
    failing = kind(
        raises,
        max_attempts=2,
        execution=execution,
        on_retry=lambda job, error: write(f"{error}, once more"),
        on_failure=lambda job, error: write(f"{error}, no more"),
    )

    with pytest.raises(LookupError, match="no such user"):
        run_now(failing)

    assert written() == {"LookupError: no such user, once more", "LookupError: no such user, no more"}


@threaded
def test_drain_runs_what_is_submitted_after_a_failure(kind: DeclareKind) -> None:
    instead = kind(lambda job: write("instead"))
    submit(kind(raises, max_attempts=1, on_failure=lambda job, error: submit(instead)))

    drain()

    assert written() == {"instead"}


@threaded
def test_run_now_leaves_other_jobs_alone(kind: DeclareKind) -> None:
    doubling = kind(lambda job: 2 * job.payload, payload=int, execution="transactional", priority=0)
    submit_many(doubling, [1, 2, 3])

    assert run_now(doubling, 4) == 8
    assert Job.objects.filter(status="COMPLETED").count() == 1


@threaded
def test_run_now_runs_the_children_first(kind: DeclareKind) -> None:
    doubling = kind(lambda job: 2 * job.payload, payload=int)
    adding = kind(lambda job: sum(job.inputs.values()))
    children = [Child(name=str(n), kind=doubling.name, payload=n) for n in (1, 2)]

    assert run_now(adding, children=children) == 6


@threaded
def test_run_now_raises_what_the_handler_of_a_child_raised(kind: DeclareKind) -> None:
    children = [Child(name="first", kind=kind(raises, max_attempts=1).name)]

    with pytest.raises(LookupError, match="no such user"):
        run_now(kind(), children=children)


@threaded
def test_run_now_says_why_a_job_was_not_completed(kind: DeclareKind) -> None:
    unstorable = kind(lambda job: float("nan"), max_attempts=1)
    cancelled = kind(raises_once_cancelled)
    paused = kind()
    KindRow.objects.create(name=paused.name, queue="default", paused_at=timezone.now())

    with pytest.raises(NotCompleted, match="is FAILED: NotFinite"):
        run_now(unstorable)
    with pytest.raises(NotCompleted, match="is CANCELLED"):
        run_now(cancelled)
    with pytest.raises(NotCompleted, match="is CREATED: it was not claimed; is its kind paused"):
        run_now(paused)


@threaded
def test_an_earlier_error_is_not_raised_for_a_later_one_of_another_kind(kind: DeclareKind) -> None:
    def moody(job: RunningJob) -> float:
        if job.attempt == 1:
            raise LookupError
        return float("nan")

    with pytest.raises(NotCompleted, match="NotFinite"):
        run_now(kind(moody, max_attempts=2))


@threaded
def test_pytest_fail_in_a_handler_fails_the_test(kind: DeclareKind) -> None:
    with pytest.raises(pytest.fail.Exception, match="not here"):
        run_now(kind(lambda job: pytest.fail("not here")))
    submit(kind(lambda job: pytest.fail("nor here")))
    with pytest.raises(pytest.fail.Exception, match="nor here"):
        drain()


@threaded
def test_drain_runs_what_is_ready_with_children_retries_and_what_they_submit(kind: DeclareKind) -> None:
    step = kind(raises_at_first, backoff_seconds=3_600)
    batch = kind(lambda job: None, execution="transactional")
    last = kind(lambda job: str(submit(batch).id))
    parent, _ = pipeline(last, step, {"one": (), "other": ("one",)})

    drain()

    assert again(parent).status == "COMPLETED"
    assert Job.objects.filter(status="COMPLETED").count() == Job.objects.count() == 4


@threaded
def test_drain_fails_what_fails_for_good_with_the_rest_of_its_pipeline(kind: DeclareKind) -> None:
    parent, children = pipeline(kind(), kind(raises, max_attempts=2), {"one": (), "other": ("one",)})

    drain()

    assert again(parent).status == "FAILED"
    assert [again(child).status for child in children.values()] == ["FAILED", "CANCELLED"]


@threaded
def test_drain_leaves_jobs_of_the_future_and_of_paused_kinds(kind: DeclareKind) -> None:
    future = submit(kind(), run_at=timezone.now() + timedelta(hours=1))
    paused = kind()
    KindRow.objects.create(name=paused.name, queue="default", paused_at=timezone.now())
    submit(paused)

    drain()

    assert {job.status for job in Job.objects.all()} == {"CREATED"}
    assert again(future).run_at == future.run_at


@threaded
def test_drain_is_not_ended_by_the_time_slice(kind: DeclareKind, settings: Any) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, TIME_SLICE_SECONDS=0)
    submit_many(kind(), [{}, {}, {}])

    drain()

    assert Job.objects.filter(status="COMPLETED").count() == 3


@threaded
def test_drain_names_what_is_left_after_the_limit(kind: DeclareKind) -> None:
    endless = kind(lambda job: str(submit(job.kind).id))
    job = submit(endless)

    with pytest.raises(NotFinished, match=r"drain\(\) did not finish within 0.2 s") as caught:
        drain(limit_seconds=0.2)

    assert again(job).status == "COMPLETED"
    assert endless.name in str(caught.value)
    assert "(CREATED, attempt 0)" in str(caught.value)


@threaded
def test_a_handler_is_asked_to_end_at_the_limit(kind: DeclareKind) -> None:
    job = submit(kind(lambda job: job.sleep(3_600)))
    began_at = time.monotonic()

    with pytest.raises(NotFinished, match=str(job.id)):
        drain(limit_seconds=CLAIMED_BY_SECONDS)

    assert time.monotonic() - began_at < 60
    assert again(job).attempts.get().outcome == "INTERRUPTED"


@threaded
def test_run_now_names_only_what_is_left_of_its_own_job(kind: DeclareKind) -> None:
    other = submit(kind())

    with pytest.raises(NotFinished, match=r"^run_now\(\) .* Left: .* \(CREATED, attempt 1\)") as caught:
        run_now(kind(lambda job: job.sleep(3_600)), limit_seconds=CLAIMED_BY_SECONDS)

    assert str(other.id) not in str(caught.value)


@threaded
def test_the_worker_of_a_test_notices_a_cancellation_when_its_heart_beats(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def works(job: RunningJob) -> None:
        cancel_elsewhere(job)
        job.check()
        worker.heartbeat.beat()
        job.check()
        pytest.fail("It goes on though it is cancelled.")

    job = submit(kind(works))

    drain(worker=worker)

    assert again(job).status == "CANCELLED"


@threaded
def test_the_process_is_no_worker_any_more_afterwards(kind: DeclareKind) -> None:
    run_now(kind())

    assert Worker.objects.get().ended_at


@inside_transaction
def test_jobs_are_not_run_inside_the_tests_own_transaction(kind: DeclareKind) -> None:
    with pytest.raises(InsideTransaction, match=r"run_now\(\) .*django_db\(transaction=True\)"):
        run_now(kind())
    with pytest.raises(InsideTransaction, match=r"drain\(\) "):
        drain()

    assert not Job.objects.exists()
