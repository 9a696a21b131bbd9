"""Jobs and their kinds as the API takes and shows them: validation, representation, and the documentation of both."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator import queries
from orchestrator.http.examples import A_JOB, A_JOBS_CONTENTS
from orchestrator.http.fields import (
    AwareDateTimeField,
    LinkField,
    QueryFloatField,
    StrictCharField,
    StrictChoiceField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
    StrictUUIDField,
)
from orchestrator.http.links import link
from orchestrator.http.waits import WaitForField
from orchestrator.kinds import MAX_ATTEMPTS
from orchestrator.models import Attempt, Checkpoint, Job
from orchestrator.states import UNFINISHED, Status
from orchestrator.submission import MAX_NOTIFY
from orchestrator.unique import MAX_FIELDS, MAX_KEY_CHARACTERS, MAX_SECONDS, ON_CONFLICT, BadUnique, Unique

# That one request may submit together.
MAX_JOBS = 10_000

LIMITS = ("max_running", "max_running_per_owner", "max_running_per_key", "rate")
WAITING_FOR = (
    "dependencies", "start_time", "signal", "retry", "snooze", "paused_kind", "paused_owner", "worker", *LIMITS,
)  # fmt: skip


def _seconds(help_text: str) -> StrictFloatField:
    return StrictFloatField(required=False, min_value=0, max_value=MAX_SECONDS, help_text=help_text)


@extend_schema_serializer(component_name="Unique")
class UniqueSerializer(StrictSerializer):
    """What makes the job the same as another of its kind and owner: a key, fields of the payload, or the whole
    payload. Of those only one is unfinished at any time.
    """

    key = StrictCharField(required=False, max_length=MAX_KEY_CHARACTERS, help_text="Equal for the same jobs.")
    fields = serializers.ListField(  # type: ignore[assignment]
        required=False,
        child=StrictCharField(),
        min_length=1,
        max_length=MAX_FIELDS,
        help_text="The fields of the payload that are equal for the same jobs.",
    )
    for_seconds = _seconds(
        "A completed job stays the one until so long after its submission; one that failed or was cancelled does not."
    )
    on_conflict = StrictChoiceField(
        choices=ON_CONFLICT,
        required=False,
        help_text="If there is such a job already: `return` it (the default), `replace` its payload, `postpone` it, "
        "or `refuse` this one with 409. `replace` and `postpone` refuse, too, once it has started.",
    )
    wait_seconds = _seconds("With `postpone`: the job starts so long after the last submission.")
    max_wait_seconds = _seconds("With `postpone`: its longest wait; by default ten times `wait_seconds`.")

    def validate(self, attrs: dict[str, Any]) -> Any:
        try:
            return Unique(**attrs)
        except BadUnique as error:
            raise serializers.ValidationError({error.field: str(error)}) from None


class NewJob(StrictSerializer):
    """A job to be submitted; every field may be left out."""

    may_be_empty = True

    kind = StrictCharField(default="demo.slices", max_length=100, help_text="One of `GET /kinds`.")
    payload = serializers.JSONField(
        required=False, allow_null=True, help_text="Must match the kind's JSON Schema in `GET /kinds`; {} by default."
    )
    priority = StrictIntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=9,
        help_text="0 is the most urgent, 9 the least; by default the kind's own.",
    )
    run_at = AwareDateTimeField(required=False, allow_null=True, help_text="The earliest start; by default now.")
    max_attempts = StrictIntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_ATTEMPTS,
        help_text="By default the kind's own.",
    )
    wait_for = WaitForField(
        required=False,
        allow_null=True,
        help_text="A signal that has to come before it starts: its name, or an object.",
    )
    owner = StrictCharField(
        required=False,
        allow_blank=True,
        max_length=150,
        help_text="The owner of the job: you, or another user if you may submit for others. Any name where "
        "REQUIRE_AUTH is off.",
    )
    unique = UniqueSerializer(
        required=False, allow_null=True, help_text="By default as the kind declares. For kinds that declare nothing."
    )
    notify = serializers.ListField(
        child=StrictUUIDField(),
        required=False,
        allow_null=True,
        max_length=MAX_NOTIFY,
        help_text="Ids of notifications by which its end is told, beside those that match it by themselves.",
    )


class NewJobs(StrictSerializer):
    """Jobs to be submitted together, all or none."""

    jobs = serializers.ListField(child=NewJob(), min_length=1, max_length=MAX_JOBS)


class AcceptedJob(serializers.Serializer[Any]):
    job_id = serializers.UUIDField()
    kind = serializers.CharField()
    link = LinkField(help_text="GET.")
    duplicate = serializers.BooleanField(help_text="Whether it is a unique job that was there already.")


class AcceptedJobs(serializers.Serializer[Any]):
    accepted = serializers.IntegerField(help_text="How many new ones.")
    jobs = AcceptedJob(many=True, help_text="In the order of the request.")


class JobChange(StrictSerializer):
    """What is to be changed of a job before it starts; at least one of both."""

    priority = StrictIntegerField(
        required=False, min_value=0, max_value=9, help_text="0 is the most urgent, 9 the least."
    )
    run_at = AwareDateTimeField(
        required=False, allow_null=True, help_text="The earliest start; null: as soon as possible."
    )


class WaitOption(StrictSerializer):
    wait = QueryFloatField(
        required=False,
        min_value=0,
        help_text="Respond as soon as the job has ended, at the latest after this many seconds. The server limits "
        "both the time and the number of waiting requests; beyond that it responds earlier.",
    )


@extend_schema_serializer(component_name="JobProgress")
class ProgressSerializer(serializers.Serializer[Job]):
    done = serializers.IntegerField(allow_null=True)
    total = serializers.IntegerField(allow_null=True)
    message = serializers.CharField()


class ChildrenCountsSerializer(serializers.Serializer[dict[str, int]]):
    total = serializers.IntegerField()
    created = serializers.IntegerField()
    running = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()


class FailedAttemptSerializer(serializers.Serializer[Attempt]):
    number = serializers.IntegerField()
    outcome = serializers.ChoiceField(choices=Attempt.Outcome.choices)
    error = serializers.CharField()
    traceback = serializers.CharField(
        required=False, help_text="Only for those who may see attempts, or where REQUIRE_AUTH is off."
    )
    worker = serializers.CharField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField()


@extend_schema_serializer(component_name="Checkpoint")
class CheckpointSerializer(serializers.Serializer[Checkpoint]):
    name = serializers.CharField()
    ended_at = serializers.DateTimeField()
    seconds = serializers.FloatField(help_text="How long it took.")


@extend_schema_serializer(component_name="JobLinks")
class LinksSerializer(serializers.Serializer[Job]):
    """Where to go from here; null where the job's state does not allow it."""

    self = LinkField(read_only=True, help_text="GET.")
    cancel = LinkField(read_only=True, allow_null=True, help_text="DELETE.")
    retry = LinkField(read_only=True, allow_null=True, help_text="POST.")
    parent = LinkField(read_only=True, allow_null=True, help_text="GET.")  # type: ignore[assignment]
    children = LinkField(read_only=True, allow_null=True, help_text="GET.")


@extend_schema_serializer(component_name="Job", examples=[OpenApiExample("A job", A_JOB, response_only=True)])
class JobSerializer(serializers.Serializer[Any]):
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
    progress = ProgressSerializer()
    result = serializers.JSONField(help_text="What the handler returned; null until then.")
    error = serializers.CharField(help_text="Of the last attempt; empty if none failed.")
    attempts = FailedAttemptSerializer(many=True, help_text="Those that did not complete the job.")
    signal = serializers.CharField(allow_null=True, help_text="The signal that it waits for just now.")
    parent = serializers.UUIDField(allow_null=True)  # type: ignore[assignment]
    name = serializers.CharField(help_text="A child's name within its pipeline.")
    children = ChildrenCountsSerializer(allow_null=True, help_text="Null when it has none.")
    schedule = serializers.UUIDField(
        allow_null=True, help_text="The schedule that submitted it, even if deleted since."
    )
    scheduled_for = serializers.DateTimeField(allow_null=True, help_text="The occurrence of its schedule.")
    celery_task_id = serializers.CharField(
        help_text="Its id in Flower, which is its own id; empty until its first attempt."
    )
    trace_id = serializers.CharField(
        allow_null=True, help_text="Its trace, if OpenTelemetry was on when it was submitted."
    )
    worker = serializers.CharField(help_text="The worker that ran it last.")
    run_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField()
    links = LinksSerializer()

    @extend_schema_field(serializers.ChoiceField(choices=WAITING_FOR, allow_null=True))
    def get_waiting_for(self, job: queries.JobDetail) -> str | None:
        return queries.waiting_for(job)

    # The fields above are for the document: to go through them takes ten times as long.

    def to_representation(self, job: queries.JobDetail) -> dict[str, Any]:
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
            "signal": job.awaited_signal,
            "parent": job.parent_id,
            "name": job.name,
            "children": job.children_counts,
            "schedule": job.schedule_id,
            "scheduled_for": job.scheduled_for,
            "celery_task_id": job.celery_task_id,
            "trace_id": job.trace_id,
            "worker": job.worker_name,
            "run_at": job.run_at,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "updated_at": job.updated_at,
            "links": _links(job),
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


def _links(job: queries.JobDetail) -> dict[str, str | None]:
    can_retry = not job.parent_id and job.status in (Status.FAILED, Status.CANCELLED)
    itself = link("job", job.id)
    return {
        "self": itself,
        "cancel": itself if job.status in UNFINISHED else None,
        "retry": link("retry", job.id) if can_retry else None,
        "parent": link("job", job.parent_id) if job.parent_id else None,
        "children": f"{link('jobs')}?parent={job.id}" if job.children_counts else None,
    }


class LimitWaitSerializer(serializers.Serializer[Any]):
    name = serializers.ChoiceField(choices=LIMITS)
    of = serializers.CharField(
        allow_null=True, help_text="The owner or the concurrency key that has used it up; null: all of the kind."
    )
    expected_seconds = serializers.IntegerField(
        allow_null=True, help_text="About how long it waits; null where nothing is known yet."
    )


@extend_schema_serializer(
    component_name="DuplicateJob",
    examples=[OpenApiExample("A job that was there", A_JOB | {"duplicate": True}, response_only=True)],
)
class DuplicateJobSerializer(JobSerializer):
    """A unique job that was there already."""

    duplicate = serializers.BooleanField(help_text="Always true.")

    def to_representation(self, job: queries.JobDetail) -> dict[str, Any]:
        return super().to_representation(job) | {"duplicate": True}


@extend_schema_serializer(
    component_name="JobWithPayload",
    examples=[OpenApiExample("A job", A_JOB | A_JOBS_CONTENTS, response_only=True)],
)
class JobWithPayloadSerializer(JobSerializer):
    """A job with its payload, its checkpoints, and the limit it waits for."""

    payload = serializers.JSONField()
    limit = LimitWaitSerializer(allow_null=True, help_text="The limit of its kind that it waits for.")
    checkpoints = CheckpointSerializer(many=True, help_text="What its handler has done once, in order.")

    def to_representation(self, job: queries.JobDetail) -> dict[str, Any]:
        return super().to_representation(job) | {
            "payload": job.payload,
            "limit": _limit(job),
            "checkpoints": job.passed_checkpoints,
        }


def _limit(job: queries.JobDetail) -> dict[str, Any] | None:
    wait = job.limit_wait
    if wait is None:
        return None
    return {"name": wait.limit, "of": wait.of, "expected_seconds": queries.expected_seconds(job)}
