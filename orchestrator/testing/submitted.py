"""What the code under test has submitted."""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings

from orchestrator.kind import P
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Job
from orchestrator.pg_values import as_json
from orchestrator.testing.clock import Clock

# How many of the jobs that were submitted instead the error shows.
MAX_SHOWN = 20


class Jobs:
    """The jobs of a test: what was submitted, and the clock that they wait for. The fixture `jobs`."""

    def __init__(self) -> None:
        self.clock = Clock()

    @property
    def submitted(self) -> list[Job]:
        """In the order of submission, without the children of pipelines: they are `job.children`."""
        return list(Job.objects.filter(parent=None).order_by("id"))

    def assert_submitted(
        self,
        kind: str | Kind[P, Any, ...],
        payload: P | dict[str, Any] | None = None,
        *,
        owner: str | None = None,
        count: int | None = None,
    ) -> list[Job]:
        """Fails unless such a job was submitted, and so many if `count` is given; returns them.

        payload: compared as it is stored, with the defaults of its type filled in. What is not given may be anything.
        """
        __tracebackhide__ = True
        kind = kind if isinstance(kind, Kind) else kind_named(kind)
        asked = None if payload is None else _as_stored(kind, payload)
        found = [
            job
            for job in self.submitted
            if job.kind == kind.name
            and (asked is None or job.payload == asked)
            and (owner is None or job.owner == owner)
        ]
        if len(found) != count if count is not None else not found:
            raise AssertionError(self._not_as_asked(kind, asked, owner, count, len(found)))
        return found

    def travel(self, seconds: float) -> None:
        """Lets so many seconds pass; see `Clock.travel`."""
        self.clock.travel(seconds)

    def _not_as_asked(self, kind: Kind, asked: Any, owner: str | None, count: int | None, found: int) -> str:
        wanted = "at least once" if count is None else f"{count} times"
        details = "" if asked is None else f" with the payload {json.dumps(asked)}"
        details += "" if owner is None else f" for {owner!r}"
        shown = [f"  {job.kind} {json.dumps(job.payload)} for {job.owner!r}" for job in self.submitted[-MAX_SHOWN:]]
        return "\n".join(
            [f"{kind.name} was submitted {found} times{details}, not {wanted}. Submitted:", *(shown or ["  nothing"])]
        )


def _as_stored(kind: Kind[P, Any, ...], payload: P | dict[str, Any]) -> Any:
    return json.loads(as_json(kind.read_payload(payload), at_most=settings.ENV.MAX_BODY_BYTES))
