"""Which jobs something is to be done to: those that match a filter, as the person who asks may do it to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet

from access.permissions import User, may, owner_of, owners_named, require
from orchestrator import queries
from orchestrator.kind_problems import Problem
from orchestrator.models import Job
from orchestrator.steering.waiting import waiting_for

# A dry run counts no further.
MAX_COUNTED = 100_000

# The kind whose jobs do what is asked for, and which nobody means who means all jobs.
BULK_ACTION = "jobs.bulk_action"


class BadFilter(Exception):
    """The filter names nothing, or nothing that could be."""

    def __init__(self, detail: str) -> None:
        self.problems = [Problem("/filter", "invalid", detail)]
        super().__init__(detail)


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Jobs that fit all that is given: of any of the values in each sequence, and within the times.

    waiting_for: names of `waiting.REASONS`. owner: as the columns have it; `of` makes it of the names that someone
    gives. parent: the children of that job. schedule: submitted by that one.
    """

    ids: Sequence[UUID] = ()
    status: Sequence[str] = ()
    kind: Sequence[str] = ()
    owner: Sequence[str] = ()
    queue: Sequence[str] = ()
    priority: Sequence[int] = ()
    waiting_for: Sequence[str] = ()
    parent: UUID | None = None
    schedule: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None

    def __post_init__(self) -> None:
        if not self.given:
            raise BadFilter(f"Name at least one of {', '.join(asdict(self))}; all jobs are never meant.")

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in ((), [], None)}

    def of(self, user: User) -> JobFilter:
        """The same with the owners whom the user means by their names."""
        return replace(self, owner=[owner for name in self.owner for owner in owners_named(user, name)])

    def matching(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """The jobs that fit."""
        for column in ("status", "kind", "owner", "queue", "priority"):
            if values := getattr(self, column):
                jobs = jobs.filter(**{f"{column}__in": values})
        if self.waiting_for:
            jobs = jobs.filter(waiting_for(self.waiting_for))
        if self.ids:
            jobs = jobs.filter(id__in=self.ids)
        if self.parent:
            jobs = jobs.filter(parent=self.parent)
        if self.schedule:
            jobs = jobs.filter(schedule_id=self.schedule)
        return self._within_times(jobs)

    def apply(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """The jobs that fit and that are meant to have something done to them. Unless parent or ids are given, only
        jobs that are nobody's children: what is done to a child stops its pipeline.
        """
        if not self.ids and not self.parent:
            jobs = jobs.filter(parent=None)
        if BULK_ACTION not in self.kind and not self.ids:
            jobs = jobs.exclude(kind=BULK_ACTION)
        return self.matching(jobs)

    def _within_times(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        ended = Q()
        if self.finished_after:
            ended &= Q(finished_at__gte=self.finished_after)
        if self.finished_before:
            ended &= Q(finished_at__lt=self.finished_before)
        return queries.created_between(jobs.filter(ended), self.created_after, self.created_before)


def permitted(user: User, wanted: JobFilter, permission: str) -> QuerySet[Job]:
    """The jobs that fit and that the user may do it to: everyone's with the permission, else the user's own.

    Raises NotPermitted where another owner is named.
    """
    jobs = queries.visible_jobs(user)
    wanted = wanted.of(user)
    for owner in wanted.owner:
        require(user, owner, permission)
    if not may(user, permission):
        jobs = jobs.filter(owner=owner_of(user)) if user.is_authenticated else jobs.none()
    return wanted.apply(jobs)


class Count(NamedTuple):
    """How many jobs match; at least so many if it is not exact."""

    matched: int
    exact: bool


def count(jobs: QuerySet[Job]) -> Count:
    """Counts MAX_COUNTED at most."""
    found = jobs.order_by()[: MAX_COUNTED + 1].count()
    return Count(min(found, MAX_COUNTED), found <= MAX_COUNTED)
