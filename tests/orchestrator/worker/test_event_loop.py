"""What an async handler does to the event loop that it shares with the others of its process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from orchestrator.models import Job
from orchestrator.running import Interrupted
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, again, run


class Neighbour:
    """A handler that waits in a task which it has started, until its neighbour has ended."""

    def __init__(self) -> None:
        self.waits, self.goes_on = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> str:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._wait())
        return task.result()

    async def _wait(self) -> str:
        self.waits.set()
        await asyncio.wait_for(self.goes_on.wait(), PATIENCE_SECONDS)
        return await asyncio.create_task(asyncio.to_thread(lambda: "right"))


@pytest.fixture
def beside_a_good_job(kind: DeclareKind, worker: WorkerProcess) -> Callable[[Callable[[Any], Awaitable[Any]]], Job]:
    """Runs a bad handler while a good one waits, which must complete; returns the bad job."""

    def run_both(bad: Callable[[Any], Awaitable[Any]]) -> Job:
        neighbour = Neighbour()

        async def handler(running: Any, payload: str) -> Any:
            if payload == "good":
                return await neighbour()
            await neighbour.waits.wait()
            running.task.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(neighbour.goes_on.set))
            return await bad(running)

        both = kind(handler, queue="io", payload=str, max_attempts=1)
        good, job = submit(both, "good"), submit(both, "bad")
        run(both, worker)
        assert (again(good).status, again(good).result, again(good).attempts.count()) == ("COMPLETED", "right", 0)
        return again(job)

    return run_both


async def cancel_all(running: Any) -> None:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


async def cancel_from_a_task(running: Any) -> None:
    await asyncio.create_task(cancel_all(running))


async def cancel_by_the_loop(running: Any) -> None:
    for task in asyncio.all_tasks() - {running.task}:
        asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.sleep(0)


async def cancel_in_a_thread(running: Any) -> None:
    loop = asyncio.get_running_loop()
    for task in asyncio.all_tasks() - {running.task}:
        await asyncio.to_thread(partial(loop.call_soon_threadsafe, task.cancel))
    await asyncio.sleep(0)


@pytest.mark.parametrize("cancels", [cancel_all, cancel_from_a_task])
def test_a_handler_that_cancels_all_tasks_fails_alone(cancels: Any, beside_a_good_job: Any) -> None:
    bad = beside_a_good_job(cancels)

    assert bad.status == "FAILED"
    assert "This task is another job's." in bad.error


@pytest.mark.parametrize("cancels", [cancel_by_the_loop, cancel_in_a_thread])
def test_tasks_that_are_cancelled_by_another_job_later_go_on(cancels: Any, beside_a_good_job: Any) -> None:
    assert beside_a_good_job(cancels).status == "COMPLETED"


def test_a_handler_that_is_asked_to_end_while_it_waits_for_all_tasks_ends_alone(beside_a_good_job: Any) -> None:
    async def waits(running: Any) -> None:
        running.stop(Interrupted)
        await asyncio.wait(asyncio.all_tasks() - {running.task})

    assert beside_a_good_job(waits).attempts.get().outcome == "INTERRUPTED"


async def end_default_executor(running: Any) -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


async def close_own_executor(running: Any) -> None:
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)


async def set_task_factory(running: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coroutine, **options: None)


async def stop_the_loop(running: Any) -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("changes", [end_default_executor, close_own_executor, set_task_factory, stop_the_loop])
def test_what_a_handler_changes_of_its_loop_ends_with_its_job(changes: Any, beside_a_good_job: Any) -> None:
    assert beside_a_good_job(changes).status == "COMPLETED"
