"""Completes leased jobs: one in the transaction that its handler has used, many that have used none together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from django.db import transaction

from orchestrator.attempt import session
from orchestrator.attempt.autocommit import Autocommit
from orchestrator.attempt.own_transaction import OwnTransaction
from orchestrator.database_errors import is_database_fault
from orchestrator.failpoints import Failpoint
from orchestrator.queue import endings
from orchestrator.queue.endings import Ended
from orchestrator.running import BaseRunningJob
from orchestrator.stops import Cancelled, LeaseLost, RowMoved
from orchestrator.telemetry import attempts
from orchestrator.worker import waiting
from orchestrator.worker.calling import end

lease_handled = Failpoint("lease-handled")
lease_completing = Failpoint("lease-completing")
lease_completed = Failpoint("lease-completed")
group_completing = Failpoint("group-completing")
group_completed = Failpoint("group-completed")

Transaction = OwnTransaction | Autocommit
"""What a handler has to commit with: one of its own, or what it likes."""

Returned = tuple[BaseRunningJob, str]
"""A job whose handler has returned, with its result as JSON."""


class NotEnded(BaseException):
    """The handler goes on, but needs no transaction for a while."""


def attempt(running: BaseRunningJob, own: Transaction, call: Callable[[], str]) -> str | None:
    """Runs the handler by `call` and completes the job, lets it wait for children, or ends the attempt. Returns the
    result if it has used no transaction, and is still to be completed. Raises NotEnded if `call` does.
    """
    try:
        result = _run_and_complete(running, own, call)
    # Whatever a handler raises is data about the attempt. A MemoryError or SystemExit that reached Celery would end
    # the worker together with its other jobs.
    except BaseException as error:
        session.clean()
        if isinstance(error, NotEnded):
            raise
        end(running, error)
        return None
    if result is None:
        own.run_hooks(str(running))
    return result


def _run_and_complete(running: BaseRunningJob, own: Transaction, call: Callable[[], str]) -> str | None:
    """Runs the handler and completes the job in one transaction, so that its writes are kept only if it completes.

    A kind may also keep what a cancelled job wrote.
    """
    job = running.row
    with own:
        try:
            result = call()
            if own.is_untouched and not running.awaits:
                return result
            lease_handled()
            running.keep_progress()
            own.use()
            with own.completing():
                if running.awaits:
                    waiting.wait_for_children(running, running.awaits, began_at=own.began_at)
                else:
                    endings.complete(job, result, began_at=own.began_at)
                    transaction.on_commit(partial(attempts.completed, running, result))
                lease_completing()
        except Cancelled:
            if running.kind.on_cancel == "rollback":
                raise
            if endings.end_attempt(job, Ended(None)) is None:
                raise LeaseLost from None
    lease_completed()
    return None


def complete_or_end(returned: Sequence[Returned]) -> None:
    """Completes the jobs, of one worker's row, outside any transaction, and ends the attempts of those that cannot be.

    If one of them is the cause, the others complete. Raises if the end of an attempt could not be recorded.
    """
    try:
        completed = complete(returned)
    except BaseException as error:
        session.clean()
        if len(returned) > 1 and not is_database_fault(error):
            for each in returned:
                complete_or_end([each])
        else:
            for running, _ in returned:
                end(running, error)
    else:
        report(returned, completed)


def complete(returned: Sequence[Returned]) -> set[UUID]:
    """Completes the jobs and returns the ids of those that still belonged to this worker. `report` comes after it."""
    group_completing()
    return endings.complete_together([running.row for running, _ in returned], [result for _, result in returned])


def report(returned: Sequence[Returned], completed: set[UUID]) -> None:
    """What follows after the commit."""
    group_completed()
    for running, result in returned:
        if running.row.id in completed:
            attempts.completed(running, result)
        else:
            end(running, RowMoved())
