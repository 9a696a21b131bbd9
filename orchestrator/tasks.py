"""What Celery calls: the doorbell of each kind, the tick, and the turning points in the life of a worker process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from typing import Any

from celery import current_app, shared_task, signals
from celery.worker.state import active_requests
from django.conf import settings
from django.db import close_old_connections

from orchestrator import database_errors
from orchestrator.kinds import Kind, for_each_kind, kind_named
from orchestrator.queue import bell
from orchestrator.telemetry import attempts
from orchestrator.upkeep import tick as upkeep_tick
from orchestrator.worker import deadlines
from orchestrator.worker import process as worker_process
from orchestrator.worker.consumer_stall import ConsumerStall
from orchestrator.worker.poller import Poller
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.retirement import Retirement
from orchestrator.worker.runner import handle_bell, run_ready
from orchestrator.worker.shared_claims import IdleSlots
from orchestrator.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

# How long a child that ends waits until its last bells are rung; the tick rings those that are not.
LAST_BELL_SECONDS = 1.0

# The Celery worker this process belongs to, and the id of its main process; a forked child inherits them.
_celery_worker: Any = None
_celery_pid = 0
_poller: Poller | None = None
_watchdog: Watchdog | None = None


def run_ready_jobs(self: bell.Doorbell, *args: Any, **kwargs: Any) -> None:
    """What the Celery task of each kind does. Arguments it does not know come from newer senders."""
    handle_bell(kind_named(self.name))


@for_each_kind
def register_doorbell(kind: Kind) -> None:
    """Makes the Celery task of the kind's name: of one function, so that a kind may be declared again."""
    shared_task(name=kind.name, bell_queue=kind.queue, bind=True, base=bell.Doorbell)(run_ready_jobs)


@shared_task(name="orchestrator.tick", base=bell.Doorbell, bell_queue=settings.CONTROL_QUEUE)
def tick(*args: Any, **kwargs: Any) -> None:
    """Beat's message, every second. Merged like all bells, so that ticks do not pile up while no worker is free."""
    bell.mark_received("orchestrator.tick")
    process = worker_process.current_process()
    with process.slots if process else nullcontext():
        upkeep_tick.run_parts()


@signals.celeryd_init.connect
def refuse_unknown_queues(options: dict[str, Any], **_: Any) -> None:
    """Celery would say so at the end of a page of traceback."""
    served = [queue.name for queue in current_app.conf.task_queues]
    asked = options.get("queues") or []
    for name in asked.split(",") if isinstance(asked, str) else asked:
        if name not in served:
            sys.exit(f"Muster does not start: -Q names {name!r}, which is none of its queues: {', '.join(served)}.")


@signals.worker_init.connect
def give_declared_pool(sender: Any, **_: Any) -> None:
    """A Celery worker is about to make its pool; those that Celery makes for tests keep their own."""
    # Not above, since what they import is of use to a Celery worker alone.
    from celery.apps.worker import Worker

    from orchestrator.worker import pools

    if isinstance(sender, Worker):
        pools.give_declared_pool(sender)


@signals.celeryd_after_setup.connect
def start_main(sender: str, instance: Any, **_: Any) -> None:
    """A Celery worker begins, and has no broker yet. With any pool but prefork this process runs the jobs itself."""
    # Not above, since what it imports is of use to a Celery worker's main process alone.
    from orchestrator.worker import remote_control  # noqa: F401

    global _celery_worker, _celery_pid
    _celery_worker, _celery_pid = instance, os.getpid()
    if not _has_children():
        _start_process()


@signals.worker_before_create_process.connect
def share_memory(**_: Any) -> None:
    """Keeps the garbage collector, ours and the child's, from writing to objects that both could go on sharing."""
    gc.freeze()


@signals.worker_process_init.connect
def start_child(**_: Any) -> None:
    """A child of the prefork pool begins. The solo pool sends this, too, before there is a worker to speak of."""
    if _celery_worker and _has_children():
        _start_process()


@signals.task_prerun.connect
def outlive_sigterm(**_: Any) -> None:
    """A busy child that gets SIGTERM, alone or with its whole process group, drains instead of dying at once.

    Billiard sets its own handler after `worker_process_init`, so this is the first moment that lasts.
    """
    if _has_children() and signal.getsignal(signal.SIGTERM) is not _drain_on_signal:
        signal.signal(signal.SIGTERM, _drain_on_signal)


@signals.task_prerun.connect
def renew_connection(**_: Any) -> None:
    """As before a request: a connection that is old or has broken is not used again."""
    close_old_connections()


@signals.task_failure.connect
def leave_read_only(exception: BaseException, **_: Any) -> None:
    database_errors.leave_read_only(exception)


@signals.task_prerun.connect
def task_began(**_: Any) -> None:
    if process := worker_process.current_process():
        process.slots.task_began()


@signals.task_postrun.connect
def task_ended(**_: Any) -> None:
    if process := worker_process.current_process():
        process.slots.task_ended()


@signals.worker_shutting_down.connect
def drain(**_: Any) -> None:
    """Celery waits for what runs, for as long as it takes; draining sees to it that this is not for long.

    A busy child may not know yet; an idle one ends by itself when the pool is closed.
    """
    worker_process.drain_current()
    if _has_children():
        for pid in {request.worker_pid for request in active_requests if request.worker_pid}:
            os.kill(pid, signal.SIGTERM)


def _drain_on_signal(*_: Any) -> None:
    worker_process.drain_current()


@signals.worker_process_shutdown.connect
def end_child(exitcode: int, **_: Any) -> None:
    """The main process sends SIGTERM to a child that says it ends, which then need not wait for it any longer."""
    end()
    # What it was rung for and did not claim any more.
    bell.wait_until_rung(LAST_BELL_SECONDS)
    if _has_children():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(exitcode))


@signals.worker_shutdown.connect
def end(**_: Any) -> None:
    if process := worker_process.current_process():
        end_process(process, _poller)
        attempts.stop_reporting()
        if _watchdog:
            _watchdog.stop()


def end_process(process: WorkerProcess, poller: Poller | None) -> None:
    process.drain()
    if poller:
        poller.join()
    process.async_jobs.wait_until_idle(deadlines.longest_drain_seconds())
    process.end()


def _start_process() -> None:
    global _poller, _watchdog
    slots = 1 if _has_children() else _celery_worker.pool.limit
    queues = sorted(_celery_worker.app.amqp.queues.consume_from)
    attempts.start_reporting(_celery_worker.app, _celery_worker.hostname)
    process = worker_process.start_process(_celery_worker.hostname, queues, slots)
    bell.takes_bell = process.takes_bell
    consumer_stall = ConsumerStall(process, _celery_pid)
    if hasattr(_celery_worker.pool, "executor"):
        # A pool of threads. It may not have begun yet, so it is asked for its threads when one is wanted.
        process.idle_slots = IdleSlots(
            process.slots,
            submit=lambda work: _celery_worker.pool.executor.submit(work),
            run_ready=lambda kind: run_ready(kind, process),
        )
    if _has_children():
        process.process_end.before_exit = partial(make_sure_of_a_successor, consumer_stall)
        process.retirement = Retirement(
            _celery_worker.hostname,
            max_jobs=_celery_worker.max_tasks_per_child,
            max_memory=_celery_worker.max_memory_per_child,
            watches_files=True,
            can_be_replaced=consumer_stall.reaches_broker,
        )
    _poller = Poller(process, consumer_stall).start()
    _watchdog = Watchdog().start()


def make_sure_of_a_successor(consumer_stall: ConsumerStall) -> None:
    """Without a broker the main process replaces no child, so its supervisor has to replace them all."""
    if not consumer_stall.reaches_broker():
        consumer_stall.end_worker()


def _has_children() -> bool:
    return getattr(_celery_worker.pool_cls, "has_children", False)
