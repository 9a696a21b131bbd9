"""What a client may ask for who lacks the permission to exceed it. The settings CLIENT_… say how much that is.

They bound what one client can do to the others, not what a job may be: code that submits jobs is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from rest_framework.request import Request

from access.permissions import User, may
from orchestrator.graphs.checks import MAX_PROBLEMS
from orchestrator.http import stored_bytes
from orchestrator.http.json_pointer import escaped
from orchestrator.http.requests import BadInput
from orchestrator.kinds import MAX_ATTEMPTS, Problem
from orchestrator.models import Job
from orchestrator.states import FINAL, UNFINISHED

PERMISSION = "orchestrator.exceed_client_limits"
OR_PERMISSION = f"More requires the permission {PERMISSION}."
# When a client with too many unfinished jobs may try again.
RETRY_SECONDS = 10


class QuotaExceeded(Exception):
    """The client has as much of something as one may have; `retry_after_seconds` says when to try again."""

    def __init__(self, detail: str) -> None:
        self.retry_after_seconds = RETRY_SECONDS
        super().__init__(f"{detail} {OR_PERMISSION}")


class ClientLimits(NamedTuple):
    """What a client may ask for; None: without a limit."""

    priorities: range = range(10)
    max_attempts: int = MAX_ATTEMPTS
    latest_start: datetime | None = None
    max_unfinished: int | None = None
    max_stored_bytes: int | None = None


NO_LIMITS = ClientLimits()


def limits_of(user: User) -> ClientLimits:
    if may(user, PERMISSION):
        return NO_LIMITS
    return ClientLimits(
        priorities=settings.CLIENT_PRIORITIES,
        max_attempts=settings.ENV.CLIENT_MAX_ATTEMPTS,
        latest_start=timezone.now() + timedelta(days=settings.ENV.CLIENT_RUN_AT_DAYS),
        max_unfinished=settings.ENV.CLIENT_MAX_UNFINISHED,
        max_stored_bytes=settings.ENV.CLIENT_MAX_STORED_BYTES,
    )


def check(asked: Mapping[str, Any], limits: ClientLimits, pointer: str = "") -> None:
    """Raises BadInput where a job's priority, max_attempts or run_at is not what the client may ask for.

    pointer: to what is asked within the body.
    """
    if problems := _problems(asked, limits, pointer):
        raise BadInput("", problems)


def check_pipeline(asked: Mapping[str, Any], limits: ClientLimits) -> None:
    """Does so for a pipeline, its steps and what undoes them. What no step may ask for is refused as that later."""
    if problems := _problems(asked, limits) + _problems_of_steps(asked.get("steps"), limits):
        raise BadInput("", problems[:MAX_PROBLEMS])


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
    run_at = asked.get("run_at")
    if run_at is not None and limits.latest_start is not None and run_at > limits.latest_start:
        detail = f"A job may start at the latest in {settings.ENV.CLIENT_RUN_AT_DAYS:g} days. {OR_PERMISSION}"
        problems.append(Problem("/run_at", "client_limit", detail))
    return [each._replace(pointer=pointer + each.pointer) for each in problems]


def priorities_allowed(limits: ClientLimits) -> str:
    first, last = limits.priorities[0], limits.priorities[-1]
    return f"You may ask for the priorities {first} to {last}. {OR_PERMISSION}"


def check_quotas(owners: Mapping[str, int], limits: ClientLimits, *, stored: int) -> None:
    """Raises QuotaExceeded if an owner would have too many unfinished jobs with so many more, or too much stored for
    them. Those who submit at the same moment do not see each other, so there can be a few more.

    stored: bytes that all of these jobs bring along.
    """
    _check_unfinished(owners, limits)
    _check_stored(owners, limits, stored)


def check_retry(job_id: UUID, limits: ClientLimits) -> None:
    """Raises QuotaExceeded if the job's owner would have too many unfinished jobs with this one, which has ended, or
    has too much stored for them.
    """
    if ended := Job.objects.filter(id=job_id, parent=None, status__in=FINAL).only("owner").first():
        check_quotas({ended.owner: 1}, limits, stored=0)


def body_bytes(request: Request) -> int:
    """How long the request's body is, or may be where that is not known before."""
    return int(request.META.get("CONTENT_LENGTH") or settings.ENV.MAX_BODY_BYTES)


def _check_unfinished(owners: Mapping[str, int], limits: ClientLimits) -> None:
    if limits.max_unfinished is None:
        return
    for owner, more in owners.items():
        unfinished = Job.objects.filter(owner=owner, parent=None, status__in=UNFINISHED)
        room = limits.max_unfinished - more
        if owner and (room < 0 or unfinished[: room + 1].count() > room):
            raise QuotaExceeded(
                f"{owner!r} would have more than {limits.max_unfinished:,} unfinished jobs; wait for some to end, or "
                "cancel some."
            )


def _check_stored(owners: Mapping[str, int], limits: ClientLimits, stored: int) -> None:
    if limits.max_stored_bytes is None:
        return
    count = sum(owners.values())
    for owner, more in owners.items():
        its = stored * more // count if count else 0
        if owner and stored_bytes.stored_bytes(owner) + its > limits.max_stored_bytes:
            raise QuotaExceeded(
                f"{owner!r} would have more than {limits.max_stored_bytes:,} bytes stored for unfinished jobs; wait "
                "for some to end, or cancel some."
            )
        stored_bytes.add(owner, its)
