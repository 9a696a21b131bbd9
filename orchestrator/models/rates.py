"""What limits on rates count."""

from typing import ClassVar

from django.db import models


class RateStart(models.Model):
    """A start of a job whose kind has a rate, kept for the length of the rate's period."""

    kind = models.CharField(max_length=100)
    lane = models.CharField(max_length=250, help_text="All of the kind, an owner or a key: see `queue.lanes`.")
    started_at = models.DateTimeField()

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [
            # Serves: counting the starts within a period, and pruning.
            models.Index(name="rate_start_by_lane", fields=["kind", "lane", "started_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.lane}"


class RateWait(models.Model):
    """When the next of the jobs may start that wait for a rate."""

    kind = models.CharField(max_length=100)
    lane = models.CharField(max_length=250)
    due_at = models.DateTimeField()

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            models.UniqueConstraint(name="rate_wait_is_known_once", fields=["kind", "lane"]),
        ]
        indexes: ClassVar = [
            # Serves: the tick, which lets them go on.
            models.Index(name="rate_wait_by_due_at", fields=["due_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.lane}"
