"""What became of attempts: how they failed, what they logged, and where a job resumes."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now

from orchestrator.models.jobs import Job


class Attempt(models.Model):
    """An attempt at a job that did not complete it."""

    class Outcome(models.TextChoices):
        RAISED = "RAISED", "the handler raised"
        TIMED_OUT = "TIMED_OUT", "the kind's timeout passed"
        LOST = "LOST", "its worker died"
        INTERRUPTED = "INTERRUPTED", "its worker was shut down"
        UNAVAILABLE = "UNAVAILABLE", "the database was not available"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.IntegerField()
    outcome = models.CharField(max_length=11, choices=Outcome.choices)
    error = models.TextField()
    traceback = models.TextField(blank=True)
    worker_name = models.CharField(max_length=200, blank=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [
            # Serves: the rollups, which count what failed since the last time.
            models.Index(name="attempt_by_ended_at", fields=["ended_at"]),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.error}"


class AttemptLog(models.Model):
    """Lines that a handler logged, as they were written together: a row or more an attempt that logged anything."""

    # Without a constraint, whose check would wait for the batch that has the job locked.
    job = models.ForeignKey(
        Job, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="log_rows"
    )
    attempt = models.IntegerField()
    lines = models.JSONField(help_text="Each a list: number, seconds since 1970, level, logger, message.")

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [
            # Serves: the lines of a job in their order, and pruning.
            models.Index(name="attempt_log_of_job", fields=["job", "id"]),
        ]

    def __str__(self) -> str:
        return f"attempt {self.attempt}: {len(self.lines)} lines"


class Checkpoint(models.Model):
    """A named part of a job's work that is done once, with what it returned."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="checkpoints", db_index=False)
    name = models.CharField(max_length=100)
    result = models.JSONField(null=True)
    seconds = models.FloatField(help_text="How long it took.")
    ended_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            # Also serves: a job's checkpoints.
            models.UniqueConstraint(name="checkpoint_is_passed_once", fields=["job", "name"]),
        ]

    def __str__(self) -> str:
        return self.name
