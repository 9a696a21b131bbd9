"""Pausing a kind: while it is paused none of its jobs is claimed; those that run go on, and new ones are accepted."""

from contextlib import suppress

from django.db import transaction
from django.db.models.functions import Now

from orchestrator import bell
from orchestrator.kinds import UnknownKind, kind_named
from orchestrator.models import Kind


def pause_kind(name: str) -> None:
    """Keeps workers from claiming jobs of the kind. Pausing it twice keeps the first time.

    Raises Kind.DoesNotExist for a kind that no worker has reported.
    """
    if not Kind.objects.filter(name=name, paused_at=None).update(paused_at=Now()):
        Kind.objects.get(name=name)


def resume_kind(name: str) -> None:
    """Lets workers claim jobs of the kind again, and wakes them. Harmless for one that is not paused.

    Raises Kind.DoesNotExist for a kind that no worker has reported.
    """
    with transaction.atomic():
        if not Kind.objects.filter(name=name).update(paused_at=None):
            Kind.objects.get(name=name)
        # A kind that only a newer release knows, as during an upgrade, is left to that release's tick.
        with suppress(UnknownKind):
            bell.ring_after_commit(kind_named(name))
