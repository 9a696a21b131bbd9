"""What is to be done to all jobs that match a filter, and what is answered."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestrator.http.fields import LinkField, StrictBooleanField, StrictSerializer
from orchestrator.http.job_filters import BulkFilter
from orchestrator.http.job_serializers import JobChange
from orchestrator.steering.actions import PERMISSIONS


class BulkRequest(StrictSerializer):
    """What `filter` matches at this moment is cancelled or retried."""

    filter = BulkFilter()
    dry_run = StrictBooleanField(default=False, help_text="Only count.")


class BulkChangeRequest(BulkRequest):
    """What `filter` matches at this moment is changed, if it has not started."""

    change = JobChange()


class BulkAnswer(serializers.Serializer[Any]):
    action = serializers.ChoiceField(choices=list(PERMISSIONS))
    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="How many jobs; at least so many if `exact` is false.")
    exact = serializers.BooleanField(help_text="A dry run counts no more than 100,000 jobs.")
    more = serializers.BooleanField(
        help_text="Whether others match, too, and wait for another request: one takes a million jobs."
    )
    job_id = serializers.UUIDField(
        allow_null=True,
        help_text="The job that does it, whose progress and result say how far it is; null if none is needed.",
    )
    link = LinkField(allow_null=True, help_text="GET.")
