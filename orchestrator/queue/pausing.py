"""Pausing a kind: while it is paused none of its jobs is claimed; those that run go on, and new ones are accepted."""

from django.db import transaction
from django.db.models.functions import Now

from access import audit
from orchestrator.models import Kind
from orchestrator.queue import bell


def pause_kind(name: str) -> None:
    """Keeps workers from claiming jobs of the kind. Pausing it twice keeps the first time.

    Raises Kind.DoesNotExist for a kind that no worker has reported.
    """
    with transaction.atomic():
        if Kind.objects.filter(name=name, paused_at=None).update(paused_at=Now()):
            audit.record("kind.pause", name)
        else:
            Kind.objects.get(name=name)


def resume_kind(name: str) -> None:
    """Lets workers claim jobs of the kind again, and wakes them. Harmless for one that is not paused.

    Raises Kind.DoesNotExist for a kind that no worker has reported.
    """
    with transaction.atomic():
        if Kind.objects.filter(name=name).exclude(paused_at=None).update(paused_at=None):
            audit.record("kind.resume", name)
        else:
            Kind.objects.get(name=name)
        bell.ring_after_commit(name)
