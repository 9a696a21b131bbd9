"""What operators set for an owner: its weight, its share of the slots, and whether its jobs are started at all."""

from __future__ import annotations

from django.db import connection, transaction
from django.db.models.functions import Now

from access import audit
from orchestrator.inputs import check_owner
from orchestrator.models import OwnerShare, Turn
from orchestrator.queue import bell

MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0
MIN_SLOT_SHARE, MAX_SLOT_SHARE = 0.001, 1.0

# As if its ready jobs had just come. The kinds that have any are told.
COME_AGAIN = """
INSERT INTO orchestrator_arrival (kind, owner)
SELECT kind.name, %(owner)s
FROM (SELECT name FROM orchestrator_kind UNION SELECT kind FROM orchestrator_turn WHERE owner = %(owner)s) AS kind
CROSS JOIN LATERAL (
    SELECT FROM orchestrator_job WHERE ready AND kind = kind.name AND owner = %(owner)s ORDER BY rank, id LIMIT 1
) AS job
RETURNING kind
"""


class BadShare(Exception):
    """A weight or a share of the slots that is out of bounds."""


def pause_owner(owner: str) -> None:
    """Keeps workers from claiming jobs of the owner; those that run go on, and new ones are accepted and wait.

    owner: empty for the jobs that have none. Pausing it twice keeps the first time.
    """
    with transaction.atomic():
        _known(owner)
        if OwnerShare.objects.filter(owner=owner, paused_at=None).update(paused_at=Now()):
            audit.record("owner.pause", owner)
    # Only to keep it out of the way: a claim looks at `paused_at` itself.
    Turn.objects.filter(owner=owner, idle=False).update(idle=True)


def resume_owner(owner: str) -> None:
    """Lets workers claim jobs of the owner again, and wakes them. Harmless for one that is not paused."""
    with transaction.atomic():
        if OwnerShare.objects.filter(owner=owner).exclude(paused_at=None).update(paused_at=None):
            audit.record("owner.resume", owner)
        with connection.cursor() as cursor:
            cursor.execute(COME_AGAIN, {"owner": owner})
            kinds = [kind for (kind,) in cursor.fetchall()]
        bell.ring_after_commit(*kinds)


def set_weight(owner: str, weight: float) -> None:
    """From its next turn on, the owner gets so much of the slots beside others, who have 1 if nothing is set.

    Raises BadShare if it is not 0.01 to 100.
    """
    _set(owner, weight=weight)


def set_slot_share(owner: str, slot_share: float | None) -> None:
    """The owner may hold so much of the slots of each queue; None: as much as OWNER_SLOT_SHARE says.

    Raises BadShare if it is not 0.001 to 1.
    """
    _set(owner, slot_share=slot_share)


def change_share(owner: str, **columns: float | None) -> None:
    """Sets those of `weight` and `slot_share` that are given. Raises as these do."""
    _set(owner, **columns)


def share_of(owner: str) -> OwnerShare:
    """What is set for the owner; a row that is not saved if nothing is."""
    return OwnerShare.objects.filter(owner=owner).first() or OwnerShare(owner=owner)


def forget_share(owner: str) -> None:
    """The owner is as any other again; it is resumed if it was paused."""
    with transaction.atomic():
        resume_owner(owner)
        for share in OwnerShare.objects.filter(owner=owner):
            audit.record("owner.forget", owner, before={"weight": share.weight, "slot_share": share.slot_share})
            share.delete()


def _set(owner: str, **columns: float | None) -> None:
    _check(**columns)
    with transaction.atomic():
        share = _known(owner)
        before = {name: getattr(share, name) for name in columns}
        OwnerShare.objects.filter(owner=owner).update(**columns)
        audit.record("owner.change", owner, before=before, after=columns)


def _known(owner: str) -> OwnerShare:
    """The owner's row. Raises BadSubmission for what cannot be an owner's name."""
    check_owner(owner)
    return OwnerShare.objects.get_or_create(owner=owner)[0]


def _check(weight: float | None = 1.0, slot_share: float | None = None) -> None:
    if weight is None or not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise BadShare(f"A weight must be {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, not {weight!r}.")
    if slot_share is not None and not MIN_SLOT_SHARE <= slot_share <= MAX_SLOT_SHARE:
        raise BadShare(
            f"A share of the slots must be {MIN_SLOT_SHARE:g} to {MAX_SLOT_SHARE:g}, or none, not {slot_share!r}."
        )
