"""The tables of notifications: who is told of which jobs' ends, and what became of each message."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orchestrator.ids import uuid7
from orchestrator.states import FINAL, Status

MAX_DIGEST_SECONDS = 86_400


def all_ends() -> list[str]:
    return [str(status) for status in FINAL]


class Notification(models.Model):
    """Who is told when jobs end, by which means, and of which jobs."""

    class Via(models.TextChoices):
        WEBHOOK = "webhook", "webhook (Standard Webhooks)"
        SLACK = "slack", "Slack, or what takes its webhooks"
        MAIL = "mail", "mail"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100)
    owner = models.CharField(
        max_length=150, blank=True, default="", help_text="Whose jobs it is about; empty: everyone's."
    )
    via = models.CharField(max_length=7, choices=Via.choices)
    target = models.CharField(max_length=2_000, help_text="A URL, or mail addresses separated by commas.")
    secret = models.CharField(max_length=100, blank=True, default="", help_text="Signs the messages of a webhook.")
    old_secret = models.CharField(max_length=100, blank=True, default="", help_text="Signs them, too, until then.")
    old_secret_until = models.DateTimeField(null=True)
    automatic = models.BooleanField(
        default=True, help_text="For every job that matches; otherwise only for jobs that name it."
    )
    kind = models.CharField(max_length=100, blank=True, default="", help_text="Jobs of this kind; empty: of any.")
    statuses = ArrayField(
        models.CharField(max_length=9, choices=[(status, status) for status in FINAL]),
        default=all_ends,
        help_text="The ends that it is about: COMPLETED, FAILED, CANCELLED.",
    )
    children = models.BooleanField(default=False, help_text="Also for the children of pipelines.")
    digest_seconds = models.IntegerField(
        default=0,
        validators=[MaxValueValidator(MAX_DIGEST_SECONDS)],
        help_text="At most one message in this time, about all that ended meanwhile; 0: one for each job.",
    )
    digested_at = models.DateTimeField(null=True)
    digest_job = models.UUIDField(null=True, help_text="The job that sends the latest digest.")
    enabled = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                name="notification_digest_is_bounded", condition=Q(digest_seconds__range=(0, MAX_DIGEST_SECONDS))
            ),
        ]
        indexes: ClassVar = [
            # Serves: an owner's list.
            models.Index(name="notification_of_owner", fields=["owner", "-id"]),
        ]

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """A message about the end of one job: written in the transaction that ends it, and sent by a job."""

    class State(models.TextChoices):
        PENDING = "PENDING", "to be sent"
        DELIVERED = "DELIVERED"
        GAVE_UP = "GAVE_UP", "not delivered"

    message_id = models.UUIDField(default=uuid7, editable=False, help_text="The same for each attempt at it.")
    # Neither key is a constraint: jobs and notifications are deleted without reading what was sent about them.
    notification_id = models.UUIDField()
    job_id = models.UUIDField(null=True, help_text="Null for a test message.")
    kind = models.CharField(max_length=100, blank=True)
    type = models.CharField(max_length=50, help_text="The event: job.completed, job.failed, job.cancelled, or test.")
    data = models.JSONField(help_text="What is told of the job: as it was when it ended.")
    state = models.CharField(max_length=9, choices=State.choices, default=State.PENDING)
    attempts = models.IntegerField(default=0)
    response_status = models.IntegerField(null=True)
    response = models.CharField(max_length=1_000, blank=True, default="")
    error = models.CharField(max_length=1_000, blank=True, default="")
    by_digest = models.BooleanField(default=False)
    digest_job = models.UUIDField(null=True, help_text="The job that sends it together with others.")
    sending_until = models.DateTimeField(null=True, help_text="An attempt is under way until then, at most.")
    created_at = models.DateTimeField(db_default=Now())
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes: ClassVar = [
            # Serves: what is to be sent of a notification, in order.
            models.Index(name="delivery_pending", fields=["notification_id", "id"], condition=Q(state="PENDING")),
            # Serves: the log of a notification, newest first.
            models.Index(name="delivery_of_notification", fields=["notification_id", "-id"]),
            # Serves: what was sent about a job.
            models.Index(name="delivery_of_job", fields=["job_id"]),
            # Serves: pruning by age.
            models.Index(name="delivery_by_age", fields=["created_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.job_id or ''}"


EVENT_TYPES = {status: f"job.{status.lower()}" for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)}
