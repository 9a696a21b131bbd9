"""What the tick adds up and counts, for pages and metrics."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Rollup(models.Model):
    """What became of a kind's jobs in a minute or an hour, as the tick has added it up."""

    class Span(models.TextChoices):
        MINUTE = "minute"
        HOUR = "hour"

    span = models.CharField(max_length=6, choices=Span.choices)
    begins_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    completed = models.IntegerField(help_text="Jobs that ended so.")
    failed = models.IntegerField()
    cancelled = models.IntegerField()
    errors = models.IntegerField(help_text="Attempts that failed, whether or not there was another.")
    waits = ArrayField(models.IntegerField(), help_text="How many jobs waited how long: see rollups.durations.")
    runs = ArrayField(models.IntegerField(), help_text="How many jobs that completed ran for how long.")
    first_failure_at = models.DateTimeField(null=True)
    last_failure_at = models.DateTimeField(null=True)
    last_failed = models.UUIDField(null=True, help_text="The job that failed last, or had an attempt fail.")
    last_error = models.TextField(blank=True)

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            # Also serves: what became of all kinds since some time.
            models.UniqueConstraint(name="rollup_is_written_once", fields=["span", "begins_at", "kind"]),
        ]

    def __str__(self) -> str:
        return f"{self.kind}, the {self.span} from {self.begins_at}"


class Backlog(models.Model):
    """What waits and runs of a kind, as the tick has counted it last."""

    kind = models.CharField(primary_key=True, max_length=100)
    waiting = models.IntegerField(help_text="Jobs that could start now, counted up to a limit.")
    oldest_since = models.DateTimeField(null=True, help_text="Since when the oldest of them could.")
    running = models.IntegerField(help_text="Leased jobs, counted up to a limit.")
    counted_at = models.DateTimeField()

    class Meta:
        default_permissions = ()
        verbose_name_plural = "backlog"

    def __str__(self) -> str:
        return self.kind


class Total(models.Model):
    """What became of a kind's jobs in all, as the tick has added it up. It only rises, so rates can be taken of it."""

    kind = models.CharField(primary_key=True, max_length=100)
    completed = models.BigIntegerField()
    failed = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    waits = ArrayField(models.BigIntegerField(), help_text="How many jobs waited how long: see rollups.durations.")
    runs = ArrayField(models.BigIntegerField(), help_text="How many jobs that completed ran for how long.")
    outcomes = ArrayField(models.BigIntegerField(), help_text="Attempts that did not complete, by Attempt.Outcome.")

    class Meta:
        default_permissions: ClassVar = ()

    def __str__(self) -> str:
        return self.kind


class HeldBack(models.Model):
    """Jobs of a kind that could start but for one of its limits, as the tick has counted them last."""

    kind = models.CharField(max_length=100)
    limit = models.CharField(max_length=30, help_text="The name of the limit, as it is set.")
    jobs = models.IntegerField(help_text="Counted up to a bound.")
    oldest_since = models.DateTimeField(help_text="Since when the oldest of them could.")

    class Meta:
        default_permissions: ClassVar = ()
        verbose_name_plural = "held back"
        constraints: ClassVar = [
            models.UniqueConstraint(name="held_back_is_counted_once", fields=["kind", "limit"]),
        ]

    def __str__(self) -> str:
        return f"{self.jobs:,} jobs of {self.kind} by {self.limit}"
