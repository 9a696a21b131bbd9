"""The tables of the engine: jobs, what they depend on, what went wrong, and who runs them."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orchestrator.ids import uuid7
from orchestrator.notification_models import Delivery as Delivery
from orchestrator.notification_models import Notification as Notification
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.total_models import HeldBack as HeldBack
from orchestrator.total_models import Total as Total

# Of jobs whose kinds have limits, those that run, and those that a limit has let go on.
COUNTS_FOR_LIMITS = Q(limited=True) & (Q(ready=True) | Q(worker__isnull=False))


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


class Turn(models.Model):
    """An owner's place among those who have ready jobs of a kind, or had until recently: they take turns."""

    kind = models.CharField(max_length=100)
    owner = models.CharField(max_length=150, blank=True)
    clock = models.FloatField(help_text="Seconds of slots that it has used, by its weight; it counts on from others'.")
    at = models.FloatField(help_text="Its place: its clock, less a head start for the priority of its next job.")
    since = models.BigIntegerField(help_text="The arrival since which it waits; the earlier goes first at one place.")
    served = models.FloatField(help_text="What its clock showed when it was last served.")
    turn = models.BigIntegerField(help_text="The number of its last turn, or of the last one before it came.")
    new = models.BooleanField(help_text="It has had no turn since it came, or came back.")
    idle = models.BooleanField(help_text="It has no ready job that may start.")
    version = models.BigIntegerField(db_default=0, help_text="Rises with each job that arrives.")

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [
            # Serves: the claim.
            models.Index(name="turn_by_place", fields=["kind", "at", "since"], condition=Q(idle=False)),
            # Serve: the clock of the kind, that a newcomer's is set to.
            models.Index(name="turn_by_clock", fields=["kind", "clock"], condition=Q(idle=False, new=False)),
            models.Index(name="turn_by_number", fields=["kind", "turn"]),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(name="turn_is_one_an_owner", fields=["kind", "owner"]),
        ]

    def __str__(self) -> str:
        return f"{self.owner or 'no owner'}, {self.kind}"


class Arrival(models.Model):
    """Jobs of an owner became ready: written by triggers, in the transaction that made them so, read by the claim."""

    # Serves: the claim, which looks for new ones of its kind. There is no other index: each single job has an arrival.
    pk = models.CompositePrimaryKey("kind", "id")
    id = models.BigIntegerField(help_text="In their order; PostgreSQL gives it.")
    kind = models.CharField(max_length=100)
    owner = models.CharField(max_length=150, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.owner or 'no owner'}, {self.kind}"


class OwnerShare(models.Model):
    """What an operator has set for an owner: how much of the workers it gets, and whether it gets any."""

    owner = models.CharField(max_length=150, unique=True, blank=True, help_text="Empty: all jobs that have no owner.")
    weight = models.FloatField(
        db_default=1.0,
        default=1.0,
        validators=[MinValueValidator(0.01), MaxValueValidator(100.0)],
        help_text="Its share beside others: one of weight 2 gets twice as much of the slots as one of weight 1.",
    )
    slot_share = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.001), MaxValueValidator(1.0)],
        help_text="The most of a queue's slots that it may hold, from 0.001 to 1; empty: OWNER_SLOT_SHARE.",
    )
    paused_at = models.DateTimeField(null=True, blank=True, help_text="Since when none of its jobs is started.")

    class Meta:
        verbose_name = "owner"
        permissions: ClassVar = [("pause_ownershare", "Can pause and resume owners")]
        constraints: ClassVar = [
            models.CheckConstraint(name="owner_weight_is_in_bounds", condition=Q(weight__gte=0.01, weight__lte=100)),
            models.CheckConstraint(
                name="owner_slot_share_is_in_bounds",
                condition=Q(slot_share=None) | Q(slot_share__gte=0.001, slot_share__lte=1),
            ),
        ]

    def __str__(self) -> str:
        return self.owner or "no owner"


class Dependency(models.Model):
    """Within a pipeline: `job` starts only after `depends_on` has completed."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="dependencies", db_index=False)
    depends_on = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="dependents")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(name="dependency_is_unique", fields=["job", "depends_on"]),
        ]


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


class IdempotencyKey(models.Model):
    """The first answer to a request that a client may send again."""

    owner = models.CharField(max_length=150, blank=True)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the request's method, path and body.")
    answer = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(name="idempotency_key_is_used_once", fields=["owner", "key"]),
        ]
        indexes: ClassVar = [
            # Serves: pruning by age.
            models.Index(name="idempotency_key_by_age", fields=["created_at"]),
        ]

    def __str__(self) -> str:
        return self.key


class BulkBatch(models.Model):
    """Some of the jobs that a bulk action is for, as they were found when it was asked for, and what became of it."""

    action = models.ForeignKey(
        Job, on_delete=models.CASCADE, related_name="batches", db_index=False, help_text="The job that does it."
    )
    number = models.IntegerField()
    size = models.IntegerField(help_text="How many jobs they were.")
    job_ids = ArrayField(models.UUIDField(), help_text="Empty once it is done.")
    found_at = models.DateTimeField(help_text="What has ended since then is another attempt's end.")
    asked_by = models.JSONField(default=dict, help_text="As the audit trail has it.")
    begun_at = models.DateTimeField(null=True, help_text="When somebody last began to do it.")
    done_at = models.DateTimeField(null=True)
    outcome = models.JSONField(default=dict, help_text="What became of how many jobs.")
    refusals = models.JSONField(default=dict, help_text="Why, by the ids of the first jobs that were refused.")

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            # Also serves: the next batch of an action.
            models.UniqueConstraint(name="bulk_batch_is_numbered", fields=["action", "number"]),
        ]

    def __str__(self) -> str:
        return f"batch {self.number} of {self.action_id}"


class Upkeep(models.Model):
    """When a part of the upkeep last ran: one row a part."""

    part = models.CharField(primary_key=True, max_length=50)
    ran_at = models.DateTimeField()
    seconds = models.FloatField(db_default=0, help_text="The time of the clock of leases.")

    class Meta:
        verbose_name_plural = "upkeep"

    def __str__(self) -> str:
        return self.part


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
