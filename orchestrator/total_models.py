"""Tables that the tick counts into: what became of the jobs of each kind in all, and what limits hold back."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models


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
