"""Worker processes, and when each part of the upkeep last ran."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Worker(models.Model):
    """One life of a worker process: its row is the lease on every job it runs."""

    name = models.CharField(max_length=200, help_text="Celery's name of the worker, as Flower shows it.")
    queues = models.JSONField(default=list)
    slots = models.IntegerField(db_default=1, help_text="How many jobs it runs at once.")
    host = models.CharField(max_length=200, help_text="The host and the namespace of its process id.")
    pid = models.IntegerField()
    process_started = models.CharField(max_length=50, help_text="Distinguishes processes that had the same id.")
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    draining_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    lost = models.BooleanField(default=False, help_text="It died or froze instead of shutting down.")
    presumed_dead = models.BooleanField(
        db_default=False, db_column="silent", help_text="Its lease expired, but it may have been alive."
    )
    ran = models.IntegerField(db_default=0, help_text="How many jobs it ran when it was declared dead.")
    noted_seen_at = models.DateTimeField(null=True, help_text="The last renewal that a tick has seen.")
    noted_seconds = models.FloatField(db_default=0, help_text="What the clock of leases showed at that time.")
    in_flight_batch = models.JSONField(
        default=dict,
        db_column="trying",
        help_text="The transactional jobs it is about to run: {job id: attempts before this one}.",
    )

    class Meta:
        indexes: ClassVar = [
            # Serves: the workers alive, and among them those not seen for too long.
            models.Index(name="worker_alive_by_seen_at", fields=["seen_at"], condition=Q(ended_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.name} [{self.pid}]"


class Upkeep(models.Model):
    """When a part of the upkeep last ran: one row a part."""

    part = models.CharField(primary_key=True, max_length=50)
    ran_at = models.DateTimeField()
    seconds = models.FloatField(db_default=0, help_text="The time of the clock of leases.")

    class Meta:
        verbose_name_plural = "upkeep"

    def __str__(self) -> str:
        return self.part
