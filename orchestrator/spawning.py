"""Children that a running job adds, and what it is given of them once they have ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple
from uuid import UUID

from django.conf import settings

from orchestrator.attempt.session import read_aside
from orchestrator.inputs import BadSubmission, check_numbers, payload_as_json, quoted
from orchestrator.kind import R
from orchestrator.kinds import Kind, kind_named
from orchestrator.pg_values import is_storable

MAX_NAME_CHARACTERS = 100
# All payloads that one attempt adds together, as JSON.
MAX_BYTES = 100_000_000

# The children of a job, those first that it has added first.
CHILDREN = """
SELECT name, kind, status, coalesce(result::text, 'null'), error FROM orchestrator_job
WHERE parent_id = %s ORDER BY created_at, id
"""
RESUME_WITH = "SELECT resume_with FROM orchestrator_step WHERE job_id = %s"


class ChildEnd(NamedTuple):
    """How a child of a job has ended.

    status: COMPLETED; or FAILED, for one that was added with on_failure="continue".
    """

    name: str
    kind: str
    status: str
    result: Any
    error: str


@dataclass(frozen=True)
class AfterChildren(Generic[R]):
    """What a handler returns to be resumed once its children have ended. resume_with: the function that goes on."""

    resume_with: str = ""


class Spawn(NamedTuple):
    """A child that is to be added when the attempt ends. Its payload is of the kind's type."""

    kind: Kind
    payload: Any
    name: str
    priority: int | None
    max_attempts: int | None
    on_failure: Literal["fail", "continue"]


class NotAwaited(Exception):
    """A handler has added children and returned something else than that it waits for them."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"The handler has called job.spawn() {count:,} times, and returned a result: return job.after_children() "
            "to wait for the children, or use submit() for jobs that are not waited for."
        )


class Spawning:
    """What one attempt at a job adds, and where the job goes on."""

    def __init__(self, kind: Kind, job_id: UUID, attempt: int) -> None:
        self._kind, self._job_id, self._attempt = kind, str(job_id), attempt
        self.spawned: list[Spawn] = []
        self._names: set[str] = set()
        self._bytes = 0

    def add(
        self,
        kind: str | Kind,
        payload: Any,
        *,
        name: str,
        priority: int | None,
        max_attempts: int | None,
        on_failure: Literal["fail", "continue"],
    ) -> None:
        """Raises UnknownKind, BadPayload or BadSubmission."""
        self._refuse_transactional()
        kind = kind if isinstance(kind, Kind) else kind_named(kind)
        check_numbers(
            kind.priority if priority is None else priority,
            kind.max_attempts if max_attempts is None else max_attempts,
        )
        if on_failure not in ("fail", "continue"):
            raise BadSubmission("/on_failure", "invalid", f'Give "fail" or "continue", not {on_failure!r:.100}.')
        self._check_name(name)
        fitting, text = payload_as_json(kind, payload)
        self._check_size(text)
        self.spawned.append(Spawn(kind, fitting, name, priority, max_attempts, on_failure))

    def after(self, function: Callable[..., Any] | None) -> AfterChildren[Any]:
        """Raises ValueError for what the job cannot go on with."""
        self._refuse_transactional()
        if function is None:
            if not self.spawned:
                raise ValueError("job.spawn() was not called, so there is nothing to wait for: return a result.")
            return AfterChildren()
        name: str = getattr(function, "__name__", "")
        if name not in self._kind.resumes:
            raise ValueError(
                f"A job of kind {self._kind.name!r} cannot go on with {function!r}: declare it with the decorator "
                "@NAME_OF_THE_HANDLER.after_children."
            )
        return AfterChildren(name)

    def returned(self, result: Any) -> AfterChildren[Any] | None:
        """What the handler has returned, if it waits for children. Raises NotAwaited."""
        if isinstance(result, AfterChildren):
            return result
        if self.spawned:
            raise NotAwaited(len(self.spawned))
        return None

    def function(self) -> Callable[..., Any]:
        """The function that this attempt calls. Raises LookupError for one that this release does not have."""
        kind = self._kind
        if not kind.resumes or self._attempt == 1:
            return kind.handler
        rows = read_aside(RESUME_WITH, [self._job_id])
        name = rows[0][0] if rows else ""
        if name and name not in kind.resumes:
            raise LookupError(f"The kind {kind.name!r} has no function {name!r} to go on with, in this release.")
        return kind.resumes[name] if name else kind.handler

    def children(self) -> tuple[ChildEnd, ...]:
        """All that the job has added so far, in that order, and before them those that its kind has planned."""
        if self._attempt == 1 and not self._kind.plan:
            return ()
        rows = read_aside(CHILDREN, [self._job_id])
        return tuple(
            ChildEnd(name, kind, status, json.loads(result), error) for name, kind, status, result, error in rows
        )

    def _refuse_transactional(self) -> None:
        if self._kind.execution == "transactional":
            raise RuntimeError(
                "A transactional job ends in the transaction of its batch, and adds no children: use a leased kind."
            )

    def _check_name(self, name: str) -> None:
        if name and not is_storable(name, at_most=MAX_NAME_CHARACTERS):
            detail = (
                f"A child's name must have 1 to {MAX_NAME_CHARACTERS} characters, without NUL, not {quoted(name)}."
            )
            raise BadSubmission("/name", "invalid", detail)
        if name in self._names:
            raise BadSubmission("/name", "duplicate", f"Two children are called {quoted(name)}.")
        if len(self.spawned) >= settings.ENV.MAX_CHILDREN:
            detail = f"A job may have at most {settings.ENV.MAX_CHILDREN:,} children."
            raise BadSubmission("/children", "too_many", detail)
        if name:
            self._names.add(name)

    def _check_size(self, text: str) -> None:
        self._bytes += len(text)
        if self._bytes > MAX_BYTES:
            detail = f"The payloads of the children have more than {MAX_BYTES:,} characters together."
            raise BadSubmission("/payload", "too_large", detail)
