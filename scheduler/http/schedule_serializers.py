"""Schedules in the API: the checks of requests, and the form of responses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator.http.fields import (
    AwareDateTimeField,
    LinkField,
    QueryBooleanField,
    QueryIntegerField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
    StrictUUIDField,
)
from orchestrator.http.links import link
from orchestrator.submission import MAX_NOTIFY
from scheduler.http.numbers import NOT_BOTH as NOT_BOTH_OPERANDS
from scheduler.http.numbers import Number, Operand, Operation, read_operation
from scheduler.models import ADD, MAX_DESCRIPTION_LENGTH, MAX_NAME_LENGTH, TaskSchedule
from scheduler.recurrence.exceptions import MAX_CALENDARS, MAX_MOMENTS, MOMENT, Event
from scheduler.recurrence.rules import MAX_CRON_LENGTH, MAX_INTERVAL, MAX_RRULE_LENGTH
from scheduler.services.schedules import MAX_JITTER_SECONDS, MAX_RUNNING, MAX_SKIPPED_SHOWN, MAX_TIMES
from scheduler.services.work import MAX_PAYLOAD_BYTES, NOT_BOTH

MAX_RUNS_SHOWN = 100

CALENDAR = {"every_x_days", "every_x_hours"}
RECURRENCES = CALENDAR | {"interval", "cron", "rrule"}

NO_WORK = "Give kind and payload, or a and b, or operation."
NO_RECURRENCE = "Give the recurrence that replaces the present one: a schedule needs one."


def _count(help_text: str, **options: Any) -> StrictIntegerField:
    return StrictIntegerField(required=False, allow_null=True, default=None, help_text=help_text, **options)


@extend_schema_field(
    {"type": "string", "format": "moment", "pattern": rf"^{MOMENT}$", "example": "2030-12-24T09:00:00Z"}
)
class MomentField(StrictCharField):
    """A day, or a time with or without an offset."""


@extend_schema_field({"type": "string", "format": "calendar", "minLength": 1, "example": "german-holidays"})
class CalendarNameField(StrictCharField):
    """The name of a calendar that there is."""


def _moments(help_text: str) -> serializers.ListField:
    return serializers.ListField(
        child=MomentField(), required=False, default=list, max_length=MAX_MOMENTS, help_text=help_text
    )


class PayloadField(serializers.JSONField):
    """JSON whose numbers are floats, as in other jobs' payloads, though those beside it are read exactly."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(_with_floats(data))


@extend_schema_serializer(component_name="TaskScheduleBody")
class ScheduleBody(StrictSerializer):
    """When to do what: kind and payload, or numbers to add (a and b or operation), and exactly one of interval,
    every_x_days and/or every_x_hours, cron and rrule. In a PUT, what is left out becomes its default, but scheduled_at
    and enabled stay as they were. In a PATCH, one recurrence takes the place of another, and so does what it submits.
    """

    name = StrictCharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=MAX_NAME_LENGTH,
        help_text="No other schedule of yours may have it.",
    )
    description = StrictCharField(
        required=False, allow_blank=True, default="", max_length=MAX_DESCRIPTION_LENGTH, help_text="For people."
    )
    kind = StrictCharField(
        required=False, allow_null=True, max_length=100, help_text="The kind of job to submit: one of `GET /kinds`."
    )
    payload = PayloadField(
        required=False,
        allow_null=True,
        help_text="Of the jobs: must match the kind's JSON Schema in `GET /kinds`; {} by default. At most "
        f"{MAX_PAYLOAD_BYTES:,} bytes.",
    )
    a = Operand(required=False, allow_null=True)
    b = Operand(required=False, allow_null=True)
    operation = Operation(required=False, allow_null=True)
    priority = StrictIntegerField(
        required=False, default=5, min_value=0, max_value=9, help_text="0 is the most urgent, 9 the least."
    )
    scheduled_at = AwareDateTimeField(
        required=False,
        help_text="The start, from which every occurrence is computed, in whole seconds. Now if not given.",
    )
    ends_at = AwareDateTimeField(
        required=False, allow_null=True, default=None, help_text="Nothing runs after this time."
    )
    timezone = StrictCharField(required=False, default="UTC", max_length=64, help_text="IANA name of the time zone.")
    interval = _count("Seconds between two runs.", min_value=1, max_value=MAX_INTERVAL // timedelta(seconds=1))
    every_x_days = _count(
        "Days between two runs, in local time; added to every_x_hours.",
        min_value=0,
        max_value=MAX_INTERVAL.days,
    )
    every_x_hours = _count("Hours between two runs.", min_value=0, max_value=MAX_INTERVAL // timedelta(hours=1))
    cron = StrictCharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=MAX_CRON_LENGTH,
        help_text="minute hour day-of-month month day-of-week, as in `*/15 8-18 * * MON-FRI`; at most "
        f"{MAX_CRON_LENGTH} characters.",
    )
    rrule = StrictCharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=MAX_RRULE_LENGTH,
        help_text="RFC 5545, as in `FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0`; at most "
        f"{MAX_RRULE_LENGTH} characters.",
    )
    schedule_x_times = _count("Maximum number of runs.", min_value=1, max_value=MAX_TIMES)
    misfire_policy = StrictChoiceField(
        choices=TaskSchedule.MisfirePolicy.choices,
        required=False,
        default=TaskSchedule.MisfirePolicy.LATEST,
        help_text="What to do with occurrences that were missed, for example during an outage.",
    )
    overlap = StrictChoiceField(
        choices=TaskSchedule.Overlap.choices,
        required=False,
        default=TaskSchedule.Overlap.ALLOW,
        help_text="What to do with an occurrence while max_running jobs of the schedule have not ended: run it all "
        "the same, skip it, let it wait for one to end, or cancel the oldest.",
    )
    max_running = StrictIntegerField(
        required=False, default=1, min_value=1, max_value=MAX_RUNNING, help_text="See overlap; 1 if that is allow."
    )
    jitter_seconds = StrictIntegerField(
        required=False,
        default=0,
        min_value=0,
        max_value=MAX_JITTER_SECONDS,
        help_text="Each occurrence starts up to so many seconds later, always by the same time. For many schedules "
        "that are due at once.",
    )
    exclude = _moments(
        "Days (2030-12-24) and times (2030-12-24T09:00:00Z; without an offset in `timezone`) at which it does not run."
    )
    include = _moments("Times at which it runs besides, and days on which it runs whatever excludes them.")
    calendars = serializers.ListField(
        child=CalendarNameField(),
        required=False,
        default=list,
        max_length=MAX_CALENDARS,
        help_text="Names of calendars (`GET /calendars/`), all of which have to be open.",
    )
    on_closed = StrictChoiceField(
        choices=TaskSchedule.OnClosed.choices,
        required=False,
        default=TaskSchedule.OnClosed.SKIP,
        help_text="What to do with an occurrence on a day that calendars have closed: skip it, or run it at the same "
        "time of the next open day, or of the previous one.",
    )
    on_failure = serializers.ListField(
        child=StrictUUIDField(),
        required=False,
        default=list,
        max_length=MAX_NOTIFY,
        help_text="Ids of notifications (`GET /notifications`) that tell when one of its jobs has failed, beside "
        "those that match the job by themselves.",
    )
    enabled = StrictBooleanField(required=False, help_text="Whether it runs; true by default.")

    needs_work = True

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in ("kind", "a", "b"):
            if attrs.get(name) is None:
                attrs.pop(name, None)
        if attrs.get("kind", ADD) != ADD:
            _settle_job(attrs)
        elif not self.partial or {"kind", "a", "b", "operation"} & attrs.keys():
            self._settle_operands(attrs)
        if self.partial:
            _replace_recurrence(attrs)
        return attrs

    def _settle_operands(self, attrs: dict[str, Any]) -> None:
        given = {"a", "b"} & attrs.keys()
        if operation := attrs.pop("operation", None):
            if given:
                raise serializers.ValidationError({"operation": NOT_BOTH_OPERANDS})
            attrs["operation"], attrs["a"], attrs["b"] = read_operation(operation)
        elif given:
            attrs["operation"] = ""
        missing = {"a", "b"} - attrs.keys()
        if missing and not self.partial and (self.needs_work or given):
            raise serializers.ValidationError(
                {name: serializers.ErrorDetail(NO_WORK, "required") for name in sorted(missing)}
            )
        if given or operation:
            attrs["kind"] = ADD
            attrs.setdefault("payload", None)


def _settle_job(attrs: dict[str, Any]) -> None:
    """What adds two numbers goes, for a schedule that did; what is given of it contradicts the kind."""
    if given := [name for name in ("a", "b", "operation") if attrs.get(name) is not None]:
        raise serializers.ValidationError(dict.fromkeys(given, NOT_BOTH))
    attrs |= {"a": None, "b": None, "operation": ""}
    if attrs.get("payload") is None:
        attrs["payload"] = {}


def _with_floats(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _replace_recurrence(attrs: dict[str, Any]) -> None:
    """Takes away a recurrence that an edit does not name, if it gives another one; there is no edit to none."""
    named = RECURRENCES & attrs.keys()
    given = {name for name in named if attrs[name] is not None}
    if named and not any(attrs[name] for name in given):
        raise serializers.ValidationError(dict.fromkeys(sorted(named), NO_RECURRENCE))
    if given:
        stays = CALENDAR if given <= CALENDAR else set()
        attrs.update(dict.fromkeys(RECURRENCES - attrs.keys() - stays))


@extend_schema_serializer(component_name="TaskSchedulePreviewBody")
class PreviewBody(ScheduleBody):
    """A schedule as it would be saved; what it submits does not matter here."""

    needs_work = False


class PreviewOptions(StrictSerializer):
    n = QueryIntegerField(default=10, min_value=1, max_value=MAX_RUNS_SHOWN, help_text="Number of runs.")


class ScheduleFilters(StrictSerializer):
    enabled = QueryBooleanField(required=False)
    owner = StrictCharField(required=False, max_length=150)


class BackfillBody(StrictSerializer):
    dry_run = StrictBooleanField(required=False, default=False, help_text="Only count, create nothing.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` is a Python keyword, so it cannot be declared like the others."""
        return {
            "from": AwareDateTimeField(help_text="The start, inclusive."),
            "to": AwareDateTimeField(help_text="The end, inclusive; not later than now."),
            **super().get_fields(),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["to"] < attrs["from"]:
            raise serializers.ValidationError({"to": "The end is before the start."})
        return attrs


class Backfilled(serializers.Serializer[Any]):
    """The occurrences in the requested range."""

    occurrences = serializers.IntegerField()
    already_submitted = serializers.IntegerField(help_text="Occurrences that were submitted before.")
    already_tasks = serializers.IntegerField(help_text="The same, by its old name.")
    created = serializers.IntegerField(help_text="Those submitted now, or that would be without dry_run.")
    dry_run = serializers.BooleanField()
    jobs = LinkField(help_text="GET: the schedule's jobs.")
    tasks = LinkField(allow_null=True, help_text="GET: its tasks; null if it does not add numbers.")


class Run(serializers.Serializer[Any]):
    local = serializers.DateTimeField(help_text="With the zone's offset from UTC at that time.")
    utc = serializers.DateTimeField()


class Skipped(Run):
    reason = serializers.CharField(help_text="What excludes it, such as a holiday, or where it was moved.")


class Preview(serializers.Serializer[Any]):
    """When a schedule will run next, and what is skipped until then."""

    timezone = serializers.CharField()
    runs = Run(many=True)
    skipped = Skipped(
        many=True, help_text=f"At most the first {MAX_SKIPPED_SHOWN}, and of a long closed stretch the first ones."
    )


def preview(events: Sequence[Event], zone: ZoneInfo) -> dict[str, Any]:
    shown = [({"local": each.at.astimezone(zone).isoformat(), "utc": each.at}, each.reason) for each in events]
    return {
        "timezone": zone.key,
        "runs": [run for run, reason in shown if not reason],
        "skipped": [run | {"reason": reason} for run, reason in shown if reason],
    }


@extend_schema_serializer(component_name="TaskSchedule")
class ScheduleSerializer(serializers.Serializer[TaskSchedule]):
    """When to do something again and again: jobs of a kind, or tasks that add two numbers."""

    url = serializers.SerializerMethodField()
    id = serializers.UUIDField()
    name = serializers.CharField()
    description = serializers.CharField()
    kind = serializers.CharField(help_text=f"The kind of job that it submits; {ADD} if it adds a and b.")
    payload = serializers.JSONField(help_text="Of its jobs; null if it adds a and b.")
    a = Number(allow_null=True)
    b = Number(allow_null=True)
    operation = serializers.SerializerMethodField(help_text="As it was sent; null if it was not.")
    priority = serializers.IntegerField(help_text="0 is the most urgent, 9 the least.")
    owner = serializers.CharField()
    scheduled_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField(allow_null=True)
    timezone = serializers.CharField()
    interval = serializers.IntegerField(allow_null=True, help_text="Seconds between two runs.")
    every_x_days = serializers.IntegerField(allow_null=True)
    every_x_hours = serializers.IntegerField(allow_null=True)
    cron = serializers.CharField(allow_null=True)
    rrule = serializers.CharField(allow_null=True)
    schedule_x_times = serializers.IntegerField(allow_null=True)
    misfire_policy = serializers.ChoiceField(choices=TaskSchedule.MisfirePolicy.choices)
    overlap = serializers.ChoiceField(choices=TaskSchedule.Overlap.choices)
    max_running = serializers.IntegerField()
    jitter_seconds = serializers.IntegerField()
    exclude = serializers.ListField(child=serializers.CharField())
    include = serializers.ListField(child=serializers.CharField())
    calendars = serializers.ListField(child=serializers.CharField())
    on_closed = serializers.ChoiceField(choices=TaskSchedule.OnClosed.choices)
    on_failure = serializers.ListField(child=serializers.UUIDField())
    enabled = serializers.BooleanField()
    next_run_at = serializers.DateTimeField(
        allow_null=True, help_text="Null while it is paused, after its last run, or if it cannot fire."
    )
    last_run_at = serializers.DateTimeField(allow_null=True)
    run_count = serializers.IntegerField(help_text="Occurrences that were run.")
    missed_count = serializers.IntegerField(
        help_text="Occurrences left out by its policies, or since its owner had too much."
    )
    is_declared = serializers.SerializerMethodField(help_text="Whether code declares it, so it cannot be deleted.")
    queued = serializers.ListField(
        child=serializers.DateTimeField(),
        help_text="Occurrences that wait for earlier jobs to end (overlap=queue), or for room among the owner's jobs.",
    )
    held_since = serializers.DateTimeField(
        allow_null=True, help_text="Since when the limits of its owner hold it back; null if they do not."
    )
    last_error = serializers.CharField(
        help_text="Why it cannot fire, or why its last occurrence waits or was missed; else empty."
    )
    periodic_task = serializers.IntegerField(
        source="periodic_task_id", allow_null=True, help_text="Its PeriodicTask in Beat."
    )
    jobs = serializers.SerializerMethodField(help_text="GET: the jobs it submitted.")
    tasks = serializers.SerializerMethodField(help_text="GET: the tasks it created; null if it does not add numbers.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    @extend_schema_field(LinkField)
    def get_url(self, schedule: TaskSchedule) -> str:
        return link("task-schedule", schedule.id)

    @extend_schema_field({"type": ["string", "null"]})
    def get_operation(self, schedule: TaskSchedule) -> str | None:
        return schedule.operation or None

    def get_is_declared(self, schedule: TaskSchedule) -> bool:
        return schedule.declared is not None and not schedule.declared.get("removed")

    @extend_schema_field(LinkField)
    def get_jobs(self, schedule: TaskSchedule) -> str:
        return jobs_url(schedule)

    @extend_schema_field(LinkField(allow_null=True))
    def get_tasks(self, schedule: TaskSchedule) -> str | None:
        return tasks_url(schedule)


def jobs_url(schedule: TaskSchedule) -> str:
    return f"{link('jobs')}?schedule={schedule.id}"


def tasks_url(schedule: TaskSchedule) -> str | None:
    return f"{link('tasks')}?schedule={schedule.id}" if schedule.adds else None
