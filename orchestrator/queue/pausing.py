"""Pausing a kind, or all kinds of a queue: while it is paused none of its jobs is claimed; those that run go on, and
new ones are accepted.

A claim asks only whether its kind is paused. A paused queue has all its kinds paused with it, also those that come
later.
"""

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from access import audit
from orchestrator.models import Kind, PausedQueue
from orchestrator.queue import bell

# Kinds that nobody has paused by themselves are paused if and only if their queues are.
FOLLOW_QUEUES = """
UPDATE orchestrator_kind kind
SET paused_at = paused.paused_at, paused_with_queue = paused.paused_at IS NOT NULL
FROM orchestrator_kind each LEFT JOIN orchestrator_pausedqueue paused ON paused.name = each.queue
WHERE kind.name = each.name
  AND (kind.paused_at IS NULL OR kind.paused_with_queue)
  AND (kind.paused_at IS NULL) = (paused.paused_at IS NOT NULL)
RETURNING kind.name, kind.paused_with_queue
"""


class UnknownQueue(LookupError):
    """No queue has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no queue {name!r} in QUEUES: {', '.join(settings.QUEUES)}.")


def pause_kind(name: str) -> None:
    """Keeps workers from claiming jobs of the kind. Pausing it twice keeps the first time.

    Raises Kind.DoesNotExist for a kind that no worker has reported.
    """
    with transaction.atomic():
        kind = Kind.objects.select_for_update().get(name=name)
        if kind.paused_at is None or kind.paused_with_queue:
            Kind.objects.filter(name=name).update(paused_at=Now(), paused_with_queue=False)
            audit.record("kind.pause", name)


def resume_kind(name: str) -> None:
    """Lets workers claim jobs of the kind again, unless its queue is paused, and wakes them. Harmless for one that is
    not paused.

    Raises Kind.DoesNotExist for a kind that no worker has reported.
    """
    with transaction.atomic():
        kind = Kind.objects.select_for_update().get(name=name)
        if kind.paused_at is not None and not kind.paused_with_queue:
            Kind.objects.filter(name=name).update(paused_at=None)
            audit.record("kind.resume", name)
            follow_queues()
        bell.ring_after_commit(name)


def pause_queue(name: str) -> None:
    """Keeps workers from claiming jobs of any kind of the queue. Pausing it twice keeps the first time.

    Raises UnknownQueue.
    """
    _check(name)
    with transaction.atomic():
        _, is_new = PausedQueue.objects.get_or_create(name=name)
        if is_new:
            audit.record("queue.pause", name)
        follow_queues()


def resume_queue(name: str) -> None:
    """Lets workers claim jobs of the queue again, but for kinds that are paused by themselves, and wakes them.
    Harmless for one that is not paused.

    Raises UnknownQueue.
    """
    if not PausedQueue.objects.filter(name=name).exists():
        _check(name)
    with transaction.atomic():
        count, _ = PausedQueue.objects.filter(name=name).delete()
        if count:
            audit.record("queue.resume", name)
        follow_queues()


def follow_queues() -> None:
    """Pauses and resumes kinds as their queues are, and wakes workers for those that were resumed."""
    with connection.cursor() as cursor:
        cursor.execute(FOLLOW_QUEUES)
        bell.ring_after_commit(*(name for name, is_paused in cursor.fetchall() if not is_paused))


def _check(name: str) -> None:
    if name not in settings.QUEUES and not Kind.objects.filter(queue=name).exists():
        raise UnknownQueue(name)
