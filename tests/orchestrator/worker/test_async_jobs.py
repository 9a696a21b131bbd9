"""Async handlers: many at once on one event loop, with the guarantees of all leased jobs."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.test.utils import override_settings
from django.utils import translation

from orchestrator import submission
from orchestrator.async_running import AsyncRunningJob
from orchestrator.models import Job
from orchestrator.queue import endings
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import Interrupted
from orchestrator.submission import submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.kinds import mischief
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    is_in_order,
    pipeline,
    run,
    threads,
    write,
    written,
)


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Does it in another connection, as someone else does while a handler is at work."""
    with threads(1) as call:
        return call(function, *args).result()


async def aside(function: Callable[..., Any], *args: Any) -> Any:
    """The same, while the event loop goes on."""
    return await asyncio.to_thread(in_thread, function, *args)


async def awrite(name: str) -> None:
    await Group.objects.acreate(name=name)


async def never() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def few_slots(settings: Any) -> Any:
    """Four jobs at once, of which two have a transaction."""
    with override_settings(ENV=msgspec.structs.replace(settings.ENV, ASYNC_SLOTS=4, ASYNC_CONNECTIONS=2)):
        yield


def test_what_the_handler_returns_is_the_result(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def double(running: AsyncRunningJob, payload: dict[str, int]) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"double": payload["n"] * 2}

    doubling = kind(double, queue="io")
    job = submit(doubling, {"n": 4})

    ran = run(doubling, worker)

    job = again(job)
    assert ran == 1
    assert (job.status, job.result, job.attempt, job.error) == ("COMPLETED", {"double": 8}, 1, "")
    assert (job.worker_id, job.deadline_at) == (None, None)
    assert is_in_order(job.created_at, job.started_at, job.finished_at)


def test_many_wait_at_once_on_one_loop(kind: DeclareKind, worker: WorkerProcess) -> None:
    arrived, all_there = 0, asyncio.Event()

    async def meet(running: AsyncRunningJob) -> str:
        nonlocal arrived
        arrived += 1
        if arrived == 300:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), PATIENCE_SECONDS)
        return threading.current_thread().name

    meeting = kind(meet, queue="io")
    submit_many(meeting, [{} for _ in range(300)])

    assert run(meeting, worker) == 300

    assert set(Job.objects.values_list("status", "result")) == {("COMPLETED", "event-loop")}


def test_no_more_run_at_once_than_there_are_slots(few_slots: None, kind: DeclareKind, worker: WorkerProcess) -> None:
    now, most = 0, 0

    async def count(running: AsyncRunningJob) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    counting = kind(count, queue="io")
    submit_many(counting, [{} for _ in range(10)])

    ran = [run(counting, worker) for _ in range(3)]

    assert (ran, most) == ([4, 4, 2], 4)
    assert set(Job.objects.values_list("status", flat=True)) == {"COMPLETED"}


def test_writes_are_seen_by_others_only_with_the_completion(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> list[str]:
        await awrite("kept")
        await asyncio.sleep(0.01)
        return sorted(await aside(written))

    writing = kind(handler, queue="io")
    job = submit(writing)

    run(writing, worker)

    assert (again(job).result, written()) == ([], {"kept"})


def test_what_a_failed_attempt_wrote_is_rolled_back(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await awrite("not kept")
        raise ValueError("no")

    failing = kind(handler, queue="io", max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert (again(job).status, again(job).error, written()) == ("FAILED", "ValueError: no", set())
    assert "in handler" in again(job).attempts.get().traceback


def test_a_block_of_synchronous_code_is_part_of_the_transaction(kind: DeclareKind, worker: WorkerProcess) -> None:
    def undone() -> None:
        with transaction.atomic():
            write("undone")
            raise KeyError

    async def handler(running: AsyncRunningJob) -> None:
        await awrite("before")
        with pytest.raises(KeyError):
            await sync_to_async(undone)()
        await sync_to_async(write)("after")

    writing = kind(handler, queue="io")
    job = submit(writing)

    run(writing, worker)

    assert (again(job).status, written()) == ("COMPLETED", {"before", "after"})


def backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_transactions_at_the_same_time_have_connections_of_their_own(kind: DeclareKind, worker: WorkerProcess) -> None:
    backends: list[int] = []
    both = asyncio.Event()

    async def handler(running: AsyncRunningJob) -> None:
        backends.append(await sync_to_async(backend)())
        if len(backends) == 2:
            both.set()
        await asyncio.wait_for(both.wait(), PATIENCE_SECONDS)
        assert await sync_to_async(backend)() in backends
        await awrite(running.id)

    writing = kind(handler, queue="io", max_attempts=1)
    submit_many(writing, [{}, {}])

    run(writing, worker)

    assert len(set(backends)) == 2
    assert written() == {str(id) for id in Job.objects.filter(status="COMPLETED").values_list("id", flat=True)}
    assert len(written()) == 2


def test_who_wants_to_write_waits_for_a_connection(few_slots: None, kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await awrite(running.id)
        await asyncio.sleep(0.01)

    writing = kind(handler, queue="io", max_attempts=1)
    submit_many(writing, [{} for _ in range(4)])

    run(writing, worker)

    assert len(written()) == 4


def test_steps_give_their_connection_back(settings: Any, kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting, other_has_written = asyncio.Event(), asyncio.Event()

    async def handler(running: AsyncRunningJob, payload: str) -> int:
        if payload == "first":
            async with running.step(1, 2, "half"):
                await awrite("step")
            waiting.set()
            # If it kept the only connection, the other could not write.
            await asyncio.wait_for(other_has_written.wait(), PATIENCE_SECONDS)
            raise ValueError("after the step")
        await waiting.wait()
        async with running.step():
            await awrite("other")
        other_has_written.set()
        return running.done

    with override_settings(ENV=msgspec.structs.replace(settings.ENV, ASYNC_CONNECTIONS=1)):
        writing = kind(handler, queue="io", payload=str, max_attempts=1)
        first, second = (submit(writing, name) for name in ("first", "second"))
        run(writing, make_worker())

    assert written() == {"step", "other"}
    assert (again(first).error, again(first).progress_done) == ("ValueError: after the step", 1)
    assert again(second).status == "COMPLETED"


def test_a_step_of_a_worker_that_has_lost_the_job_is_not_kept(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await aside(declare_dead, worker.row_id)
        await aside(take_back_from_ended)
        async with running.step(1):
            await awrite("not kept")

    losing = kind(handler, queue="io")
    job = submit(losing)

    run(losing, worker)

    assert written() == set()
    assert again(job).status == "CREATED"


def test_inputs_are_the_results_of_what_it_waited_for(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def child(running: AsyncRunningJob) -> str:
        return running.row.name

    async def last(running: AsyncRunningJob) -> dict[str, Any]:
        return await running.inputs()

    step, parent = kind(child, queue="io"), kind(last, queue="io")
    job, _ = pipeline(parent, step, {"a": (), "b": ()})

    run(step, worker)
    run(parent, worker)

    assert again(job).result == {"a": "a", "b": "b"}


def test_progress_is_seen_while_it_waits(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> list[Any]:
        running.progress(3, 10, "waiting")
        await asyncio.to_thread(worker.heartbeat.beat)
        return [(await aside(Job.objects.get)).progress_done]

    reporting = kind(handler, queue="io")
    job = submit(reporting)

    run(reporting, worker)

    assert (again(job).result, again(job).progress_message) == ([3], "waiting")


@pytest.mark.parametrize(("on_cancel", "kept"), [("rollback", set()), ("keep", {"partial"})])
@pytest.mark.parametrize("wait", [never, lambda: asyncio.sleep(60)])
def test_a_cancelled_handler_ends_at_what_it_awaits_and_its_work_as_it_says(
    wait: Any, on_cancel: str, kept: set[str], kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await awrite("partial")
        await aside(submission.cancel, running.row.id)
        await wait()

    cancelled = kind(handler, queue="io", on_cancel=on_cancel)
    job = submit(cancelled)

    run(cancelled, live_worker)

    assert (again(job).status, again(job).error) == ("CANCELLED", "")
    assert written() == kept
    assert not again(job).attempts.exists()


def test_a_handler_that_swallows_the_request_to_end_is_asked_again(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    asked = 0

    async def handler(running: AsyncRunningJob) -> None:
        nonlocal asked
        while asked < 3:
            try:
                await aside(submission.cancel, running.row.id)
                await never()
            except asyncio.CancelledError:
                asked += 1
        await never()

    stubborn = kind(handler, queue="io")
    job = submit(stubborn)

    run(stubborn, live_worker)

    assert (again(job).status, asked) == ("CANCELLED", 3)


def test_a_handler_past_its_deadline_ends_at_what_it_awaits(kind: DeclareKind, live_worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await awrite("not kept")
        await never()

    slow = kind(handler, queue="io", timeout_seconds=0.1, max_attempts=1)
    job = submit(slow)

    run(slow, live_worker)

    assert (again(job).status, again(job).attempts.get().outcome) == ("FAILED", "TIMED_OUT")
    assert written() == set()


def test_a_draining_worker_hands_back_what_waits(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = asyncio.Event()

    async def handler(running: AsyncRunningJob) -> None:
        waiting.set()
        running.stop(Interrupted)
        await running.sleep(60)

    waits = kind(handler, queue="io")
    job = submit(waits)

    run(waits, worker)

    assert (again(job).status, again(job).ready, again(job).attempts.get().outcome) == ("CREATED", True, "INTERRUPTED")
    assert again(job).max_attempts == 4


def test_a_handler_that_ends_although_it_was_asked_to_stop_completes(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> str:
        running.stop(Interrupted)
        try:
            await never()
        except asyncio.CancelledError:
            await awrite("cleaned up")
        return "done all the same"

    finishing = kind(handler, queue="io")
    job = submit(finishing)

    run(finishing, worker)

    assert (again(job).status, again(job).result, written()) == ("COMPLETED", "done all the same", {"cleaned up"})


def test_a_task_group_that_is_asked_to_end_ends_as_asked(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        async def part() -> None:
            await asyncio.sleep(0.01)
            running.check()

        async with asyncio.TaskGroup() as group:
            group.create_task(part())
            running.stop(Interrupted)
            group.create_task(never())

    grouped = kind(handler, queue="io")
    job = submit(grouped)

    run(grouped, worker)

    assert again(job).attempts.get().outcome == "INTERRUPTED"


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("no"),
    "MemoryError": lambda: MemoryError("too much"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "CancelledError": asyncio.CancelledError,
    "an unasked Stop": Interrupted,
    "no text": mischief.Mute,
    "no class": mischief.Shifty,
    "no name": mischief.Anonymous,
}


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("writes", [False, True])
def test_whatever_a_handler_raises_ends_the_attempt_alone(
    name: str, writes: bool, kind: DeclareKind, worker: WorkerProcess
) -> None:
    async def handler(running: AsyncRunningJob, payload: bool) -> str:
        if not payload:
            return "fine"
        if writes:
            await awrite("not kept")
        raise RAISED[name]()

    failing = kind(handler, queue="io", payload=bool, max_attempts=1)
    bad, good = submit(failing, True), submit(failing, False)

    run(failing, worker)

    assert (again(bad).status, again(good).status) == ("FAILED", "COMPLETED")
    assert written() == set()


def test_a_handler_that_cancels_its_own_task_has_failed(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()

    cancelling = kind(handler, queue="io", max_attempts=1)
    job = submit(cancelling)

    run(cancelling, worker)

    assert (again(job).status, again(job).error) == ("FAILED", "CancelledError: ")


def test_a_result_that_cannot_be_kept_fails_the_attempt(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> Any:
        return object()

    failing = kind(handler, queue="io", max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert again(job).error.startswith("TypeError: Encoding objects of type object is unsupported")


def test_what_a_handler_leaves_behind_is_cancelled_and_awaited(kind: DeclareKind, worker: WorkerProcess) -> None:
    ended: list[str] = []

    async def left() -> None:
        try:
            await never()
        finally:
            await asyncio.sleep(0.01)
            ended.append("cleaned up")

    async def handler(running: AsyncRunningJob) -> None:
        await awrite("kept")
        running.left = asyncio.create_task(left())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    leaving = kind(handler, queue="io")
    job = submit(leaving)

    run(leaving, worker)

    assert (again(job).status, ended, written()) == ("COMPLETED", ["cleaned up"], {"kept"})


def test_what_does_not_end_delays_its_job_only_for_a_while(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.worker.async_attempts.LEFT_TASKS_SECONDS", 0.1)
    refused: list[str] = []
    give_up = threading.Event()

    async def stubborn() -> None:
        while not give_up.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        try:
            await awrite("too late")
        except RuntimeError as error:
            refused.append(str(error))

    async def handler(running: AsyncRunningJob) -> None:
        running.left = asyncio.create_task(stubborn())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    async def later(running: AsyncRunningJob) -> None:
        give_up.set()
        await asyncio.sleep(0.1)

    leaving, checking = kind(handler, queue="io"), kind(later, queue="io")
    job = submit(leaving)
    submit(checking)

    run(leaving, worker)
    run(checking, worker)

    assert (again(job).status, written(), len(refused)) == ("COMPLETED", set(), 1)
    assert "do not end" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_that_would_end_the_loop_does_not(
    error: type[BaseException], kind: DeclareKind, worker: WorkerProcess
) -> None:
    async def explode() -> None:
        raise error

    async def handler(running: AsyncRunningJob) -> None:
        task = asyncio.create_task(explode())
        await asyncio.wait([task])
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)

    exploding = kind(handler, queue="io")
    job = submit(exploding)

    run(exploding, worker)

    assert again(job).status == "COMPLETED"


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_handlers_have_contexts_of_their_own(kind: DeclareKind, worker: WorkerProcess) -> None:
    def now() -> list[Any]:
        return [variable.get(), decimal.getcontext().prec, translation.get_language(), logging.root.manager.disable]

    async def handler(running: AsyncRunningJob) -> list[Any]:
        found = now()
        variable.set("set")
        decimal.getcontext().prec = 3
        translation.activate("de")
        logging.disable(logging.CRITICAL)
        await asyncio.sleep(0)
        return found

    changing = kind(handler, queue="io")
    first = submit(changing)
    run(changing, worker)
    second = submit(changing)
    run(changing, worker)

    assert again(first).result == again(second).result
    assert logging.root.manager.disable == 0


@pytest.mark.parametrize("in_database_thread", [False, True])
def test_a_child_that_a_handler_forks_does_not_run_the_jobs_again(
    in_database_thread: bool, kind: DeclareKind, worker: WorkerProcess
) -> None:
    async def handler(running: AsyncRunningJob) -> int:
        pid = await sync_to_async(os.fork)() if in_database_thread else os.fork()
        await asyncio.sleep(0)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        return os.waitstatus_to_exitcode(status)

    forking = kind(handler, queue="io")
    job = submit(forking)

    run(forking, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", 1)


def test_who_blocks_the_loop_is_logged_with_the_stack(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.worker.event_loop.BLOCKED_SECONDS", 0.05)
    monkeypatch.setattr("orchestrator.worker.event_loop.LOOK_SECONDS", 0.01)

    async def handler(running: AsyncRunningJob) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "blocked the event loop" not in caplog.text and time.monotonic() < deadline:
            blocks_here()

    def blocks_here() -> None:
        time.sleep(0.01)

    blocking = kind(handler, queue="io")
    job = submit(blocking)

    run(blocking, worker)

    assert f"{blocking.name} {job.id} has blocked the event loop" in caplog.text
    assert "in blocks_here" in caplog.text


def test_jobs_that_used_no_transaction_are_completed_together(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await asyncio.sleep(0.05)

    quick = kind(handler, queue="io")
    submit_many(quick, [{} for _ in range(100)])

    run(quick, worker)

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT xmin::text), count(*) FROM orchestrator_job WHERE status = 'COMPLETED'")
        transactions, completed = cursor.fetchone()
    assert completed == 100
    assert transactions < 20


def test_a_group_that_cannot_be_completed_ends_as_its_jobs_would_alone(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async def handler(running: AsyncRunningJob) -> None:
        pass

    quick = kind(handler, queue="io", backoff_seconds=0)
    submit_many(quick, [{} for _ in range(5)])

    with monkeypatch.context() as failing:
        failing.setattr(endings, "complete_together", fail)
        run(quick, worker)

    assert set(Job.objects.values_list("attempts__outcome", flat=True)) == {"UNAVAILABLE"}
    assert set(Job.objects.values_list("status", flat=True)) == {"CREATED"}


def test_a_kind_that_is_not_atomic_keeps_what_it_wrote_and_no_connection(
    settings: Any, kind: DeclareKind, make_worker: MakeWorker
) -> None:
    waiting, other_has_written = asyncio.Event(), asyncio.Event()

    async def handler(running: AsyncRunningJob, payload: str) -> None:
        if payload == "first":
            await awrite("first")
            waiting.set()
            # If it kept the only connection, the other could not write.
            await asyncio.wait_for(other_has_written.wait(), PATIENCE_SECONDS)
            raise ValueError("after it was written")
        await waiting.wait()
        await awrite("other")
        other_has_written.set()

    with override_settings(ENV=msgspec.structs.replace(settings.ENV, ASYNC_CONNECTIONS=1)):
        writing = kind(handler, queue="io", payload=str, atomic=False, max_attempts=1)
        first, second = (submit(writing, name) for name in ("first", "second"))
        run(writing, make_worker())

    assert (again(first).error, again(second).status) == ("ValueError: after it was written", "COMPLETED")
    assert written() == {"first", "other"}


def test_a_step_of_a_kind_that_is_not_atomic_is_a_transaction(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob) -> list[str]:
        async with running.step(1):
            await awrite("kept")
            await asyncio.sleep(0.01)
            seen = await aside(written)
        with suppress(KeyError):
            async with running.step(2):
                await awrite("not kept")
                raise KeyError
        await awrite("by itself")
        return sorted(seen)

    stepping = kind(handler, queue="io", atomic=False)
    job = submit(stepping)

    run(stepping, worker)

    assert (again(job).result, again(job).progress_done, written()) == ([], 1, {"kept", "by itself"})


def test_a_transaction_that_waits_for_long_is_warned_about(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.running.IDLE_SECONDS", 0.01)

    async def handler(running: AsyncRunningJob) -> None:
        await awrite("kept")
        await asyncio.sleep(0.05)
        beating = asyncio.create_task(asyncio.to_thread(worker.heartbeat.beat))
        await asyncio.wait([beating])  # Here it waits.

    idle = kind(handler, queue="io")
    submit(idle)

    run(idle, worker)

    assert "has had its transaction open" in caplog.text


def test_hooks_run_after_the_commit(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen: list[str] = []

    def write_with_hook() -> None:
        write("kept")
        transaction.on_commit(lambda: seen.extend(in_thread(written)))

    async def handler(running: AsyncRunningJob) -> None:
        await sync_to_async(write_with_hook)()

    hooked = kind(handler, queue="io")
    submit(hooked)

    run(hooked, worker)

    assert seen == ["kept"]


@pytest.mark.parametrize(
    "misuse",
    [lambda: connection.connection.commit(), lambda: connection.close(), lambda: transaction.atomic().__enter__()],
)
def test_a_transaction_that_is_ended_by_the_handler_fails_the_attempt(
    misuse: Callable[[], Any], kind: DeclareKind, worker: WorkerProcess
) -> None:
    async def handler(running: AsyncRunningJob) -> None:
        await Group.objects.acount()
        await sync_to_async(misuse)()

    misusing = kind(handler, queue="io", max_attempts=1)
    job = submit(misusing)

    run(misusing, worker)

    assert again(job).error.startswith("ConnectionMisused")


def test_a_job_that_was_taken_back_meanwhile_is_not_completed(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(running: AsyncRunningJob) -> str:
        await aside(declare_dead, worker.row_id)
        await aside(take_back_from_ended)
        return "too late"

    losing = kind(handler, queue="io")
    job = submit(losing)

    run(losing, worker)

    assert (again(job).status, again(job).result) == ("CREATED", None)
    assert "no longer belongs to this worker" in caplog.text


def test_one_that_waits_for_a_connection_can_be_cancelled(
    settings: Any, kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    holding, release = asyncio.Event(), asyncio.Event()

    async def handler(running: AsyncRunningJob, payload: str) -> None:
        if payload == "holds":
            await awrite("held")
            holding.set()
            await asyncio.wait_for(release.wait(), PATIENCE_SECONDS)
            return
        await holding.wait()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(awrite("never"))
                await aside(submission.cancel, running.row.id)
        finally:
            release.set()

    with override_settings(ENV=msgspec.structs.replace(settings.ENV, ASYNC_CONNECTIONS=1)):
        waiting = kind(handler, queue="io", payload=str)
        holds, waits = submit(waiting, "holds"), submit(waiting, "waits")
        run(waiting, live_worker)

    assert (again(holds).status, again(waits).status, written()) == ("COMPLETED", "CANCELLED", {"held"})
