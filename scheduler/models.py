"""A+B tasks with their results, and schedules: of tasks, and of jobs of any kind."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import ClassVar, cast
from zoneinfo import ZoneInfo

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now
from django.db.models.lookups import Exact
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from orchestrator.ids import uuid7
from orchestrator.models import Job
from scheduler.fields import DECIMALS as DECIMALS
from scheduler.fields import DIGITS as DIGITS
from scheduler.fields import MAX_OPERATION_LENGTH as MAX_OPERATION_LENGTH
from scheduler.fields import BaseModel, Operands, operand, plain, texts
from scheduler.fields import ExactField as ExactField
from scheduler.recurrence.calendars import Calendar as BusinessCalendar
from scheduler.recurrence.exceptions import Exceptions, OnClosed
from scheduler.recurrence.reading import moments, read_calendar
from scheduler.recurrence.rules import NO_EXCEPTIONS, BadRecurrence, Recurrence, make_rule, zone_named

COUNT = models.IntegerField()
# The columns of a recurrence, of which one is given; days and hours are one together.
RECURRENCE = (
    models.F("interval"),
    models.Func("every_x_days", "every_x_hours", function="coalesce", output_field=COUNT),
    models.F("cron"),
    models.F("rrule"),
)

# The Celery task of every schedule's PeriodicTask.
FIRE = "scheduler.fire"
# The kind of job that adds two numbers. A schedule of it makes tasks, one of any other kind makes jobs.
ADD = "scheduler.add"


MAX_NAME_LENGTH, MAX_DESCRIPTION_LENGTH = 100, 2_000

# Beat keeps the length of an interval in a column of four bytes.
MAX_BEAT_INTERVAL = 2**31 - 1


class Calendar(models.Model):
    """Days and hours at which the schedules that name it may run."""

    name = models.CharField(primary_key=True, max_length=MAX_NAME_LENGTH)
    description = models.TextField(max_length=MAX_DESCRIPTION_LENGTH, blank=True, db_default="", default="")
    country = models.CharField(
        max_length=3, blank=True, db_default="", default="", help_text="Closed on its public holidays: DE."
    )
    subdivision = models.CharField(
        max_length=10, blank=True, db_default="", default="", help_text="The part of the country: BY."
    )
    weekdays = texts(help_text="The open ones, MO to SU; all if there are none.")
    hours = texts(help_text="Open from one time to another: 09:00-17:00; at any time if there are none.")
    closed_days = texts(help_text="Days, or from one to another: 2030-12-24, 2030-12-24/2031-01-01.")
    open_days = texts(help_text="Days that are open whatever else is said.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    def __str__(self) -> str:
        return self.name

    @property
    def rules(self) -> BusinessCalendar:
        """What it says; raises BadRecurrence where it says what cannot be."""
        return read_calendar(
            self.name,
            country=self.country,
            subdivision=self.subdivision,
            weekdays=self.weekdays,
            hours=self.hours,
            closed_days=self.closed_days,
            open_days=self.open_days,
        )


def calendars_named(names: Collection[str]) -> dict[str, BusinessCalendar]:
    """Those of the calendars that there are, by their names. One that is broken is as good as none."""
    found = {}
    for row in Calendar.objects.filter(name__in=names) if names else ():
        with suppress(BadRecurrence):
            found[row.name] = row.rules
    return found


def _known(place: int, name: str, known: Mapping[str, BusinessCalendar]) -> BusinessCalendar:
    if name not in known:
        raise BadRecurrence(f"calendars/{place}", f"There is no calendar {name!r}; GET /calendars/ lists them.")
    return known[name]


class TaskSchedule(Operands):
    """When to do something repeatedly: add two numbers, or a job of another kind. `next_run_at` is the truth: a tick
    that finds it due fires it, once.
    """

    class MisfirePolicy(models.TextChoices):
        LATEST = "latest", "run the latest missed occurrence"
        ALL = "all", "run every missed occurrence"
        SKIP = "skip", "run none that was missed"

    class Overlap(models.TextChoices):
        ALLOW = "allow", "run although earlier ones have not ended"
        SKIP = "skip", "leave out an occurrence while earlier ones have not ended"
        QUEUE = "queue", "let it wait until earlier ones have ended"
        CANCEL_RUNNING = "cancel_running", "cancel the oldest ones that have not ended"

    class OnClosed(models.TextChoices):
        SKIP = "skip", "do not run"
        NEXT = "next", "run on the next open day"
        PREVIOUS = "previous", "run on the last open day before"

    name = models.CharField(
        max_length=MAX_NAME_LENGTH, blank=True, db_default="", default="", help_text="Unique among its owner's."
    )
    description = models.TextField(max_length=MAX_DESCRIPTION_LENGTH, blank=True, db_default="", default="")
    kind = models.CharField(max_length=100, db_default=ADD, default=ADD, help_text="The kind of job that it submits.")
    payload = models.JSONField(
        null=True, blank=True, help_text="Of its jobs; none if it adds two numbers, which are a and b."
    )
    a = operand(null=True, blank=True)
    b = operand(null=True, blank=True)
    owner = models.CharField(max_length=150, blank=True, db_default="")
    scheduled_at = models.DateTimeField(help_text="The start, from which every occurrence is computed.")
    ends_at = models.DateTimeField(null=True, blank=True)
    timezone = models.CharField(max_length=64, db_default="UTC", default="UTC")
    interval = models.BigIntegerField(null=True, blank=True, help_text="Seconds between two runs.")
    every_x_days = models.IntegerField(null=True, blank=True)
    every_x_hours = models.IntegerField(null=True, blank=True)
    cron = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 - null says that it is not the rule.
    rrule = models.CharField(max_length=500, null=True, blank=True)  # noqa: DJ001
    schedule_x_times = models.IntegerField(null=True, blank=True)
    misfire_policy = models.CharField(max_length=6, choices=MisfirePolicy, default=MisfirePolicy.LATEST)
    overlap = models.CharField(max_length=14, choices=Overlap, default=Overlap.ALLOW)
    max_running = models.IntegerField(
        db_default=1, default=1, help_text="How many of its jobs may be unfinished at once, unless overlap is allowed."
    )
    jitter_seconds = models.IntegerField(
        db_default=0, default=0, help_text="An occurrence starts up to so much later, always by the same amount."
    )

    exclude = texts(help_text="Days and times at which it does not run.")
    include = texts(help_text="Times at which it runs besides, and days on which it runs whatever excludes them.")
    calendars = ArrayField(
        models.CharField(max_length=MAX_NAME_LENGTH),
        default=list,
        blank=True,
        db_default=Value([], ArrayField(models.CharField(max_length=MAX_NAME_LENGTH))),
        help_text="Names of calendars, all of which have to be open.",
    )
    on_closed = models.CharField(max_length=8, choices=OnClosed, default=OnClosed.SKIP, db_default=OnClosed.SKIP)
    on_failure = ArrayField(
        models.UUIDField(),
        default=list,
        blank=True,
        db_default=Value([], ArrayField(models.UUIDField())),
        help_text="Ids of notifications that tell when one of its jobs has failed, beside those that match the job.",
    )

    declared = models.JSONField(null=True, editable=False, help_text="What code said of it last, if it is declared.")
    enabled = models.BooleanField(default=True)
    next_run_at = models.DateTimeField(null=True, editable=False)
    last_run_at = models.DateTimeField(null=True, editable=False)
    run_count = models.IntegerField(db_default=0, default=0, editable=False)
    missed_count = models.IntegerField(db_default=0, default=0, editable=False)
    last_error = models.TextField(blank=True, db_default="", default="", editable=False)
    queued = ArrayField(
        models.DateTimeField(),
        db_default=Value([], ArrayField(models.DateTimeField())),
        default=list,
        blank=True,
        editable=False,
        help_text="Occurrences that wait until fewer jobs of it, or of its owner, are unfinished; oldest first.",
    )
    held_since = models.DateTimeField(
        null=True, editable=False, help_text="Since when its owner has no room for its occurrences; None: there is."
    )

    interval_schedule = models.ForeignKey(IntervalSchedule, null=True, on_delete=models.PROTECT, editable=False)
    periodic_task = models.OneToOneField(PeriodicTask, null=True, on_delete=models.SET_NULL, editable=False)

    # Those of many schedules, by name, where they were read together.
    loaded_calendars: Mapping[str, BusinessCalendar] | None = None

    class Meta:
        verbose_name = "schedule"
        permissions: ClassVar = [
            ("pause_taskschedule", "Can pause and resume schedules"),
            ("run_taskschedule", "Can run schedules now and backfill them"),
        ]
        indexes: ClassVar = [
            # Serves: the tick. It holds only what will still fire.
            models.Index(
                name="schedule_by_next_run",
                fields=["next_run_at"],
                condition=Q(enabled=True, next_run_at__isnull=False),
            ),
            models.Index(name="schedule_by_owner", fields=["owner", "-id"]),
            # Serves: the admin's home page and the doctor, which name those that have stopped because of an error.
            models.Index(
                name="schedule_stopped",
                fields=["id"],
                condition=Q(enabled=True, next_run_at=None) & ~Q(last_error=""),
            ),
            # Serves: the tick, which starts what waits for earlier jobs to end.
            models.Index(name="schedule_with_queue", fields=["id"], condition=~Q(queued=[])),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="schedule_has_one_recurrence",
                condition=Q(Exact(models.Func(*RECURRENCE, function="num_nonnulls", output_field=COUNT), 1)),
            ),
            models.CheckConstraint(
                name="schedule_adds_or_has_payload",
                condition=Q(kind=ADD, a__isnull=False, b__isnull=False, payload__isnull=True)
                | (~Q(kind=ADD) & Q(a=None, b=None, payload__isnull=False)),
            ),
            models.CheckConstraint(name="schedule_max_running_is_positive", condition=Q(max_running__gte=1)),
            models.CheckConstraint(name="schedule_jitter_is_not_negative", condition=Q(jitter_seconds__gte=0)),
            models.UniqueConstraint(
                name="schedule_name_is_its_owners_only", fields=["owner", "name"], condition=~Q(name="")
            ),
            models.CheckConstraint(name="schedule_priority_is_0_to_9", condition=Q(priority__range=(0, 9))),
            models.CheckConstraint(
                name="schedule_runs_at_most_x_times",
                condition=Q(schedule_x_times=None)
                | Q(schedule_x_times__gte=1, run_count__lte=models.F("schedule_x_times")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.id}"

    @property
    def adds(self) -> bool:
        """Whether it makes tasks that add a and b, not jobs of another kind."""
        return self.kind == ADD

    @property
    def title(self) -> str:
        """What people call it."""
        if self.name or not self.adds:
            return self.name or self.kind
        return " + ".join("?" if operand is None else plain(operand) for operand in (self.a, self.b))

    @property
    def recurrence(self) -> Recurrence:
        """When it fires; raises BadRecurrence where the row is broken."""
        rule = make_rule(
            interval=self.interval,
            every_x_days=self.every_x_days,
            every_x_hours=self.every_x_hours,
            cron=self.cron,
            rrule=self.rrule,
        )
        zone = zone_named(self.timezone)
        return Recurrence(rule, self.scheduled_at, zone, self.ends_at, self._exceptions(zone))

    def _exceptions(self, zone: ZoneInfo) -> Exceptions:
        if not (self.exclude or self.include or self.calendars):
            return NO_EXCEPTIONS
        known = calendars_named(self.calendars) if self.loaded_calendars is None else self.loaded_calendars
        return Exceptions(
            moments("exclude", self.exclude, zone),
            moments("include", self.include, zone),
            tuple(_known(place, name, known) for place, name in enumerate(self.calendars)),
            cast("OnClosed", str(self.on_closed)),
        )

    def schedule_celery_beat_task(self) -> None:
        """Makes the PeriodicTask through which Beat's admin shows, pauses and runs this schedule."""
        self.interval_schedule = self._shared_interval()
        self.periodic_task = PeriodicTask.objects.create(
            name=f"{FIRE} {self.id}",
            task=FIRE,
            args=json.dumps([str(self.id)]),
            interval=self.interval_schedule,
            start_time=self.scheduled_at,
            enabled=self.enabled,
            description="A doorbell of its schedule, which decides when it runs.",
        )

    def update_celery_beat_task(self) -> None:
        """Makes the PeriodicTask match the schedule; creates it again if someone deleted it.

        One that says so already is not written, since every write makes Beat read its schedules again.
        """
        if self.periodic_task is None:
            self.schedule_celery_beat_task()
            return
        self.interval_schedule = self._shared_interval()
        wanted = {"interval": self.interval_schedule, "start_time": self.scheduled_at, "enabled": self.enabled}
        if any(getattr(self.periodic_task, name) != value for name, value in wanted.items()):
            for name, value in wanted.items():
                setattr(self.periodic_task, name, value)
            self.periodic_task.save()

    def delete_celery_beat_task(self) -> None:
        """Deletes the PeriodicTask. The interval row stays, since others share it."""
        if self.periodic_task:
            self.periodic_task.delete()
            self.periodic_task = None

    def _shared_interval(self) -> IntervalSchedule:
        """The interval row of that length, shared by all schedules with it; what Beat's admin shows for other rules is
        how often somebody might look.
        """
        days = self.every_x_days or 0
        every, period = 1, IntervalSchedule.MINUTES
        if self.every_x_hours:
            every, period = 24 * days + self.every_x_hours, IntervalSchedule.HOURS
        elif days:
            every, period = days, IntervalSchedule.DAYS
        elif self.interval:
            every, period = self.interval, IntervalSchedule.SECONDS
            if every > MAX_BEAT_INTERVAL:
                every, period = timedelta(seconds=every).days, IntervalSchedule.DAYS
        # Beat's table allows the same interval twice, so the oldest row is the shared one.
        shared = IntervalSchedule.objects.filter(every=every, period=period).order_by("id").first()
        return shared or IntervalSchedule.objects.create(every=every, period=period)


class TaskStatus(models.TextChoices):
    """How a task is doing, which its job says."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Task(Operands):
    """Two numbers to add. Its state is its job's."""

    owner = models.CharField(max_length=150, blank=True, db_default="")
    job = models.ForeignKey(
        Job, on_delete=models.CASCADE, related_name="+", help_text="The latest run of it, with which it is pruned."
    )
    # It keeps naming a schedule that was deleted, which is therefore as quick with a million tasks as with none.
    schedule = models.ForeignKey(
        TaskSchedule,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="tasks",
        db_index=False,
        help_text="The schedule that created it, even if deleted since.",
    )
    scheduled_for = models.DateTimeField(null=True, help_text="The occurrence of its schedule.")

    class Meta:
        permissions: ClassVar = [("cancel_task", "Can cancel tasks"), ("retry_task", "Can run tasks again")]
        indexes: ClassVar = [
            # Serves: an owner's tasks, newest first.
            models.Index(name="task_of_owner", fields=["owner", "-id"], condition=~Q(owner="")),
            # Serves: a schedule's tasks, newest first, and whether its last one has ended.
            models.Index(name="task_by_schedule", fields=["schedule", "-id"], condition=Q(schedule__isnull=False)),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(name="task_priority_is_0_to_9", condition=Q(priority__range=(0, 9))),
            # However many fire a schedule at once, an occurrence is one task.
            models.UniqueConstraint(
                name="task_once_an_occurrence",
                fields=["schedule", "scheduled_for"],
                condition=Q(scheduled_for__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{plain(self.a)} + {plain(self.b)}"


class TaskResult(BaseModel):
    """What a run of a task came to."""

    # Serves: a task's results, newest first. There is no other index: each task that succeeds has a result.
    pk = models.CompositePrimaryKey("task_id", "id")
    id = models.UUIDField(default=uuid7, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="results", db_index=False)
    result = ExactField(max_digits=DIGITS + 1 + DECIMALS, decimal_places=DECIMALS)

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return str(self.result)
