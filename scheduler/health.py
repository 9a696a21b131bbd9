"""What readiness tells of schedules. Jobs are accepted and run all the same, so it is no reason not to be ready."""

from __future__ import annotations

from orchestrator.diagnostics.queries import Check
from orchestrator.diagnostics.readiness import told_as
from scheduler import queries


@told_as("schedules")
def schedules() -> Check:
    """How many are overdue, have stopped because of an error, or are held back by limits; the doctor names them."""
    counts = {
        "overdue": queries.overdue_schedules().count(),
        "stopped": queries.stopped_schedules().count(),
        "held": queries.held_schedules().count(),
    }
    found: Check = {"ok": True, **{name: count for name, count in counts.items() if count}}
    if len(found) > 1:
        found["detail"] = "Some schedules are overdue, have stopped because of an error, or are held back by limits."
    return found
