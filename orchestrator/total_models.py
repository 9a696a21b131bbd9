"""The table of totals: what became of the jobs of each kind since it is there."""

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
