"""What Celery calls besides kinds: the tick, and the turning points in the life of a worker process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from contextlib import nullcontext
from typing import Any

from celery import signals
from celery.worker.state import active_requests
from django.db import close_old_connections

from config.celery import CONTROL_QUEUE, app
from orchestrator import bell, upkeep, workers
from orchestrator.scout import Scout

logger = logging.getLogger(__name__)

# The Celery worker this process belongs to, and the id of its main process; a forked child inherits them.
_celery_worker: Any = None
_celery_pid = 0
_scout: Scout | None = None


# No events: a tick a second would push everything else out of Flower's list.
@app.task(name="orchestrator.tick", base=bell.Doorbell, answered_in=CONTROL_QUEUE, send_events=False)
def tick(*args: Any, **kwargs: Any) -> None:
    """Beat's message, every second. Merged like any other bell, so that ticks do not pile up while nobody answers."""
    bell.mark_answered("orchestrator.tick")
    process = workers.current_process()
    with process.slots if process else nullcontext():
        upkeep.tick()


@signals.celeryd_init.connect
def refuse_unknown_queues(options: dict[str, Any], **_: Any) -> None:
    """Celery would say so at the end of a page of traceback."""
    served = [queue.name for queue in app.conf.task_queues]
    asked = options.get("queues") or []
    for name in asked.split(",") if isinstance(asked, str) else asked:
        if name not in served:
            sys.exit(f"Muster does not start: -Q names {name!r}, which is none of its queues: {', '.join(served)}.")


@signals.celeryd_after_setup.connect
def start_main(sender: str, instance: Any, **_: Any) -> None:
    """A Celery worker begins, and has no broker yet. With any pool but prefork this process runs the jobs itself."""
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
    """A busy child that is told to stop, alone or with its whole process group, drains instead of dying at once.

    Billiard sets its own handler after `worker_process_init`, so this is the first moment that lasts.
    """
    if _has_children() and signal.getsignal(signal.SIGTERM) is not _drain_on_signal:
        signal.signal(signal.SIGTERM, _drain_on_signal)


@signals.task_prerun.connect
def renew_connection(**_: Any) -> None:
    """As before a request: a connection that is old or has broken is not used again."""
    close_old_connections()


@signals.task_prerun.connect
def task_began(**_: Any) -> None:
    if process := workers.current_process():
        process.task_began()


@signals.task_postrun.connect
def task_ended(**_: Any) -> None:
    if process := workers.current_process():
        process.task_ended()


@signals.worker_shutting_down.connect
def drain(**_: Any) -> None:
    """Celery waits for what runs, for as long as it takes; draining sees to it that this is not for long.

    A busy child may not know yet; an idle one ends by itself when the pool is closed.
    """
    workers.drain_current()
    if _has_children():
        for pid in {request.worker_pid for request in active_requests if request.worker_pid}:
            os.kill(pid, signal.SIGTERM)


def _drain_on_signal(*_: Any) -> None:
    workers.drain_current()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def end(**_: Any) -> None:
    if process := workers.current_process():
        process.drain()
        if _scout:
            _scout.join()
        process.end()


def _start_process() -> None:
    global _scout
    slots = 1 if _has_children() else _celery_worker.pool.limit
    queues = sorted(_celery_worker.app.amqp.queues.consume_from)
    process = workers.start_process(_celery_worker.hostname, queues, slots)
    _scout = Scout(process, _celery_pid).start()


def _has_children() -> bool:
    return "prefork" in str(_celery_worker.pool_cls)
