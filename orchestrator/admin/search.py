"""The search for jobs: by what an index leads to, and else among the newest."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import BooleanField, Q, QuerySet
from django.db.models.expressions import RawSQL

from orchestrator.kind_problems import UnknownKind
from orchestrator.kinds import kind_named
from orchestrator.models import Job, Kind
from orchestrator.shown.lists import newest
from orchestrator.states import Status

# Payloads, or errors of failed jobs, that are looked through.
MAX_LOOKED_THROUGH = 10_000
HELP = "Id, owner, kind, error, or payload.field=value"

IN_PAYLOAD = re.compile(r"payload\.([^=\s]+)\s*=\s*(.*)", re.DOTALL)
# A JSON value by its path, as text: 4700 and "4700" alike.
PAYLOAD_IS = "orchestrator_job.payload #>> %s::text[] = %s"


class Found(NamedTuple):
    jobs: QuerySet[Any]
    note: str = ""


def find(jobs: QuerySet[Any], term: str) -> Found:
    """The jobs that the term means, and a note if not all of them were looked at.

    The first of these that makes sense: an id, a field of the payload, a kind, an owner, a part of an error. A prefix
    says which is meant: kind:, owner:, error:.
    """
    if id := _as_id(term):
        return Found(jobs.filter(id=id))
    if found := IN_PAYLOAD.fullmatch(term):
        return _by_payload(jobs, found[1].split("."), found[2])
    prefix, _, rest = term.partition(":")
    if rest and prefix in ("kind", "owner"):
        return Found(jobs.filter(**{prefix: rest.strip()}))
    if rest and prefix == "error":
        return _by_error(jobs, rest.strip())
    if _is_kind(term):
        return Found(jobs.filter(kind=term))
    if Job.objects.filter(owner=term).exists():
        return Found(jobs.filter(owner=term))
    return _by_error(jobs, term)


def _by_payload(jobs: QuerySet[Any], path: list[str], value: str) -> Found:
    condition = RawSQL(PAYLOAD_IS, [path, value], output_field=BooleanField())  # noqa: S611 - a constant
    return Found(
        newest(jobs, MAX_LOOKED_THROUGH).filter(condition),
        f"Among the newest {MAX_LOOKED_THROUGH:,} jobs that fit the filters; no index leads to payloads.",
    )


def _by_error(jobs: QuerySet[Any], text: str) -> Found:
    failed = newest(jobs.filter(status=Status.FAILED), MAX_LOOKED_THROUGH)
    return Found(
        failed.filter(Q(error__icontains=text)),
        f"No kind or owner is called so: errors of the newest {MAX_LOOKED_THROUGH:,} failed jobs that contain it.",
    )


def _is_kind(term: str) -> bool:
    try:
        kind_named(term)
    except UnknownKind:
        return Kind.objects.filter(name=term).exists()
    return True


def _as_id(term: str) -> UUID | None:
    try:
        return UUID(term)
    except ValueError:
        return None
