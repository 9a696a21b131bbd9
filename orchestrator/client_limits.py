"""What a client may ask for who lacks the permission to exceed it. The settings CLIENT_… say how much that is.

They bound what one client can do to the others, not what a job may be: code that submits jobs is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db.models import Count, QuerySet
from django.utils import timezone

from access.permissions import User, may
from orchestrator import stored_bytes
from orchestrator.graphs.checks import MAX_PROBLEMS
from orchestrator.graphs.references import escaped
from orchestrator.inputs import BadSubmission
from orchestrator.kind_problems import Problem
from orchestrator.kinds import MAX_ATTEMPTS, kind_named
from orchestrator.models import Job
from orchestrator.pipeline_steps import Child
from orchestrator.states import FINAL, UNFINISHED
from orchestrator.unique import Unique

PERMISSION = "orchestrator.exceed_client_limits"
OR_PERMISSION = f"More requires the permission {PERMISSION}."
# When a client with too many unfinished jobs may try again.
RETRY_SECONDS = 10


class BeyondLimits(BadSubmission):
    """The client asks for what takes the permission to exceed the limits."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        Exception.__init__(self, problems[0].detail)


class QuotaExceeded(Exception):
    """The client has as much of something as one may have; `retry_after_seconds` says when to try again."""

    def __init__(self, detail: str) -> None:
        self.retry_after_seconds = RETRY_SECONDS
        super().__init__(f"{detail} {OR_PERMISSION}")


class Quotas(msgspec.Struct, frozen=True):
    """What an owner may have at a time; None: without a limit. A bulk action keeps those of whoever asks for it."""

    max_unfinished: int | None = None
    max_stored_bytes: int | None = None


NO_QUOTAS = Quotas()


class ClientLimits(NamedTuple):
    """What a client may ask for; None: without a limit."""

    priorities: range = range(10)
    max_attempts: int = MAX_ATTEMPTS
    latest_start: datetime | None = None
    quotas: Quotas = NO_QUOTAS

    def nearest_priority(self, priority: int, kind: str) -> int:
        """The priority, if the client may ask for it, or gets it for that kind without asking; else the nearest."""
        if priority == kind_named(kind).priority:
            return priority
        return min(max(priority, self.priorities[0]), self.priorities[-1])

    def nearest_attempts(self, max_attempts: int, kind: str) -> int:
        """As many attempts, as far as the client may ask for them or gets them for that kind without asking."""
        return min(max_attempts, max(self.max_attempts, kind_named(kind).max_attempts))


NO_LIMITS = ClientLimits()


def limits_of(user: User) -> ClientLimits:
    if may(user, PERMISSION):
        return NO_LIMITS
    return ClientLimits(
        priorities=settings.CLIENT_PRIORITIES,
        max_attempts=settings.ENV.CLIENT_MAX_ATTEMPTS,
        latest_start=timezone.now() + timedelta(days=settings.ENV.CLIENT_RUN_AT_DAYS),
        quotas=Quotas(settings.ENV.CLIENT_MAX_UNFINISHED, settings.ENV.CLIENT_MAX_STORED_BYTES),
    )


# What is asked of a job


def check(asked: Mapping[str, Any], limits: ClientLimits, pointer: str = "") -> None:
    """Raises BeyondLimits where a job's priority, max_attempts, run_at or longest wait is not what the client may ask
    for.

    pointer: to what is asked within the body.
    """
    if problems := _problems(asked, limits, pointer):
        raise BeyondLimits(problems)


def check_pipeline(asked: Mapping[str, Any], limits: ClientLimits) -> None:
    """Does so for a pipeline, its steps and what undoes them. What no step may ask for is refused as that later."""
    if problems := _problems(asked, limits) + _problems_of_steps(asked.get("steps"), limits):
        raise BeyondLimits(problems[:MAX_PROBLEMS])


def _problems_of_steps(steps: Any, limits: ClientLimits, within: str = "") -> list[Problem]:
    """Also those of steps that are pipelines. within: a pointer to the pipeline."""
    problems: list[Problem] = []
    for name, step in steps.items() if isinstance(steps, dict) else ():
        if isinstance(step, dict):
            pointer = f"{within}/steps/{escaped(name)}"
            problems += _problems(_valid(step), limits, pointer)
            if isinstance(undoing := step.get("compensate"), dict):
                problems += _problems(_valid(undoing), limits, f"{pointer}/compensate")
            if isinstance(nested := step.get("pipeline"), dict):
                problems += _problems_of_steps(nested.get("steps"), limits, f"{pointer}/pipeline")
    return problems


def _valid(step: Mapping[str, Any]) -> dict[str, int]:
    """What a step asks for, as far as any step may."""
    valid = {"priority": range(10), "max_attempts": range(1, MAX_ATTEMPTS + 1)}
    return {name: step[name] for name, those in valid.items() if type(step.get(name)) is int and step[name] in those}


def _problems(asked: Mapping[str, Any], limits: ClientLimits, pointer: str = "") -> list[Problem]:
    problems = []
    if (priority := asked.get("priority")) is not None and priority not in limits.priorities:
        problems.append(Problem("/priority", "client_limit", priorities_allowed(limits)))
    if (attempts := asked.get("max_attempts")) is not None and attempts > limits.max_attempts:
        detail = f"You may ask for at most {limits.max_attempts} attempts, not {attempts}. {OR_PERMISSION}"
        problems.append(Problem("/max_attempts", "client_limit", detail))
    if limits.latest_start is not None:
        problems += _problems_of_start(asked, limits.latest_start)
    return [each._replace(pointer=pointer + each.pointer) for each in problems]


def _problems_of_start(asked: Mapping[str, Any], latest: datetime) -> list[Problem]:
    days = f"in {settings.ENV.CLIENT_RUN_AT_DAYS:g} days"
    run_at, unique = asked.get("run_at"), asked.get("unique")
    if run_at is not None and run_at > latest:
        return [Problem("/run_at", "client_limit", f"A job may start at the latest {days}. {OR_PERMISSION}")]
    if isinstance(unique, Unique) and timezone.now() + timedelta(seconds=unique.longest_wait) > latest:
        name = "wait_seconds" if unique.max_wait_seconds is None else "max_wait_seconds"
        detail = f"It could be postponed by {unique.longest_wait:,g} s in all, and has to start {days} at the latest."
        return [Problem(f"/unique/{name}", "client_limit", f"{detail} {OR_PERMISSION}")]
    return []


def nearest_step(step: Child, limits: ClientLimits) -> Child:
    """The step with the priority and attempts that the client may ask for, and so with its own steps. Raises
    UnknownKind.
    """
    undoing, nested = step.compensate, step.pipeline
    if undoing and undoing.get("max_attempts") is not None:
        undoing = undoing | {"max_attempts": limits.nearest_attempts(undoing["max_attempts"], undoing["kind"])}
    if nested is not None:
        nested = replace(nested, steps=[nearest_step(each, limits) for each in nested.steps])
    return replace(
        step,
        priority=None if step.priority is None else limits.nearest_priority(step.priority, step.kind),
        max_attempts=None if step.max_attempts is None else limits.nearest_attempts(step.max_attempts, step.kind),
        compensate=undoing,
        pipeline=nested,
    )


def priorities_allowed(limits: ClientLimits) -> str:
    first, last = limits.priorities[0], limits.priorities[-1]
    return f"You may ask for the priorities {first} to {last}. {OR_PERMISSION}"


# What an owner has


def check_quotas(owners: Mapping[str, int], limits: ClientLimits, *, stored: int) -> None:
    """Raises QuotaExceeded if an owner would have too many unfinished jobs with so many more, or too much stored for
    them. Those who submit at the same moment do not see each other, so there can be a few more.

    stored: bytes that all of these jobs bring along.
    """
    count = sum(owners.values())
    _check_unfinished(owners, limits.quotas)
    check_stored({owner: stored * more // count if count else 0 for owner, more in owners.items()}, limits.quotas)


def check_retry(job_id: UUID, quotas: Quotas) -> None:
    """Raises QuotaExceeded if the job's owner would have too many unfinished jobs with this one, which has ended, or
    too much stored for them.
    """
    check_again(Job.objects.filter(id=job_id, parent=None, status__in=FINAL), quotas)


def check_again(jobs: QuerySet[Job], quotas: Quotas, *, is_now: bool = True) -> None:
    """Raises QuotaExceeded if an owner would have so with jobs like all of these, none of which is a child.

    is_now: whether they are submitted now, so that what they store counts before it is measured.
    """
    if quotas == NO_QUOTAS:
        return
    owners = dict(jobs.order_by().values_list("owner").annotate(Count("id")))
    _check_unfinished(owners, quotas)
    stored = {owner: stored_bytes.measure(jobs.filter(owner=owner)) for owner in owners}
    check_stored(stored, quotas, is_now=is_now)


def check_signal(job_id: UUID, quotas: Quotas, *, stored: int) -> None:
    """Raises QuotaExceeded if the job's owner would have too much stored with a signal of so many bytes."""
    if quotas.max_stored_bytes is not None:
        check_stored(dict.fromkeys(Job.objects.filter(id=job_id).values_list("owner", flat=True), stored), quotas)


def _check_unfinished(owners: Mapping[str, int], quotas: Quotas) -> None:
    if quotas.max_unfinished is None:
        return
    for owner, more in owners.items():
        unfinished = Job.objects.filter(owner=owner, parent=None, status__in=UNFINISHED)
        room = quotas.max_unfinished - more
        if owner and (room < 0 or unfinished[: room + 1].count() > room):
            raise QuotaExceeded(
                f"{owner!r} would have more than {quotas.max_unfinished:,} unfinished jobs; wait for some to end, or "
                "cancel some."
            )


def check_stored(owners: Mapping[str, int], quotas: Quotas, *, is_now: bool = True) -> None:
    """Raises QuotaExceeded if an owner would have too much stored for unfinished jobs with so many bytes more."""
    if quotas.max_stored_bytes is None:
        return
    for owner, more in owners.items():
        if owner and stored_bytes.stored_bytes(owner) + more > quotas.max_stored_bytes:
            raise QuotaExceeded(
                f"{owner!r} would have more than {quotas.max_stored_bytes:,} bytes stored for unfinished jobs; wait "
                "for some to end, or cancel some."
            )
        if is_now:
            stored_bytes.add(owner, more)
