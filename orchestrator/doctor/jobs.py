"""Whether jobs start, end and wait as they should."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils import timezone

from orchestrator.diagnostics.checks import Finding, check, fail, ok, warn
from orchestrator.diagnostics.queries import HUNG_AFTER_SECONDS, names, rows, waiting, workers
from orchestrator.kinds import all_kinds
from orchestrator.models import Kind
from orchestrator.rollups import reading

# What the tick does within seconds and has not done after so long, it does not do.
OVERDUE_SECONDS = 30
OVERDUE = f"{OVERDUE_SECONDS} seconds"
# A kind without a timeout that reports no progress for so long may hang.
LONG_ATTEMPT = "1 day"
# What it goes on with, it has done some of so lately.
LATELY = "10 seconds"
WAITING_LONG_SECONDS = 300
# Most unfinished jobs whose counters are checked: those that run, then those that wait, the oldest first.
MAX_COUNTED = 10_000
# Each statement below names so many at most.
MAX_NAMED = 5

# The queues of what runs just now.
BUSY = """
SELECT DISTINCT queue FROM orchestrator_job WHERE worker_id IS NOT NULL
UNION
SELECT jsonb_array_elements_text(queues) FROM orchestrator_worker WHERE ended_at IS NULL AND trying <> '{}'
"""

DUE = """
SELECT id FROM orchestrator_job
WHERE NOT ready AND status = 'CREATED' AND unfinished_dependencies = 0 AND blocked_by IS NULL
  AND run_at < now() - %(overdue)s::interval
LIMIT 5
"""

# A job that the tick has just made ready: it had to wait for its time.
MADE_READY = """
SELECT id FROM orchestrator_job
WHERE ready AND run_at > created_at AND updated_at > now() - %(lately)s::interval
LIMIT 1
"""

# Attempts that go on although they were asked to end, and for how long.
PAST_DEADLINE = """
SELECT id, kind, extract(epoch FROM now() - deadline_at)::float FROM orchestrator_job
WHERE worker_id IS NOT NULL AND deadline_at < now() - make_interval(secs => %(asked)s)
ORDER BY deadline_at LIMIT 5
"""

# Attempts that nothing ends, and of which nothing was heard for long.
ENDLESS = """
SELECT kind || ' ' || id FROM orchestrator_job
WHERE worker_id IS NOT NULL AND deadline_at IS NULL AND updated_at < now() - %(long)s::interval LIMIT 5
"""

# Jobs whose worker has ended, or has no row any more.
ORPHANED = """
SELECT job.id FROM orchestrator_job job LEFT JOIN orchestrator_worker worker ON worker.id = job.worker_id
WHERE job.worker_id IS NOT NULL AND coalesce(worker.ended_at < now() - %(overdue)s::interval, worker.id IS NULL)
LIMIT 5
"""

# Pipelines that failed or were cancelled and have no running child to wait for, but have not ended.
UNWINDING = """
SELECT id FROM orchestrator_job parent
WHERE unwinding AND updated_at < now() - %(overdue)s::interval
  AND NOT EXISTS (SELECT FROM orchestrator_job child WHERE child.parent_id = parent.id AND child.status = 'RUNNING')
  AND NOT EXISTS (
      SELECT FROM orchestrator_job child JOIN orchestrator_step step ON step.job_id = child.id
      WHERE child.parent_id = parent.id AND child.status = 'CREATED' AND compensates IS NOT NULL
  )
LIMIT 5
"""

# Unfinished jobs that wait for another number of jobs than their counter says.
PASSED = "EXISTS (SELECT FROM orchestrator_step WHERE job_id = other.id AND outcome = 'PASSED')"
MISCOUNTED = f"""
SELECT job.id FROM (
    SELECT id, name, unfinished_dependencies FROM orchestrator_job
    WHERE status IN ('CREATED', 'RUNNING') ORDER BY status DESC, id LIMIT %(most)s
) job
WHERE unfinished_dependencies <> (
    SELECT count(*) FROM orchestrator_dependency JOIN orchestrator_job other ON other.id = depends_on_id
    WHERE job_id = job.id AND other.status <> 'COMPLETED' AND NOT {PASSED}
) + (
    SELECT count(*) FROM orchestrator_job other
    WHERE other.parent_id = job.id AND other.status <> 'COMPLETED' AND NOT {PASSED}
) + (SELECT count(*) FROM orchestrator_step WHERE job_id = job.id AND waits_since IS NOT NULL)
+ (
    SELECT count(*) FROM orchestrator_dependency link JOIN orchestrator_step step ON step.job_id = link.job_id
    WHERE depends_on_id = job.id AND released <= substring(job.name FROM '[[]([0-9]+)[]]$')::integer
)
LIMIT 5
"""  # noqa: S608 It is made of constants.


@check("waiting jobs")
def waiting_jobs() -> Finding:
    """Ready jobs start."""
    served = workers()["queues"]
    busy = set(names(BUSY))
    # Jobs of kinds with limits wait for room, with workers that have nothing else to do.
    meant_to_wait = _paused() | set(Kind.objects.filter(limited=True).values_list("name", flat=True))
    late = [
        (kind, queue, seconds)
        for kind, queue, seconds in waiting()
        if seconds > WAITING_LONG_SECONDS and served.get(queue) and kind not in meant_to_wait
    ]
    if not late:
        return ok("No ready job has waited long.")
    listed = ", ".join(f"{kind} for {seconds / 60:,.0f} min" for kind, _, seconds in late[:MAX_NAMED])
    if all(queue in busy for _, queue, _ in late):
        return warn(
            f"The workers are busy while these kinds wait: {listed}.",
            "Add workers, threads or processes for the queue.",
        )
    return fail(
        f"Workers are alive but idle while these kinds wait: {listed}.",
        "Read the workers' logs; restart them if they have lost the database or the broker.",
    )


@check("unknown kinds")
def unknown_kinds() -> Finding:
    """Every ready job has a worker that knows its kind."""
    queue_of = {each.kind: each.queue for each in waiting()}
    reported = set(Kind.objects.values_list("name", flat=True))
    if unknown := sorted(queue_of.keys() - reported):
        return fail(
            f"Jobs wait for kinds that no worker knows: {', '.join(unknown)}.",
            "Deploy the release or the EXTRA_APPS that define them to the workers, or cancel those jobs.",
        )
    served = workers()["queues"]
    undeclared = {kind: queue for kind, queue in queue_of.items() if queue not in settings.QUEUES}
    if unserved := sorted(f"{kind} ({queue})" for kind, queue in undeclared.items() if not served[queue]):
        return fail(
            f"Jobs wait in queues that QUEUES does not declare: {', '.join(unserved)}.",
            "Declare the queue in QUEUES everywhere and start a worker for it.",
        )
    if foreign := sorted(queue_of.keys() - {kind.name for kind in all_kinds()}):
        return warn(
            f"Workers know kinds that this process does not: {', '.join(foreign)}.",
            "Finish the upgrade, and give every process the same EXTRA_APPS.",
        )
    return ok("Workers know all kinds that jobs wait for.")


@check("paused kinds")
def paused_kinds() -> Finding:
    """No kind was left paused by mistake."""
    if stopped := sorted(_paused() & {each.kind for each in waiting()}):
        return warn(f"Paused while jobs wait: {', '.join(stopped)}.", "Resume the kind in the admin, under Kinds.")
    return ok("No job waits for a paused kind.")


@check("failing kinds")
def failing_kinds() -> Finding:
    """No kind fails again and again."""
    now = timezone.now()
    found = [each for each in reading.failing(now, reading.ended(now)) if each.keeps_failing]
    if not found:
        return ok("No kind kept failing within the last hour.")
    listed = "; ".join(
        f"{each.kind}, {each.hour.failed:,} of {each.hour.ended:,}: {each.last_error}" for each in found[:MAX_NAMED]
    )
    return warn(
        f"Most of their jobs failed within the last hour: {listed}.",
        "See the admin's home page, and retry them once the cause is gone: Jobs, Failed, Retry.",
    )


@check("due jobs")
def due_jobs() -> Finding:
    """The tick makes due jobs ready, the longest due first, a limited number at a time."""
    if names(DUE, overdue=OVERDUE) and names(MADE_READY, lately=LATELY):
        return ok("More jobs are due than one tick makes ready; the tick is working through them.")
    return _none(
        DUE, "Due, but not made ready by the tick", "See the check `tick`, and the log of the control worker."
    )


@check("overdue attempts")
def overdue_attempts() -> Finding:
    """Attempts that outlast their timeout end, if need be with their process."""
    hung = rows(PAST_DEADLINE, asked=HUNG_AFTER_SECONDS)
    if not hung:
        return ok("None.")
    listed = ", ".join(f"{kind} {id} for {seconds:,.0f} s" for id, kind, seconds in hung)
    msg = f"Jobs past their timeout still hold their slots: {listed}{' …' if len(hung) == MAX_NAMED else ''}."
    if hung[0][2] < settings.ENV.HARD_TIMEOUT_GRACE_SECONDS + settings.ENV.LEASE_SECONDS + OVERDUE_SECONDS:
        return warn(msg, "Their processes are about to end. Fix the handlers: the attempts show where they were.")
    return fail(
        f"{msg} Their processes should have ended.",
        "Read the logs of those workers, and end their processes; their jobs are then taken back.",
    )


@check("endless attempts")
def endless_attempts() -> Finding:
    """Attempts without a timeout report progress."""
    if found := names(ENDLESS, long=LONG_ATTEMPT):
        return warn(
            f"Running without a timeout, and without progress for {LONG_ATTEMPT}: {', '.join(found)}.",
            "Give the kind a timeout, or cancel the job; a handler that never checks ends only with its process.",
        )
    return ok("None.")


@check("orphaned jobs")
def orphaned_jobs() -> Finding:
    """The tick takes back the jobs of dead workers."""
    return _none(
        ORPHANED,
        "Held by workers that have ended, but not taken back by the tick",
        "See the checks `tick`, `long transactions` and `idle transactions`: one may hold the job's row.",
    )


@check("unwinding pipelines")
def unwinding_pipelines() -> Finding:
    """The tick ends failed and cancelled pipelines once none of their jobs run."""
    return _none(
        UNWINDING,
        "Failed or cancelled, but not ended by the tick",
        "See the check `tick`, and the control worker's log.",
    )


@check("pipeline counts")
def pipeline_counts() -> Finding:
    """A job's counter is the number of jobs it waits for; otherwise it would start too early, or never."""
    return _none(
        MISCOUNTED,
        "Counters that differ from the number of jobs waited for",
        "This is a bug, or rows were changed by hand: please report it. Cancel the pipeline and retry it.",
        most=MAX_COUNTED,
    )


def _none(sql: str, msg: str, hint: str, **parameters: Any) -> Finding:
    """Fine if the statement finds no job."""
    if ids := names(sql, overdue=OVERDUE, **parameters):
        return fail(f"{msg}: {', '.join(ids)}{' …' if len(ids) == MAX_NAMED else ''}.", hint)
    return ok("None.")


def _paused() -> set[str]:
    return set(Kind.objects.exclude(paused_at=None).values_list("name", flat=True))
