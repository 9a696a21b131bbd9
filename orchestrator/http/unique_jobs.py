"""What a client may ask of unique jobs, and whose it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.request import Request

from access.permissions import may, require
from orchestrator.http.requests import BadInput
from orchestrator.kind_problems import Problem
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue.duplicates import Holder
from orchestrator.submission import Accepted, NotUnique


def check_unique(kind: Kind, asked: Mapping[str, Any]) -> None:
    """Raises BadInput where the kind says itself what makes its jobs unique: it relies on that."""
    if kind.unique and asked.get("unique"):
        detail = f"The kind {kind.name!r} declares what makes its jobs unique (GET /kinds shows it); leave this out."
        raise BadInput("", [Problem("/unique", "declared_by_kind", detail)])


def check_may_have(request: Request, job: Job | Accepted, kind: Kind, owner: str) -> None:
    """Raises NotUnique or NotPermitted for a job of somebody else's that was there already, if the client could not
    read it, or may not change it and has. The transaction is to be rolled back.
    """
    if not job.duplicate or job.owner == owner:
        return
    if not may(request.user, "orchestrator.view_job"):
        raise NotUnique(Holder(job.id, kind.name, job.owner, "unfinished", 0), owner=owner)
    if kind.unique and kind.unique.changes_jobs:
        require(request.user, job.owner, "orchestrator.change_job")
