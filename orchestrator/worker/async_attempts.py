"""An attempt at an async job: its handler runs on the event loop, its statements in a thread that it borrows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from asgiref.sync import ThreadSensitiveContext

from orchestrator.async_running import AsyncRunningJob
from orchestrator.attempt.autocommit import Autocommit
from orchestrator.attempt.own_transaction import OwnTransaction
from orchestrator.attempt.process_state import Raised
from orchestrator.failures import is_one_of
from orchestrator.stops import RowMoved, Stop
from orchestrator.telemetry import attempts
from orchestrator.worker import completions
from orchestrator.worker.completions import Transaction
from orchestrator.worker.database_threads import Statements

# How long what a handler has started, and left when it ended, may take to end when it is cancelled.
LEFT_TASKS_SECONDS = 2.0
# How often it is asked meanwhile.
ASK_SECONDS = 0.5


class Handled(NamedTuple):
    """What a handler returned, as JSON, or raised."""

    result: str
    error: BaseException | None = None


async def handle(running: AsyncRunningJob, statements: Statements) -> Handled:
    """Calls the handler, and ends what it leaves behind."""
    async with ThreadSensitiveContext(executor=statements):
        try:
            attempts.begun_in_task(running)
            handled = Handled(running.returned(await running.call()))
        # Whatever a handler raises is data about the attempt. It must not reach the loop, which some of it would end.
        except BaseException as error:
            handled = Handled("", error)
        if running.tasks:
            await _end_tasks(running)
    return handled


async def _end_tasks(running: AsyncRunningJob) -> None:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + LEFT_TASKS_SECONDS
    while (left := set(running.tasks)) and loop.time() < ends_at:
        for task in left:
            task.cancel("The handler has ended.")
        try:
            await asyncio.wait(left, timeout=min(ASK_SECONDS, ends_at - loop.time()))
        except asyncio.CancelledError:  # By what is left.
            continue
    if left:
        running.log.warning("%d tasks that the handler has left do not end when they are cancelled.", len(left))


def outcome_of(running: AsyncRunningJob, task: asyncio.Task[Handled]) -> str:
    """The handler's result as JSON. Raises the Stop that the handler was asked for, RowMoved, or Raised."""
    try:
        handled = task.result()
    except BaseException as cancelled:  # It has cancelled its own task.
        handled = Handled("", cancelled)
    error = handled.error
    if error is None:
        return handled.result
    if is_one_of(error, (RowMoved,)):
        raise RowMoved
    if running.stop_reason and _is_as_asked(error):
        raise running.stop_reason
    raise Raised(error)


def _is_as_asked(error: BaseException) -> bool:
    """Whether a handler that was asked to end raised this because of it; a task group gathers what its tasks raise."""
    if is_one_of(error, (BaseExceptionGroup,)):
        inner = BaseExceptionGroup.exceptions.__get__(error)
        return all(_is_as_asked(each) for each in inner)
    return is_one_of(error, (Stop, asyncio.CancelledError))


def attempt_in_thread(running: AsyncRunningJob, serve: Callable[[Transaction], str]) -> str | None:
    """Runs the statements of the attempt in this thread, and completes the job or ends the attempt as for other leased
    jobs. Returns the result of one that has used no transaction in the end, and is still to be completed.

    serve: runs statements until the handler has ended, and returns or raises as `outcome_of`; or raises NotEnded, as
    this does then.
    """
    own = OwnTransaction() if running.kind.atomic else Autocommit()
    running.uses(own)
    try:
        return completions.attempt(running, own, partial(own.call, partial(serve, own)))
    finally:
        running.uses(None)
        own.end()
