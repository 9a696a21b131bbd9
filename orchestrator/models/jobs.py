"""The table of jobs: what is to be done, and how far it is."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orchestrator.ids import uuid7
from orchestrator.models.workers import Worker
from orchestrator.states import FINAL, UNFINISHED, Status

# Of jobs whose kinds have limits, those that run, and those that a limit has let go on.
COUNTS_FOR_LIMITS = Q(limited=True) & (Q(ready=True) | Q(worker__isnull=False))


class Job(models.Model):
    """One piece of work that was accepted. This table is the only queue and the only truth."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=100)
    queue = models.CharField(max_length=50)
    owner = models.CharField(max_length=150, blank=True, db_default="")
    status = models.CharField(max_length=9, choices=Status.choices, db_default=Status.CREATED)
    priority = models.SmallIntegerField(db_default=5, help_text="0 is the most urgent, 9 the least.")
    payload = models.JSONField(default=dict)
    result = models.JSONField(null=True)
    error = models.TextField(blank=True, db_default="")

    attempt = models.IntegerField(
        db_default=0, help_text="How many attempts were started. It only rises, and is the fence of every write."
    )
    max_attempts = models.IntegerField(
        db_default=1, help_text="The maximum; one more for each attempt that is not charged."
    )
    run_at = models.DateTimeField(db_default=Now(), help_text="The earliest start.")
    rank = models.DateTimeField(
        db_default=Now(), help_text="Its place among its owner's jobs: run_at + priority x 60 s."
    )
    ready = models.BooleanField(db_default=False, help_text="Could be claimed now.")
    runs_alone = models.BooleanField(
        db_default=False, help_text="A worker died while it ran in a batch, so it runs alone from now on."
    )

    limit_key = models.CharField(  # noqa: DJ001 An empty key is a key.
        max_length=200, null=True, help_text="Its concurrency key: see `job(key=…)`."
    )
    blocked_by = models.CharField(  # noqa: DJ001 Most rows have none, and a null takes no room.
        max_length=250, null=True, help_text="The limit it waits for since it was met at a claim; it is not ready."
    )
    limited = models.BooleanField(db_default=False, help_text="It counts for limits while it is ready or leased.")

    # The claim itself locks the worker's row and sees that it is alive, so a foreign key would check it twice.
    worker = models.ForeignKey(
        Worker,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="jobs",
        db_index=False,
        help_text="Its lease.",
    )
    worker_name = models.CharField(max_length=200, blank=True, db_default="", help_text="The worker that ran it last.")
    deadline_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    celery_task_id = models.CharField(
        max_length=50,
        blank=True,
        db_default="",
        help_text="Its id in Flower, which is its own id, once it was attempted.",
    )

    progress_done = models.BigIntegerField(null=True)
    progress_total = models.BigIntegerField(null=True)
    progress_message = models.CharField(max_length=500, blank=True, db_default="")

    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children", db_index=False)
    name = models.CharField(max_length=100, blank=True, db_default="", help_text="A child's name within its pipeline.")
    schedule_id = models.UUIDField(null=True, help_text="The schedule that submitted it, even if deleted since.")
    scheduled_for = models.DateTimeField(null=True, help_text="The occurrence of its schedule.")
    unfinished_dependencies = models.IntegerField(db_default=0)
    unresolved = models.BooleanField(
        db_default=False, help_text="A step whose payload or condition depends on earlier results, which are awaited."
    )
    unwinding = models.BooleanField(db_default=False, help_text="Its unstarted children are still to be cancelled.")
    pruning = models.BooleanField(db_default=False, help_text="It is being deleted, its children first.")
    unique_key = models.UUIDField(null=True, help_text="What it shares with the same jobs: see orchestrator.unique.")
    unique_until = models.DateTimeField(null=True, help_text="It keeps its key until then, once it has completed.")

    notify = ArrayField(
        models.UUIDField(), null=True, help_text="Notifications that its end is told by, beside those that match it."
    )

    traceparent = models.CharField(  # noqa: DJ001 Most rows have none, and a null takes no room.
        max_length=55,
        null=True,
        help_text="The trace that it was submitted in, as W3C's traceparent, if OpenTelemetry was on.",
    )

    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(db_default=Now())

    @property
    def trace_id(self) -> str | None:
        """The trace that it was submitted in: 32 hexadecimal digits, the second part of a `traceparent`."""
        return self.traceparent.split("-")[1] if self.traceparent else None

    # Set on a job that a submission returns because it was there already.
    duplicate = False

    class Meta:
        permissions: ClassVar = [
            ("cancel_job", "Can cancel jobs"),
            ("retry_job", "Can retry jobs"),
            ("signal_job", "Can send signals to jobs"),
            ("reschedule_job", "Can change the priority and the start of jobs"),
            ("submit_for_others", "Can submit jobs for other users"),
            ("exceed_client_limits", "Can ask for more than the limits of clients allow"),
            ("view_payload", "Can see payloads and results of jobs"),
        ]
        indexes: ClassVar = [
            # Serves: the claim, which takes the most urgent jobs of the owner whose turn it is, and all who ask what
            # is ready, see `ready_jobs`. It holds only what could start now.
            models.Index(name="job_ready_by_owner", fields=["kind", "owner", "rank", "id"], condition=Q(ready=True)),
            # Serves: an owner's share of the slots.
            models.Index(name="job_leased_by_owner", fields=["queue", "owner"], condition=Q(worker__isnull=False)),
            # Serves: the tick, which makes due jobs ready.
            models.Index(
                name="job_due_by_run_at",
                fields=["run_at"],
                condition=Q(ready=False, status=Status.CREATED, unfinished_dependencies=0, blocked_by=None),
            ),
            # Serve: limits, which count what is leased of a kind, an owner and a key.
            models.Index(name="job_limited_by_owner", fields=["kind", "owner"], condition=COUNTS_FOR_LIMITS),
            models.Index(name="job_limited_by_key", fields=["kind", "limit_key"], condition=COUNTS_FOR_LIMITS),
            # Serves: letting the most urgent job go on that waits for a limit.
            models.Index(
                name="job_blocked_by_limit",
                fields=["kind", "blocked_by", "rank", "id"],
                condition=Q(blocked_by__isnull=False, finished_at=None),
            ),
            # Serves: taking back a worker's jobs, reading their cancellations, the key to its row, and the tick, which
            # ends attempts past their deadline.
            models.Index(name="job_leased_by_worker", fields=["worker"], condition=Q(worker__isnull=False)),
            # Serves: the tick, which cancels the rest of failed and cancelled pipelines.
            models.Index(name="job_unwinding", fields=["id"], condition=Q(unwinding=True)),
            # Serves: the tick, which resolves steps that are left.
            models.Index(
                name="job_unresolved",
                fields=["id"],
                condition=Q(unresolved=True, status=Status.CREATED, unfinished_dependencies=0),
            ),
            # Serves: the cap on an owner's unfinished jobs of a kind.
            models.Index(
                name="job_unfinished_by_owner",
                fields=["owner", "kind"],
                condition=Q(parent=None, status__in=UNFINISHED) & ~Q(owner=""),
            ),
            # Serves: the same of jobs without an owner, of kinds that have such a cap.
            models.Index(
                name="job_unfinished_unowned",
                fields=["kind"],
                condition=Q(limited=True, parent=None, status__in=UNFINISHED, owner=""),
            ),
            # Serves: pruning jobs of a kind by age, and the rollups. Children go with their parents.
            models.Index(
                name="job_finished_by_kind",
                fields=["kind", "finished_at"],
                condition=Q(parent=None, finished_at__isnull=False),
            ),
            # Serves: the rollups, which count the children that ended since the last time.
            models.Index(
                name="job_child_finished_by_kind",
                fields=["kind", "finished_at"],
                condition=Q(parent__isnull=False, finished_at__isnull=False),
            ),
            # Serves: going on with jobs that are too much for one pruning.
            models.Index(name="job_pruning", fields=["id"], condition=Q(pruning=True)),
            # Serve: the lists of jobs by owner, kind and status, newest first. Nobody lists what has no owner.
            # Completed ones are most of the table, so the primary key finds them as fast, and completing a job has one
            # index less to write.
            models.Index(name="job_of_owner", fields=["owner", "-id"], condition=~Q(owner="")),
            models.Index(name="job_by_kind", fields=["kind", "-id"]),
            models.Index(name="job_by_status", fields=["status", "-id"], condition=~Q(status=Status.COMPLETED)),
            # Serves: a schedule's jobs, newest first.
            models.Index(
                name="job_by_schedule", fields=["schedule_id", "-id"], condition=Q(schedule_id__isnull=False)
            ),
            # Serves: how many of a schedule's jobs have not ended, and which.
            models.Index(
                name="job_unfinished_by_schedule",
                fields=["schedule_id", "id"],
                condition=Q(schedule_id__isnull=False, status__in=UNFINISHED),
            ),
            # Serves: whether a job that has completed still keeps its key.
            models.Index(
                name="job_completed_by_unique_key",
                fields=["unique_key"],
                condition=Q(status=Status.COMPLETED, unique_until__isnull=False),
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(name="job_status_is_known", condition=Q(status__in=Status.values)),
            models.CheckConstraint(
                name="job_finished_exactly_in_final_states",
                condition=Q(status__in=FINAL, finished_at__isnull=False)
                | Q(status__in=UNFINISHED, finished_at__isnull=True),
            ),
            models.CheckConstraint(name="job_priority_is_0_to_9", condition=Q(priority__range=(0, 9))),
            models.CheckConstraint(
                name="job_attempts_are_counted",
                condition=Q(attempt__gte=0, max_attempts__gte=1),
            ),
            models.CheckConstraint(
                name="job_ready_could_start",
                condition=Q(ready=False) | Q(status__in=UNFINISHED, unfinished_dependencies=0, worker__isnull=True),
            ),
            models.CheckConstraint(
                name="job_leased_only_while_running", condition=Q(worker__isnull=True) | Q(status=Status.RUNNING)
            ),
            models.CheckConstraint(
                name="job_deadline_only_while_leased", condition=Q(deadline_at__isnull=True) | Q(worker__isnull=False)
            ),
            models.CheckConstraint(
                name="job_result_only_when_completed", condition=Q(result__isnull=True) | Q(status=Status.COMPLETED)
            ),
            models.CheckConstraint(name="job_dependencies_are_counted", condition=Q(unfinished_dependencies__gte=0)),
            # However many fire a schedule at once, an occurrence is one job.
            models.UniqueConstraint(
                name="job_once_an_occurrence",
                fields=["schedule_id", "scheduled_for"],
                condition=Q(scheduled_for__isnull=False),
            ),
            # Also serves: the children of a pipeline.
            models.UniqueConstraint(
                name="job_child_name_is_unique", fields=["parent", "name"], condition=Q(parent__isnull=False)
            ),
            models.UniqueConstraint(
                name="job_is_unique_while_unfinished",
                fields=["unique_key"],
                condition=Q(status__in=UNFINISHED, unique_key__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"
