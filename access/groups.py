"""The groups that come with Muster: viewers look, operators also cancel, retry, reschedule and pause."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db.models import Q

VIEWERS = {
    "orchestrator": (
        "view_job",
        "view_attempt",
        "view_kind",
        "view_worker",
        "view_ownershare",
        "view_notification",
        "view_delivery",
    ),
    "scheduler": ("view_task", "view_taskresult", "view_taskschedule"),
    "ingestion": ("view_ingestion", "view_record", "view_recorderror"),
}
OPERATORS = {
    "orchestrator": (
        "cancel_job",
        "retry_job",
        "reschedule_job",
        "exceed_client_limits",
        "signal_job",
        "pause_kind",
        "limit_kind",
        "pause_queue",
        "view_payload",
        "add_ownershare",
        "change_ownershare",
        "pause_ownershare",
    ),
    "scheduler": ("cancel_task", "retry_task", "pause_taskschedule"),
    "ingestion": ("cancel_ingestion",),
}


def create_groups(**_: Any) -> None:
    """Makes each group that is missing, with its permissions. One that is there is the administrators' to change.

    In bulk, so that no signal asks for the audit trail, whose table may not be there when migrations are undone.
    """
    for name, grants in {"viewers": [VIEWERS], "operators": [VIEWERS, OPERATORS]}.items():
        if Group.objects.filter(name=name).exists():
            continue
        [group] = Group.objects.bulk_create([Group(name=name)])
        given = Q(pk=None)
        for each in grants:
            for app, codenames in each.items():
                given |= Q(content_type__app_label=app, codename__in=codenames)
        holds = Group.permissions.through
        holds.objects.bulk_create(
            holds(group=group, permission=permission) for permission in Permission.objects.filter(given)
        )
