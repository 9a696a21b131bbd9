"""The life of a job: its states and the only legal moves between them."""

from django.db import models


class Status(models.TextChoices):
    """Where a job is in its life. Everything finer is a column or is derived from columns."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


# Each legal move and what makes it. A transactional job passes RUNNING within one statement, where nobody sees it.
MOVES: dict[tuple[Status, Status], str] = {
    (Status.CREATED, Status.RUNNING): "a worker claims it",
    (Status.CREATED, Status.CANCELLED): "cancelled before it started",
    (Status.RUNNING, Status.COMPLETED): "its handler returned",
    (Status.RUNNING, Status.FAILED): "no attempt is left, or a child failed",
    (Status.RUNNING, Status.CANCELLED): "its handler noticed the request",
    (Status.RUNNING, Status.CREATED): "retried later, or handed back",
    (Status.FAILED, Status.CREATED): "retried on request",
    (Status.CANCELLED, Status.CREATED): "retried on request",
}

FINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
UNFINISHED = (Status.CREATED, Status.RUNNING)


def diagram() -> str:
    """The states and their moves as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Status.CREATED}: submitted"]
    lines += [f"    {before} --> {after}: {cause}" for (before, after), cause in MOVES.items()]
    lines += [f"    {status} --> [*]" for status in FINAL]
    return "\n".join(lines) + "\n"
