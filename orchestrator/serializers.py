"""What the API takes and gives: checks of input, the form of answers, and the documentation of both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.validators import UnicodeUsernameValidator
from django.utils.encoding import iri_to_uri
from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from config.links import link
from config.openapi import A_JOB
from orchestrator import queries
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.retention import kept_days
from orchestrator.states import UNFINISHED, Status
from orchestrator.submission import MOST_ATTEMPTS

WAITING_FOR = ("dependencies", "start_time", "retry", "paused_kind", "worker")
# Years that every time zone's arithmetic, here and in PostgreSQL, has room around.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class Integer(serializers.IntegerField):
    """A JSON integer; neither a text nor true will do."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class Text(serializers.CharField):
    """A JSON text; a number will not do."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Moment(serializers.DateTimeField):
    """A time with its offset from UTC: one without means something else to everyone."""

    default_error_messages = {
        "no_time_zone": "Give the offset from UTC, as in 2030-01-31T12:00:00Z or 2030-01-31T13:00:00+01:00.",
        "out_of_range": "Give a time from the year 1970 to 8999.",
    }

    def enforce_timezone(self, value: datetime) -> datetime:
        if value.utcoffset() is None:
            self.fail("no_time_zone")
        if not EARLIEST <= value < LATEST:
            self.fail("out_of_range")
        return super().enforce_timezone(value)


class Seconds(serializers.FloatField):
    """A span of time, as its seconds."""

    def to_representation(self, value: timedelta) -> float:
        return value.total_seconds()


class Strict(serializers.Serializer[Any]):
    """Input in which a field that is not known is a mistake, not ignored."""

    def to_internal_value(self, data: Any) -> Any:
        known = ", ".join(self.fields) or "none"
        unknown = set(data) - set(self.fields) if isinstance(data, Mapping) else set()
        errors: dict[str, Any] = {
            name: [serializers.ErrorDetail(f"{name!r} is not known here; known are: {known}.", "unknown")]
            for name in sorted(unknown)
        }
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            errors |= error.detail
        if errors:
            raise serializers.ValidationError(errors)
        return value


class NoFields(Strict):
    """An empty body, or {}."""


class NewJob(Strict):
    """A job to be submitted; every field may be left out."""

    kind = Text(default="demo.slices", max_length=100, help_text="One of `GET /kinds`.")
    payload = serializers.JSONField(
        required=False, allow_null=True, help_text="As the kind's JSON Schema in `GET /kinds` says; {} if not given."
    )
    priority = Integer(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=9,
        help_text="0 is the most urgent, 9 the least; the kind's own if not given.",
    )
    run_at = Moment(required=False, allow_null=True, help_text="Not before this time; at once if not given.")
    max_attempts = Integer(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MOST_ATTEMPTS,
        help_text="The kind's own if not given.",
    )
    owner = Text(
        required=False,
        allow_blank=True,
        max_length=150,
        help_text="Whose job it is. Yourself, unless you are staff or REQUIRE_AUTH is off.",
    )


class JobFilters(Strict):
    status = serializers.MultipleChoiceField(
        choices=Status.choices, required=False, help_text="Any of these; may be repeated."
    )
    kind = serializers.CharField(required=False, max_length=100)
    owner = serializers.CharField(required=False, max_length=150)
    parent = serializers.CharField(
        required=False, help_text="The children of this job; `none` for jobs that are nobody's child."
    )
    created_after = Moment(required=False, help_text="Created at this time or later.")
    created_before = Moment(required=False, help_text="Created before this time.")

    def validate_parent(self, value: str) -> Any:
        return None if value == "none" else serializers.UUIDField().run_validation(value)


class WaitOption(Strict):
    wait = serializers.FloatField(
        required=False,
        min_value=0,
        help_text="Answer as soon as the job has ended, at the latest after so many seconds. The server bounds both "
        "the time and how many may wait at once; then the answer simply comes sooner.",
    )


# What is variable in paths.
PATH: dict[str, serializers.Field[Any, Any, Any, Any]] = {
    "username": serializers.CharField(max_length=150, trim_whitespace=False, validators=[UnicodeUsernameValidator()]),
    "job_id": serializers.UUIDField(),
}


@extend_schema_serializer(component_name="OrchestrationStarted")
class Started(serializers.Serializer[Any]):
    message = serializers.CharField(default="Orchestration started.")
    job_id = serializers.UUIDField(source="id")
    status_url = serializers.SerializerMethodField()

    def get_status_url(self, job: Job) -> str:
        return iri_to_uri(link(self.context["root"], "status", job.owner, job.id))


class OrchestrationStatus(serializers.Serializer[Job]):
    job_id = serializers.UUIDField(source="id")
    status = serializers.ChoiceField(
        choices=["PENDING", *[status.value for status in Status if status != Status.CREATED]], source="status_shown"
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    result = serializers.DictField(required=False, help_text="Only when COMPLETED.")
    error = serializers.CharField(required=False, help_text="Only when FAILED.")

    def to_representation(self, job: Job) -> dict[str, Any]:
        shown = {
            "job_id": job.id,
            "status": "PENDING" if job.status == Status.CREATED else job.status,
            "created_at": job.created_at,
            "updated_at": job.updated_at,
        }
        if job.status == Status.COMPLETED:
            shown["result"] = job.result
        if job.status == Status.FAILED:
            shown["error"] = job.error
        return shown


@extend_schema_serializer(component_name="JobProgress")
class Progress(serializers.Serializer[Job]):
    done = serializers.IntegerField(allow_null=True)
    total = serializers.IntegerField(allow_null=True)
    message = serializers.CharField()


class ChildrenCounts(serializers.Serializer[dict[str, int]]):
    total = serializers.IntegerField()
    created = serializers.IntegerField()
    running = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()


class FailedAttempt(serializers.Serializer[Attempt]):
    number = serializers.IntegerField()
    outcome = serializers.ChoiceField(choices=Attempt.Outcome.choices)
    error = serializers.CharField()
    traceback = serializers.CharField(required=False, help_text="Only for staff, or where REQUIRE_AUTH is off.")
    worker = serializers.CharField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField()


@extend_schema_serializer(component_name="JobLinks")
class Links(serializers.Serializer[Job]):
    """Where to go from here; null where the job's state does not allow it."""

    self = serializers.CharField(read_only=True, help_text="GET.")
    cancel = serializers.CharField(read_only=True, allow_null=True, help_text="DELETE.")
    retry = serializers.CharField(read_only=True, allow_null=True, help_text="POST.")
    parent = serializers.CharField(read_only=True, allow_null=True, help_text="GET.")
    children = serializers.CharField(read_only=True, allow_null=True, help_text="GET.")


@extend_schema_serializer(component_name="Job", examples=[OpenApiExample("A job", A_JOB, response_only=True)])
class ShownJob(serializers.Serializer[Job]):
    """A piece of work that was accepted, and how it is doing."""

    job_id = serializers.UUIDField()
    kind = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    waiting_for = serializers.SerializerMethodField(
        help_text="What an unfinished job waits for; null when it runs. A parent waits for its children."
    )
    priority = serializers.IntegerField(help_text="0 is the most urgent, 9 the least.")
    owner = serializers.CharField()
    attempt = serializers.IntegerField(help_text="How many attempts were started.")
    max_attempts = serializers.IntegerField()
    progress = Progress()
    result = serializers.JSONField(allow_null=True)
    error = serializers.CharField(help_text="Of the last attempt; empty if none failed.")
    attempts = FailedAttempt(many=True, help_text="Those that did not complete the job.")
    parent = serializers.UUIDField(allow_null=True)
    name = serializers.CharField(help_text="What a child is called within its pipeline.")
    children = ChildrenCounts(allow_null=True, help_text="Null when it has none.")
    celery_task_id = serializers.CharField(help_text="The message that woke its worker, as Flower shows it.")
    worker = serializers.CharField(help_text="Who ran it last.")
    run_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField()
    links = Links()

    @extend_schema_field(serializers.ChoiceField(choices=WAITING_FOR, allow_null=True))
    def get_waiting_for(self, job: queries.ShownJob) -> str | None:
        return queries.waiting_for(job)

    # The fields above are for the document: to go through them takes ten times as long.

    def to_representation(self, job: queries.ShownJob) -> dict[str, Any]:
        context = self.context
        return {
            "job_id": job.id,
            "kind": job.kind,
            "status": job.status,
            "waiting_for": self.get_waiting_for(job),
            "priority": job.priority,
            "owner": job.owner,
            "attempt": job.attempt,
            "max_attempts": job.max_attempts,
            "progress": {"done": job.progress_done, "total": job.progress_total, "message": job.progress_message},
            "result": job.result,
            "error": job.error,
            "attempts": [_attempt(each, context["shows_tracebacks"]) for each in job.failed_attempts],
            "parent": job.parent_id,
            "name": job.name,
            "children": job.children_counts,
            "celery_task_id": job.celery_task_id,
            "worker": job.worker_name,
            "run_at": job.run_at,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "updated_at": job.updated_at,
            "links": _links(job, context["root"]),
        }


def _attempt(attempt: Attempt, shows_traceback: bool) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "error": attempt.error,
        **({"traceback": attempt.traceback} if shows_traceback else {}),
        "worker": attempt.worker_name,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
    }


def _links(job: queries.ShownJob, root: str) -> dict[str, str | None]:
    can_retry = not job.parent_id and job.status in (Status.FAILED, Status.CANCELLED)
    itself = link(root, "job", job.id)
    return {
        "self": itself,
        "cancel": itself if job.status in UNFINISHED else None,
        "retry": link(root, "retry", job.id) if can_retry else None,
        "parent": link(root, "job", job.parent_id) if job.parent_id else None,
        "children": f"{link(root, 'jobs')}?parent={job.id}" if job.children_counts else None,
    }


@extend_schema_serializer(
    component_name="JobWithPayload",
    examples=[OpenApiExample("A job", A_JOB | {"payload": {"slices": 5, "seconds_per_slice": 1}}, response_only=True)],
)
class ShownJobWithPayload(ShownJob):
    """A job and what it was given."""

    payload = serializers.JSONField()

    def to_representation(self, job: queries.ShownJob) -> dict[str, Any]:
        return super().to_representation(job) | {"payload": job.payload}


@extend_schema_serializer(component_name="Kind")
class ShownKind(serializers.Serializer[Any]):
    name = serializers.CharField(source="kind.name")
    queue = serializers.CharField(source="kind.queue")
    execution = serializers.ChoiceField(choices=["leased", "transactional"], source="kind.execution")
    description = serializers.CharField(source="kind.description")
    priority = serializers.IntegerField(source="kind.priority")
    max_attempts = serializers.IntegerField(source="kind.max_attempts")
    batch_size = serializers.IntegerField(source="kind.batch_size")
    timeout_seconds = Seconds(source="kind.timeout", allow_null=True)
    backoff_seconds = Seconds(source="kind.backoff")
    backoff_ceiling_seconds = Seconds(source="kind.backoff_ceiling")
    on_cancel = serializers.ChoiceField(choices=["rollback", "keep"], source="kind.on_cancel")
    is_pipeline = serializers.SerializerMethodField(
        help_text="Whether every job of the kind is submitted with children."
    )
    max_unfinished_per_owner = serializers.IntegerField(source="kind.max_unfinished_per_owner", allow_null=True)
    kept_days = serializers.SerializerMethodField(help_text="How long a job is kept after its end; 0: for ever.")
    paused_at = serializers.DateTimeField(allow_null=True, help_text="Nothing of the kind is started since.")
    payload = serializers.SerializerMethodField(help_text="JSON Schema (2020-12) of the payload.")

    def get_is_pipeline(self, shown: dict[str, Any]) -> bool:
        return shown["kind"].plan is not None

    def get_kept_days(self, shown: dict[str, Any]) -> float:
        return kept_days(shown["kind"].name, shown["kind"].keep_days)

    def get_payload(self, shown: dict[str, Any]) -> dict[str, Any]:
        kind: Kind = shown["kind"]
        return kind.payload_schema()


@extend_schema_serializer(component_name="Kinds")
class ShownKinds(serializers.Serializer[Any]):
    results = ShownKind(many=True)
