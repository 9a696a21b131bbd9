"""Requests that are not to be done twice, and actions on many jobs."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from orchestrator.models.jobs import Job


class IdempotencyKey(models.Model):
    """The first answer to a request that a client may send again."""

    owner = models.CharField(max_length=150, blank=True)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the request's method, path and body.")
    answer = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(name="idempotency_key_is_used_once", fields=["owner", "key"]),
        ]
        indexes: ClassVar = [
            # Serves: pruning by age.
            models.Index(name="idempotency_key_by_age", fields=["created_at"]),
        ]

    def __str__(self) -> str:
        return self.key


class BulkBatch(models.Model):
    """Some of the jobs that a bulk action is for, as they were found when it was asked for, and what became of it."""

    action = models.ForeignKey(
        Job, on_delete=models.CASCADE, related_name="batches", db_index=False, help_text="The job that does it."
    )
    number = models.IntegerField()
    size = models.IntegerField(help_text="How many jobs they were.")
    job_ids = ArrayField(models.UUIDField(), help_text="Empty once it is done.")
    found_at = models.DateTimeField(help_text="What has ended since then is another attempt's end.")
    asked_by = models.JSONField(default=dict, help_text="As the audit trail has it.")
    begun_at = models.DateTimeField(null=True, help_text="When somebody last began to do it.")
    done_at = models.DateTimeField(null=True)
    outcome = models.JSONField(default=dict, help_text="What became of how many jobs.")
    refusals = models.JSONField(default=dict, help_text="Why, by the ids of the first jobs that were refused.")

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            # Also serves: the next batch of an action.
            models.UniqueConstraint(name="bulk_batch_is_numbered", fields=["action", "number"]),
        ]

    def __str__(self) -> str:
        return f"batch {self.number} of {self.action_id}"
