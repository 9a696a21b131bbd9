"""Kinds of job that workers have reported, and queues that are paused."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now


class Kind(models.Model):
    """A kind of job that some worker has reported it can run, whether it is paused, and its limits."""

    name = models.CharField(primary_key=True, max_length=100)
    queue = models.CharField(max_length=50)
    description = models.TextField(blank=True)
    keep_days = models.FloatField(null=True, help_text="How many days its jobs are kept by default; 0: forever.")
    paused_at = models.DateTimeField(null=True, blank=True)
    declared_limits = models.JSONField(db_default={}, default=dict, help_text="The limits that its code declares.")
    limits = models.JSONField(
        db_default={}, default=dict, help_text="What operators have set instead; null: no such limit."
    )
    limited = models.BooleanField(db_default=False, help_text="Whether its jobs have to wait for any limit.")
    paused_with_queue = models.BooleanField(db_default=False, help_text="Paused only because its queue is.")

    class Meta:
        permissions: ClassVar = [
            ("pause_kind", "Can pause and resume kinds"),
            ("limit_kind", "Can change the limits of kinds"),
        ]

    def __str__(self) -> str:
        return self.name


class PausedQueue(models.Model):
    """A queue that an operator has paused: so are all kinds of it, for as long as this row is there."""

    name = models.CharField(primary_key=True, max_length=50)
    paused_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        permissions: ClassVar = [("pause_queue", "Can pause and resume queues")]

    def __str__(self) -> str:
        return self.name
