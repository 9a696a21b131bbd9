"""What the API takes and gives: checks of input, the form of answers, and the documentation of both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from config.api import BadInput
from config.links import link
from config.strict_json import escaped
from orchestrator.kinds import Problem
from orchestrator.serializers import Integer, Moment, Strict, Text
from scheduler.jobs import shown
from scheduler.models import DECIMALS, DIGITS, LONGEST_OPERATION, Task, TaskResult, TaskSchedule, TaskStatus
from scheduler.queries import STATUSES
from scheduler.recurrence import LONGEST_CRON, LONGEST_RRULE
from scheduler.services import NewTask

MOST_TASKS = 10_000
# Bad tasks of a batch that are told one by one.
MOST_TOLD = 1_000
MOST_RUNS_SHOWN = 100

TASK_FIELDS = {"a", "b", "operation", "priority"}
CALENDAR = {"every_x_days", "every_x_hours"}
RECURRENCES = CALENDAR | {"interval", "cron", "rrule"}

_NUMBER = re.compile(r"\s*[+-]?(\d{1,100}(\.\d{0,100})?|\.\d{1,100})([eE][+-]?\d{1,3})?\s*", re.ASCII)
_OPERATION = re.compile(r"[ \t]*(\d+(?:\.\d+)?)[ \t]*\+[ \t]*(\d+(?:\.\d+)?)[ \t]*", re.ASCII)
_SMALLEST = Decimal(1).scaleb(-DECIMALS)
_ROOMY = Context(prec=DIGITS + DECIMALS + 10)

BOUNDS = f"At most {DIGITS} digits before the point and {DECIMALS} after it."
NO_NUMBER = 'A number, such as 1.5, or a text that is one, such as "1.5".'
NO_OPERATION = 'Two numbers without a sign and one plus between them, such as "1.5+2".'
NOT_BOTH = "Give either a and b, or operation."

# A sum as it is shown: exact in any of its forms.
NUMBER_SCHEMA = {
    "type": ["integer", "number", "string"],
    "description": "Exact: an integer if it is whole, a number where a double holds it, else a text of digits.",
}
OPERAND_SCHEMA = {
    "type": ["number", "string"],
    "description": f"A number, or a text that is one; read exactly as it is written. {BOUNDS}",
    "example": 1.5,
}
OPERATION_SCHEMA = {
    "type": "string",
    "maxLength": LONGEST_OPERATION,
    "pattern": r"^\s*\d+(\.\d+)?\s*\+\s*\d+(\.\d+)?\s*$",
    "description": "a and b in one.",
    "example": "1.5+2",
}
NEW_TASK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "a": OPERAND_SCHEMA,
        "b": OPERAND_SCHEMA,
        "operation": OPERATION_SCHEMA,
        "priority": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": 9,
            "default": 5,
            "description": "0 is the most urgent, 9 the least.",
        },
    },
    "oneOf": [{"required": ["a", "b"]}, {"required": ["operation"]}],
}
_TASKS_SCHEMA = {"type": "array", "minItems": 1, "maxItems": MOST_TASKS, "items": NEW_TASK_SCHEMA}
BATCH_SCHEMA: dict[str, Any] = {
    "oneOf": [_TASKS_SCHEMA, {"type": "object", "required": ["tasks"], "properties": {"tasks": _TASKS_SCHEMA}}]
}


@dataclass
class Batch:
    """The good tasks of a batch with their places in it, and what is wrong with the others."""

    tasks: list[NewTask] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


# Tasks may come by ten thousand, so they are read by functions rather than by serializers.


def read_task(data: Any, *, owner: str) -> NewTask:
    """A task from what a client sent; raises BadInput with all that is wrong with it."""
    if type(data) is not dict:
        raise BadInput("", [Problem("", "invalid", 'A task is an object, such as {"a": 1.5, "b": 2}.')])
    problems = [_unknown(name) for name in data if name not in TASK_FIELDS]
    a = b = Decimal(0)
    operation = data.get("operation")
    if operation is None:
        a, b = _operand(data, "a", problems), _operand(data, "b", problems)
        operation = ""
    elif "a" in data or "b" in data:
        problems.append(Problem("/operation", "invalid", NOT_BOTH))
    else:
        try:
            operation, a, b = read_operation(operation)
        except ValueError as error:
            problems.append(Problem("/operation", "invalid", str(error)))
    priority = data.get("priority")
    if priority is None:
        priority = 5
    elif type(priority) is not int or not 0 <= priority <= 9:
        problems.append(Problem("/priority", "out_of_range", "An integer from 0 (most urgent) to 9."))
    if problems:
        raise BadInput("", problems)
    return NewTask(a=a, b=b, operation=operation, priority=priority, owner=owner)


def read_batch(body: Any, *, owner: str) -> Batch:
    """A batch of tasks from what a client sent; raises BadInput for what is none. A bad task is told once, by what is
    first wrong with it.
    """
    is_bare = isinstance(body, list)
    pointer, items = ("", body) if is_bare else ("/tasks", body.get("tasks") if isinstance(body, dict) else None)
    if not isinstance(items, list):
        raise BadInput("", [Problem(pointer, "invalid", 'Send a list of tasks, bare or as {"tasks": […]}.')])
    if not is_bare and len(body) > 1:
        raise BadInput("", [_unknown(name, known="tasks") for name in body if name != "tasks"])
    if not 1 <= len(items) <= MOST_TASKS:
        raise BadInput("", [Problem(pointer, "out_of_range", f"1 to {MOST_TASKS:,} tasks, not {len(items):,}.")])
    batch = Batch()
    for index, item in enumerate(items):
        try:
            batch.tasks.append(read_task(item, owner=owner))
            batch.indexes.append(index)
        except BadInput as error:
            first = error.problems[0]
            batch.problems.append(first._replace(pointer=f"{pointer}/{index}{first.pointer}"))
    return batch


def told(problems: Sequence[Problem], *, of: int) -> list[Problem]:
    """The problems of a batch, cut short where they are many."""
    if len(problems) <= MOST_TOLD:
        return list(problems)
    cut = f"{len(problems):,} of {of:,} tasks do not fit; the first {MOST_TOLD:,} are told."
    return [*problems[:MOST_TOLD], Problem("", "and_more", cut)]


def read_operand(value: Any) -> Decimal:
    """A number as a client wrote it, exactly; raises ValueError for what is none or has too many digits."""
    if type(value) is int or type(value) is Decimal:
        number = Decimal(value)
    elif type(value) is str and _NUMBER.fullmatch(value):
        number = Decimal(value.strip())
    else:
        raise ValueError(NO_NUMBER)
    if not number.is_finite() or number.adjusted() >= DIGITS:
        raise ValueError(BOUNDS)
    rounded = _ROOMY.quantize(number, _SMALLEST)
    if rounded != number:
        raise ValueError(BOUNDS)
    return number


def read_operation(value: Any) -> tuple[str, Decimal, Decimal]:
    """An operation without the blanks around it, and its operands; raises ValueError for what is none."""
    if type(value) is not str or len(value) > LONGEST_OPERATION or not (match := _OPERATION.fullmatch(value)):
        raise ValueError(NO_OPERATION)
    return value.strip(), read_operand(match[1]), read_operand(match[2])


def _operand(data: dict[str, Any], name: str, problems: list[Problem]) -> Decimal:
    if data.get(name) is None:
        problems.append(Problem(f"/{name}", "required", f"Give a and b, or operation. {NO_NUMBER}"))
        return Decimal(0)
    try:
        return read_operand(data[name])
    except ValueError as error:
        problems.append(Problem(f"/{name}", "invalid", str(error)))
        return Decimal(0)


def _unknown(name: str, known: str = ", ".join(sorted(TASK_FIELDS))) -> Problem:
    return Problem(f"/{escaped(name)}", "unknown", f"{name!r} is not known here; known are: {known}.")


class TaskFilters(Strict):
    status = serializers.MultipleChoiceField(
        choices=TaskStatus.choices,
        required=False,
        help_text="Any of these; may be repeated.",
    )
    schedule = serializers.UUIDField(required=False, help_text="Made by this schedule.")
    priority = serializers.IntegerField(required=False, min_value=0, max_value=9)
    owner = serializers.CharField(required=False, max_length=150)
    created_after = Moment(required=False, help_text="Created at this time or later.")
    created_before = Moment(required=False, help_text="Created before this time.")


class BatchOptions(Strict):
    on_error = serializers.ChoiceField(
        choices=["refuse", "skip"],
        default="refuse",
        help_text="What a bad task means: the whole batch is refused, or the good tasks are accepted without it.",
    )


@extend_schema_field(NUMBER_SCHEMA)
class Number(serializers.Field[Decimal, Any, Any, Any]):
    """A number that is shown exactly."""

    def to_representation(self, value: Decimal) -> int | float | str:
        return shown(value)


@extend_schema_serializer(component_name="TaskResult")
class ShownResult(serializers.Serializer[TaskResult]):
    id = serializers.UUIDField()
    result = Number()
    created_at = serializers.DateTimeField()


@extend_schema_serializer(component_name="Task")
class ShownTask(serializers.Serializer[Task]):
    """Two numbers to add, and what came of it."""

    url = serializers.URLField(read_only=True)
    id = serializers.UUIDField()
    a = Number()
    b = Number()
    operation = serializers.CharField(allow_null=True, help_text="As it was given; null if a and b were.")
    priority = serializers.IntegerField(help_text="0 is the most urgent, 9 the least.")
    owner = serializers.CharField()
    status = serializers.ChoiceField(choices=TaskStatus.choices)
    result = serializers.SerializerMethodField(help_text="The latest; null if there is none yet.")
    failed_message = serializers.CharField(allow_null=True, help_text="The error of the last failed attempt, if any.")
    celery_task_id = serializers.CharField(
        allow_null=True, help_text="The message that woke its worker, as in Flower."
    )
    schedule = serializers.UUIDField(allow_null=True, help_text="The schedule that made it, perhaps deleted by now.")
    scheduled_for = serializers.DateTimeField(allow_null=True, help_text="The occurrence of its schedule that it is.")
    job = serializers.URLField(read_only=True, help_text="GET: the job that is its latest run.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    @extend_schema_field(NUMBER_SCHEMA | {"type": ["integer", "number", "string", "null"]})
    def get_result(self, task: Task) -> Any:
        return None

    def to_representation(self, task: Task) -> dict[str, Any]:
        job, root = task.job, self.context["root"]
        return {
            "url": link(root, "task", task.id),
            "id": task.id,
            "a": shown(task.a),
            "b": shown(task.b),
            "operation": task.operation or None,
            "priority": task.priority,
            "owner": task.owner,
            "status": STATUSES[job.status].value,
            "result": None if task.latest_result is None else shown(task.latest_result),
            "failed_message": job.error or None,
            "celery_task_id": job.celery_task_id or None,
            "schedule": task.schedule_id,
            "scheduled_for": task.scheduled_for,
            "job": link(root, "job", task.job_id),
            "created_at": task.created_at,
            "updated_at": max(task.updated_at, job.updated_at),
        }


@extend_schema_serializer(component_name="TaskWithResults")
class ShownTaskWithResults(ShownTask):
    """A task and what its runs came to."""

    results = ShownResult(many=True, help_text="Newest first, at most a hundred.")

    def to_representation(self, task: Task) -> dict[str, Any]:
        results = [
            {"id": result.id, "result": shown(result.result), "created_at": result.created_at}
            for result in task.newest_results
        ]
        return super().to_representation(task) | {"results": results}


class AcceptedTask(serializers.Serializer[Any]):
    index = serializers.IntegerField(help_text="Its place in the batch.")
    id = serializers.UUIDField()
    url = serializers.URLField()
    status = serializers.CharField(help_text="PENDING.")


class RejectedTask(serializers.Serializer[Any]):
    pointer = serializers.CharField(help_text="Where, as a JSON pointer (RFC 6901).")
    code = serializers.CharField(help_text="For programs.")
    detail = serializers.CharField(help_text="For people.")


class AcceptedBatch(serializers.Serializer[Any]):
    """What became of a batch."""

    accepted = serializers.IntegerField()
    rejected = serializers.IntegerField(help_text="0 unless on_error=skip.")
    tasks = AcceptedTask(many=True, help_text="Those accepted, in the order of the batch.")
    errors = RejectedTask(many=True, help_text="One for each task rejected, up to a thousand.")


@extend_schema_field(OPERAND_SCHEMA)
class Operand(serializers.Field[Decimal, Any, Any, Any]):
    def to_internal_value(self, data: Any) -> Decimal:
        try:
            return read_operand(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error), "invalid") from None


class Flag(serializers.BooleanField):
    """true or false; nothing that could be taken for one of them."""

    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            self.fail("invalid", input=data)
        return data


def _count(help_text: str, **options: Any) -> Integer:
    return Integer(required=False, allow_null=True, default=None, help_text=help_text, **options)


@extend_schema_serializer(component_name="TaskScheduleBody")
class ScheduleBody(Strict):
    """When to add what: a and b or operation, and exactly one of interval, every_x_days and/or every_x_hours, cron and
    rrule. In a PUT, what is left out becomes its default, but scheduled_at and enabled stay as they were. In a PATCH,
    one recurrence takes the place of another.
    """

    a = Operand(required=False)
    b = Operand(required=False)
    operation = Text(
        required=False, allow_null=True, max_length=LONGEST_OPERATION, help_text='a and b in one: "1.5+2".'
    )
    priority = Integer(
        required=False, default=5, min_value=0, max_value=9, help_text="0 is the most urgent, 9 the least."
    )
    scheduled_at = Moment(
        required=False,
        help_text="The start, from which every occurrence is computed, in whole seconds. Now if not given.",
    )
    ends_at = Moment(required=False, allow_null=True, default=None, help_text="Nothing runs after this time.")
    timezone = Text(
        required=False, default="UTC", max_length=64, help_text="IANA name of the zone whose days and hours count."
    )
    interval = _count("Seconds between two runs.")
    every_x_days = _count("Days between two runs, by the clock on the wall; together with every_x_hours their sum.")
    every_x_hours = _count("Hours between two runs.")
    cron = Text(
        required=False,
        allow_null=True,
        default=None,
        max_length=LONGEST_CRON,
        help_text="minute hour day-of-month month day-of-week, as in `*/15 8-18 * * MON-FRI`.",
    )
    rrule = Text(
        required=False,
        allow_null=True,
        default=None,
        max_length=LONGEST_RRULE,
        help_text="RFC 5545, as in `FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0`.",
    )
    schedule_x_times = _count("Run so many times at most.", min_value=1)
    misfire_policy = serializers.ChoiceField(
        choices=TaskSchedule.MisfirePolicy.choices,
        required=False,
        default=TaskSchedule.MisfirePolicy.LATEST,
        help_text="What becomes of occurrences that were missed because nothing ran.",
    )
    overlap = serializers.ChoiceField(
        choices=TaskSchedule.Overlap.choices,
        required=False,
        default=TaskSchedule.Overlap.ALLOW,
        help_text="What becomes of an occurrence while the schedule's last task has not ended.",
    )
    enabled = Flag(required=False, help_text="Whether it runs; true if not given.")

    needs_operands = True

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        self._settle_operands(attrs)
        if self.partial:
            _replace_recurrence(attrs)
        return attrs

    def _settle_operands(self, attrs: dict[str, Any]) -> None:
        given = {"a", "b"} & attrs.keys()
        if operation := attrs.pop("operation", None):
            if given:
                raise serializers.ValidationError({"operation": NOT_BOTH})
            try:
                attrs["operation"], attrs["a"], attrs["b"] = read_operation(operation)
            except ValueError as error:
                raise serializers.ValidationError({"operation": str(error)}) from None
        elif given:
            attrs["operation"] = ""
        missing = {"a", "b"} - attrs.keys()
        if missing and not self.partial and (self.needs_operands or given):
            raise serializers.ValidationError(
                {name: serializers.ErrorDetail("Give a and b, or operation.", "required") for name in sorted(missing)}
            )


def _replace_recurrence(attrs: dict[str, Any]) -> None:
    """Takes away a recurrence that an edit does not name, if it gives another one."""
    given = {name for name in RECURRENCES & attrs.keys() if attrs[name] is not None}
    if given:
        stays = CALENDAR if given <= CALENDAR else set()
        attrs.update(dict.fromkeys(RECURRENCES - attrs.keys() - stays))


@extend_schema_serializer(component_name="TaskSchedulePreviewBody")
class PreviewBody(ScheduleBody):
    """A schedule as it would be saved; what it adds does not matter here."""

    needs_operands = False


class PreviewOptions(Strict):
    n = serializers.IntegerField(default=10, min_value=1, max_value=MOST_RUNS_SHOWN, help_text="How many.")


class ScheduleFilters(Strict):
    enabled = serializers.BooleanField(required=False, allow_null=True, default=None)
    owner = serializers.CharField(required=False, max_length=150)


class BackfillBody(Strict):
    dry_run = Flag(required=False, default=False, help_text="Only count.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` is a Python keyword, so it cannot be declared like the others."""
        return {
            "from": Moment(help_text="From this time on."),
            "to": Moment(help_text="Up to this time; not later than now."),
            **super().get_fields(),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["to"] < attrs["from"]:
            raise serializers.ValidationError({"to": "The end is before the beginning."})
        return attrs


class Backfilled(serializers.Serializer[Any]):
    """What lies in the time that was asked for."""

    occurrences = serializers.IntegerField()
    already_tasks = serializers.IntegerField(help_text="Those that were tasks already.")
    created = serializers.IntegerField(help_text="Those that became tasks now, or would without dry_run.")
    dry_run = serializers.BooleanField()
    tasks = serializers.URLField(help_text="GET: the schedule's tasks.")


class Run(serializers.Serializer[Any]):
    local = serializers.DateTimeField(help_text="With the zone's offset from UTC at that time.")
    utc = serializers.DateTimeField()


class Preview(serializers.Serializer[Any]):
    """When a schedule will run next."""

    timezone = serializers.CharField()
    runs = Run(many=True)


def preview(runs: Sequence[datetime], zone: ZoneInfo) -> dict[str, Any]:
    return {
        "timezone": zone.key,
        "runs": [{"local": run.astimezone(zone).isoformat(), "utc": run} for run in runs],
    }


@extend_schema_serializer(component_name="TaskSchedule")
class ShownSchedule(serializers.Serializer[TaskSchedule]):
    """When to add two numbers again and again."""

    url = serializers.SerializerMethodField()
    id = serializers.UUIDField()
    a = Number()
    b = Number()
    operation = serializers.SerializerMethodField(help_text="As it was given; null if a and b were.")
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
    enabled = serializers.BooleanField()
    next_run_at = serializers.DateTimeField(allow_null=True, help_text="Null when it is paused, over, or cannot fire.")
    last_run_at = serializers.DateTimeField(allow_null=True)
    run_count = serializers.IntegerField(help_text="Occurrences that were run.")
    missed_count = serializers.IntegerField(help_text="Occurrences left out by its policies.")
    last_error = serializers.CharField(help_text="Why it cannot fire; empty if it can.")
    periodic_task = serializers.IntegerField(source="periodic_task_id", allow_null=True, help_text="Its row in Beat.")
    tasks = serializers.SerializerMethodField(help_text="GET: the tasks it made.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    @extend_schema_field(OpenApiTypes.URI)
    def get_url(self, schedule: TaskSchedule) -> str:
        return link(self.context["root"], "task-schedule", schedule.id)

    @extend_schema_field({"type": ["string", "null"]})
    def get_operation(self, schedule: TaskSchedule) -> str | None:
        return schedule.operation or None

    @extend_schema_field(OpenApiTypes.URI)
    def get_tasks(self, schedule: TaskSchedule) -> str:
        return tasks_url(self.context["root"], schedule)


def tasks_url(root: str, schedule: TaskSchedule) -> str:
    return f"{link(root, 'tasks')}?schedule={schedule.id}"
