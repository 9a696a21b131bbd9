"""What the steps of pipelines wait for."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orchestrator.models.jobs import Job


class Dependency(models.Model):
    """Within a pipeline: `job` starts only after `depends_on` has completed."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="dependencies", db_index=False)
    depends_on = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="dependents")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(name="dependency_is_unique", fields=["job", "depends_on"]),
        ]


class Step(models.Model):
    """What a step of a graph has beside its job, if it has more than a payload of its own."""

    class Outcome(models.TextChoices):
        SKIPPED = "SKIPPED", "it was not to run"
        PASSING = "PASSING", "it failed, and what comes after it is to go on"
        PASSED = "PASSED", "it failed, and what comes after it goes on"
        REUSED = "REUSED", "its result is that of an earlier pipeline"

    job = models.OneToOneField(Job, on_delete=models.CASCADE, primary_key=True, related_name="step")
    payload = models.JSONField(null=True, help_text="The payload with references to earlier results, if it has any.")
    condition = models.JSONField(null=True, help_text="When it runs; null: always.")
    on_failure = models.CharField(max_length=10, default="fail")
    signal = models.CharField(max_length=100, blank=True, db_default="", help_text="The signal it waits for.")
    wait = models.JSONField(null=True, help_text="What else is said of the signal: see graphs.waits.")
    waits_since = models.DateTimeField(null=True, help_text="Since when nothing but the signal is awaited.")
    waits_until = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=7, choices=Outcome.choices, blank=True, db_default="")
    each = models.JSONField(null=True, help_text="The list for each value of which it runs, and how: graphs.rows.")
    items = models.IntegerField(null=True, help_text="How many values that list had.")
    released = models.IntegerField(null=True, help_text="So many of its items may start so far; null: all of them.")
    resume_with = models.CharField(
        max_length=100, blank=True, db_default="", help_text="The function that goes on after the job's children."
    )
    definition = models.JSONField(
        null=True, help_text="Of a pipeline that code defines: the version that planned it, and what it returns."
    )
    compensate = models.JSONField(null=True, help_text="What undoes it, once it has completed: graphs.rows.")
    nested = models.JSONField(
        null=True, help_text="Of a step that is a pipeline, what its steps are to be: graphs.nesting."
    )
    compensates = models.UUIDField(null=True, help_text="The job of its pipeline that it undoes.")
    deadline_seconds = models.FloatField(null=True, help_text="Of a pipeline: it fails if it takes longer.")
    deadline_at = models.DateTimeField(null=True, help_text="When that is; null once it has passed.")

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [
            # Serves: the tick, which ends pipelines that took too long.
            models.Index(name="step_deadline", fields=["deadline_at"], condition=Q(deadline_at__isnull=False)),
            # Serves: the tick, which lets items start.
            models.Index(name="step_released", fields=["job"], condition=Q(released__isnull=False)),
            # Serves: the tick, which lets go on what is left after a failure.
            models.Index(name="step_passing", fields=["job"], condition=Q(outcome="PASSING")),
            # Serves: the tick, which ends waits whose time is over.
            models.Index(name="step_waits_until", fields=["waits_until"], condition=Q(waits_until__isnull=False)),
        ]

    def __str__(self) -> str:
        return str(self.job_id)


class Signal(models.Model):
    """What was sent to a job, or to all steps of a pipeline; kept, also if nothing waits for it yet."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="signals", db_index=False)
    name = models.CharField(max_length=100)
    body = models.JSONField(default=dict)
    sent_by = models.CharField(max_length=150, blank=True, help_text="Empty for a default, and for anonymous users.")
    is_default = models.BooleanField(default=False, help_text="None came in time, so this was taken.")
    sent_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            # Also serves: the signals of a job.
            models.UniqueConstraint(name="signal_is_sent_once", fields=["job", "name"]),
        ]

    def __str__(self) -> str:
        return self.name
