"""The pool of a Celery worker, which its queues declare: `celery -A config worker -Q gpu` needs no -P and no -c."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from celery.concurrency import get_implementation
from django.conf import settings

# Celery's pool of processes, with children that can be replaced.
PREFORK = "orchestrator.worker.children:TaskPool"


def give_declared_pool(worker: Any) -> None:
    """Gives a Celery worker that begins the pool of its queues, and what its command line does not say of it.

    Ends the program with a sentence if it asks for another pool, or for queues of different pools.
    """
    queues = [settings.SERVED_QUEUES[name] for name in sorted(worker.app.amqp.queues.consume_from)]
    pools = {queue.pool for queue in queues}
    if len(pools) > 1:
        described = ", ".join(f"{queue.name} ({queue.pool})" for queue in queues)
        sys.exit(f"Muster does not start: -Q has to name queues of one pool, not {described}.")
    [pool] = pools
    # prefork is what Celery takes where the command line names none.
    if get_implementation(worker.pool_cls) not in (get_implementation("prefork"), get_implementation(pool)):
        names = ", ".join(queue.name for queue in queues)
        sys.exit(f"Muster does not start: QUEUES declares {names} with the pool {pool}, so leave out -P.")
    worker.pool_cls = get_implementation(PREFORK if pool == "prefork" else pool)
    given = worker.options
    if given.get("concurrency") is None:
        worker.concurrency = sum(queue.size for queue in queues)
    if given.get("max_tasks_per_child") is None:
        worker.max_tasks_per_child = _lowest(queue.max_tasks_per_child for queue in queues)
    if given.get("max_memory_per_child") is None:
        worker.max_memory_per_child = _lowest(queue.max_memory_per_child for queue in queues)


def _lowest(limits: Iterable[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
