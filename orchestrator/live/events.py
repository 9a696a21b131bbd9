"""Events as text of the format text/event-stream: see "Server-sent events" in the HTML standard."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from orchestrator.live.moves import AttemptRow, AuditRow, JobRow, Move, Place, microseconds
from orchestrator.states import FINAL

Records = tuple[Mapping[UUID, list[AttemptRow]], Mapping[UUID, list[AuditRow]]]

HEARTBEAT = b": heartbeat\n\n"
# How long a client waits before it connects again, in milliseconds.
RETRY = b"retry: 2000\n\n"

_encoder = msgspec.json.Encoder()


def status(job: JobRow, move: Move, *, id: str = "") -> bytes:
    """The job has come to a status."""
    body = {
        "job_id": job.id,
        "kind": job.kind,
        "owner": job.owner,
        "parent": job.parent_id,
        "name": job.name,
        "status": move.status,
        "attempt": move.attempt,
        "outcome": move.outcome or None,
        "error": move.error,
        "ended": move.status in FINAL,
        "at": move.at,
    }
    return _event("status", id or str(move.place), body)


def progress(job: JobRow, *, id: str = "") -> bytes:
    """A running job has come so far."""
    body = {
        "job_id": job.id,
        "attempt": job.attempt,
        "progress": {"done": job.progress_done, "total": job.progress_total, "message": job.progress_message},
        "at": job.updated_at,
    }
    return _event("progress", id or str(job.place), body)


def children(job_id: UUID, running: int, place: Place) -> bytes:
    """Children of the job have started, ended or come further; so many run."""
    return _event("children", str(place), {"job_id": job_id, "running": running})


def gone(job_id: UUID) -> bytes:
    """The job was deleted."""
    return _event("gone", "", {"job_id": job_id})


def mark(at: datetime) -> bytes:
    """No event: everything up to then was told of."""
    return b"id: %s\n\n" % mark_id(at).encode()


def mark_id(at: datetime, number: int = 0) -> str:
    """Of the event of that number after everything up to then."""
    return f"{microseconds(at)}.{number}"


def _event(name: str, id: str, body: Mapping[str, Any]) -> bytes:
    # JSON has no line breaks of its own.
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (id.encode(), name.encode(), _encoder.encode(body))
