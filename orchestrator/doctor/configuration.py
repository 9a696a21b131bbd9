"""Whether PostgreSQL is configured so that what is promised holds."""

from __future__ import annotations

from django.conf import settings

from orchestrator.diagnostics.checks import NEARLY_FULL, Finding, check, fail, ok, warn
from orchestrator.diagnostics.queries import rows
from orchestrator.kinds import all_kinds
from orchestrator.worker.async_jobs import OWN_CONNECTIONS

# A shorter limit would end handlers that write, wait for something, and write again.
SHORT_IDLE_LIMIT_SECONDS = 60
# The heartbeat of a worker process has so many.
HEARTBEAT_CONNECTIONS = 2

LIMITS = """
SELECT least(
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0),
           (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()),
           (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
       ),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""


@check("durability", needs=("database",))
def durability() -> Finding:
    """Committed data survives a crash: every promise rests on it."""
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if _setting(name) == "off"]
    if off:
        return fail(
            f"A crash of the PostgreSQL host can lose accepted jobs: {', '.join(off)} is off.",
            f"ALTER SYSTEM SET {off[0]} = on, then SELECT pg_reload_conf(); see also ALTER ROLE … SET.",
        )
    return ok("Committed data survives a crash.")


@check("connections", needs=("database",))
def connections() -> Finding:
    """As many as all processes can need at once; see docs/operations.md."""
    [[allowed, used]] = rows(LIMITS)
    needed = connections_needed()
    hint = "Raise max_connections, run fewer threads, or put a connection pooler in between."
    if used > NEARLY_FULL * allowed:
        return warn(f"{used} of {allowed} connections are in use.", hint)
    if needed > allowed:
        return warn(f"The processes of one host can need {needed} connections, and {allowed} are allowed.", hint)
    return ok(f"{used} of {allowed} connections are in use; the processes of one host can need {needed}.")


@check("autovacuum", needs=("database",))
def autovacuum() -> Finding:
    """Without it the job table and its indexes grow and slow down with every job."""
    off = [name for name in ("autovacuum", "track_counts") if _setting(name) != "on"]
    if off:
        return fail(
            f"Tables grow without limit: {' and '.join(off)} is off.", f"ALTER SYSTEM SET {off[0]} = on, and reload."
        )
    return ok("Autovacuum is on.")


@check("idle limit", needs=("database",))
def idle_limit() -> Finding:
    """A limit on idle transactions must leave handlers time to wait between two writes."""
    limit = _seconds_setting("idle_in_transaction_session_timeout")
    if 0 < limit < SHORT_IDLE_LIMIT_SECONDS:
        return warn(
            f"Handlers that write, wait and write again are cut off after {limit:g} s.",
            f"Set idle_in_transaction_session_timeout to 0 or at least {SHORT_IDLE_LIMIT_SECONDS} s.",
        )
    return ok(f"Idle transactions end after {limit:g} s." if limit else "Idle transactions are not ended by a limit.")


def connections_needed() -> int:
    """By one web process, one worker of each queue, and Beat."""
    env = settings.ENV
    # One for each thread that handles requests or uploads, one of the readiness probe, and one of the event streams.
    web = env.WEB_THREADS + env.MAX_UPLOADS + 2
    workers = sum(_connections_of(queue.pool, queue.size) for queue in settings.SERVED_QUEUES.values())
    with_event_loop = {kind.queue for kind in all_kinds() if kind.is_async}
    return web + workers + len(with_event_loop) * (env.ASYNC_CONNECTIONS + OWN_CONNECTIONS) + 1


def _connections_of(pool: str, size: int) -> int:
    """Of a worker: each process has one for each thread that runs jobs, and those of its heartbeat. With several
    threads one completes what they have run.
    """
    processes, threads = (size, 1) if pool == "prefork" else (1, size + (pool == "threads"))
    return processes * (threads + HEARTBEAT_CONNECTIONS)


def _setting(name: str) -> str:
    [[value]] = rows("SELECT current_setting(%(name)s)", name=name)
    return str(value)


def _seconds_setting(name: str) -> float:
    [[seconds]] = rows("SELECT extract(epoch FROM current_setting(%(name)s)::interval)::float", name=name)
    return float(seconds)
