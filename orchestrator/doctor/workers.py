"""Whether workers, Beat and the tick run."""

from __future__ import annotations

from celery import current_app
from django_celery_beat.models import PeriodicTask

from orchestrator.diagnostics import queries
from orchestrator.diagnostics.checks import Finding, check, fail, ok, warn
from orchestrator.diagnostics.queries import names, rows

# Beat records when it last sent a task every three minutes.
BEAT_STOPPED_AFTER_SECONDS = 400


@check("workers")
def workers() -> Finding:
    """Every queue has a worker."""
    found = queries.workers()
    served = ", ".join(f"{queue} {processes}" for queue, processes in found["queues"].items())
    if not found["ok"]:
        return fail(
            f"{found['detail']} Live processes: {served}.",
            "Start a worker with -Q for that queue, declared in QUEUES, or read the log of the one that should run.",
        )
    return ok(f"Live processes: {served}.")


@check("lost workers")
def lost_workers() -> Finding:
    """None died recently."""
    lost = names(
        "SELECT name || ' [' || pid || ']' FROM orchestrator_worker"
        " WHERE lost AND ended_at > now() - interval '1 hour' ORDER BY ended_at DESC"
    )
    if lost:
        return warn(
            f"{len(lost)} died or froze within the last hour, most recently {lost[0]}.",
            "Their jobs were taken back. Look for kills and out-of-memory events (dmesg, container events).",
        )
    return ok("None died within the last hour.")


@check("bells", needs=("database", "migrations", "broker"))
def bells() -> Finding:
    """Workers receive what is sent to the broker from here."""
    # A process that serves no queue, as `run-job` does, listens to nothing.
    alive = set(queries.alive_workers().exclude(queues=[]).values_list("name", flat=True))
    with current_app.connection_for_write() as link:
        replies = current_app.control.broadcast(
            "ping", reply=True, connection=link, timeout=3, limit=len(alive) or 1, destination=sorted(alive) or None
        )
    responding = {name for reply in replies or [] for name in reply}
    if unreachable := sorted(alive - responding):
        return warn(
            f"Alive, but not reachable over the broker: {', '.join(unreachable)}.",
            "Give all processes the same BROKER_URL, and restart a worker that has lost its connection.",
        )
    return ok(f"Workers that respond over the broker: {len(responding)}.")


@check("beat")
def beat() -> Finding:
    """Beat sends the tick."""
    tick = PeriodicTask.objects.filter(name="tick").first()
    if tick is None:
        return fail("Beat has never run.", "Start `python -m config beat`.")
    if not tick.enabled:
        return fail("The periodic task `tick` is disabled.", "Enable it in the admin, under Periodic tasks.")
    [[age]] = rows(
        "SELECT extract(epoch FROM now() - coalesce(last_run_at, date_changed))::float"
        " FROM django_celery_beat_periodictask WHERE name = 'tick'"
    )
    # Beat records the first tick some minutes after its start.
    if age > BEAT_STOPPED_AFTER_SECONDS and not queries.tick()["ok"]:
        return fail(f"Beat last recorded a tick {age:,.0f} s ago.", "Start `python -m config beat`.")
    return ok("Beat runs, and the tick is enabled.")


@check("tick")
def tick() -> Finding:
    """Upkeep runs."""
    found = queries.tick()
    if not found["ok"]:
        return fail(
            found["detail"],
            "It needs Beat, the broker and the control worker: see their checks and logs.",
        )
    return ok(f"The last one was {found['age_seconds']:.1f} s ago.")
