"""Conditions by which jobs are found that wait for something: what `queries.waiting_for` says of each in a list."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from operator import or_

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from orchestrator.models import Kind, OwnerShare, Step
from orchestrator.queue import lanes
from orchestrator.states import UNFINISHED, Status

# No worker has it; and what comes before the reasons that follow.
_WAITS = Q(status__in=UNFINISHED, worker=None)
_ITS_TURN = Q(unfinished_dependencies=0)
_DUE = Q(run_at__lte=Now()) | Q(ready=True)
_SIGNAL = Q(Exists(Step.objects.filter(job=OuterRef("id"), waits_since__isnull=False)), status=Status.CREATED)
_PAUSED_KIND = Q(Exists(Kind.objects.filter(name=OuterRef("kind"), paused_at__isnull=False)))
_PAUSED_OWNER = Q(Exists(OwnerShare.objects.filter(owner=OuterRef("owner"), paused_at__isnull=False)))
_LIMIT = _ITS_TURN & _DUE & ~_PAUSED_KIND & ~_PAUSED_OWNER

# A limit of its whole kind is known only where a job itself is read: there are the kinds' own jobs before it.
REASONS: dict[str, Q] = {
    "dependencies": ~_ITS_TURN & ~_SIGNAL,
    "signal": ~_ITS_TURN & _SIGNAL,
    "start_time": _ITS_TURN & ~_DUE & Q(attempt=0),
    "retry": _ITS_TURN & ~_DUE & Q(attempt__gt=0) & ~Q(error=""),
    "snooze": _ITS_TURN & ~_DUE & Q(attempt__gt=0, error=""),
    "paused_kind": _ITS_TURN & _DUE & _PAUSED_KIND,
    "paused_owner": _ITS_TURN & _DUE & ~_PAUSED_KIND & _PAUSED_OWNER,
    "max_running_per_owner": _LIMIT & Q(blocked_by__startswith=f"{lanes.PER_OWNER}:"),
    "max_running_per_key": _LIMIT & Q(blocked_by__startswith=f"{lanes.PER_KEY}:"),
    "rate": _LIMIT & Q(blocked_by__startswith=lanes.RATE),
    "worker": _LIMIT & Q(blocked_by=None),
}


def waiting_for(reasons: Collection[str]) -> Q:
    """The jobs that wait for any of these, as they are at the moment."""
    return _WAITS & reduce(or_, (REASONS[reason] for reason in reasons))
