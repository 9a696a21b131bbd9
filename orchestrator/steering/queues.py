"""The queues as an operator sees them: what serves them, what waits and runs there, and whether they are paused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from django.conf import settings

from orchestrator.models import PausedQueue, Worker
from orchestrator.rollups import reading


class QueueNow(NamedTuple):
    """A queue as it is now; pool is None if QUEUES does not declare it.

    waiting: jobs that could start, and running: leased ones, as the tick has counted them last, for each kind up to a
    limit. workers: processes alive that serve it; slots: how many jobs they run at once, in all their queues.
    """

    name: str
    pool: str | None
    paused_at: datetime | None
    kinds: int
    waiting: int
    oldest_since: datetime | None
    running: int
    workers: int
    slots: int


def queues_now() -> list[QueueNow]:
    """The declared queues in their order, and others of which jobs wait."""
    kinds = [each for each in reading.kinds() if each.queue]
    paused = dict(PausedQueue.objects.values_list("name", "paused_at"))
    workers, slots = Counter[str](), Counter[str]()
    for served, count in Worker.objects.filter(ended_at=None).values_list("queues", "slots"):
        workers.update(served)
        slots.update(dict.fromkeys(served, count))
    names = [*settings.QUEUES, *sorted({str(each.queue) for each in kinds} - settings.QUEUES.keys())]
    return [
        _queue(name, [each for each in kinds if each.queue == name], paused.get(name), workers[name], slots[name])
        for name in names
    ]


def _queue(
    name: str, kinds: Iterable[reading.KindNow], paused_at: datetime | None, workers: int, slots: int
) -> QueueNow:
    kinds = list(kinds)
    declared = settings.QUEUES.get(name)
    return QueueNow(
        name=name,
        pool=declared and declared.pool,
        paused_at=paused_at,
        kinds=len(kinds),
        waiting=sum(each.waiting for each in kinds),
        oldest_since=min((each.oldest_since for each in kinds if each.oldest_since), default=None),
        running=sum(each.running for each in kinds),
        workers=workers,
        slots=slots,
    )
