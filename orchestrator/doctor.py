"""What `manage.py doctor` asks of the database, the broker, the processes and the jobs."""

from __future__ import annotations

import shutil
import time
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django_celery_beat.models import PeriodicTask

from config.development import data_dir
from config.settings import is_redis
from orchestrator import health
from orchestrator.diagnosis import Finding, check, fail, ok, warn
from orchestrator.kinds import all_kinds
from orchestrator.models import Kind
from orchestrator.queries import CLOCKS_AGREE_WITHIN_SECONDS

LEAST_VERSION = 15
# Beyond so much of what is allowed, connections or memory run out soon.
NEARLY_FULL = 0.9
# Beyond so much time a transaction keeps vacuum from cleaning up, and an idle one may hold locks.
LONG_TRANSACTION = "1 hour"
LONG_IDLE = "5 minutes"
# A shorter limit would end handlers that write, wait for something, and write again.
SHORT_IDLE_LIMIT_SECONDS = 60
CLOCKS_DIFFER_SECONDS = 2
# What the tick does within seconds and has not done after so long, it does not do.
OVERDUE = "30 seconds"
WAITING_LONG_SECONDS = 300
# Beat writes down when it last sent something every three minutes.
BEAT_STOPPED_AFTER_SECONDS = 400
# Connections of one web process: one for each of its threads, and one of the readiness probe.
WEB_CONNECTIONS = 33
# Most unfinished jobs whose counters are checked: those that run, then those that wait, the oldest first.
MOST_COUNTED = 10_000
LEAST_FREE_DISK = 0.05

LIMITS = """
SELECT least(
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0),
           (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()),
           (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
       ),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""

# Tables most of whose rows are dead, which are read along with the living.
DEAD_ROWS = """
SELECT relname || ' (' || n_dead_tup || ' dead, ' || n_live_tup || ' live)' FROM pg_stat_user_tables
WHERE n_dead_tup > 100000 AND n_dead_tup > n_live_tup ORDER BY n_dead_tup DESC LIMIT 5
"""

# What keeps vacuum from removing rows that died since: transactions, also prepared ones.
LONG_TRANSACTIONS = """
SELECT 'pid ' || pid || ' (' || coalesce(nullif(application_name, ''), usename) || ', since '
       || to_char(xact_start, 'YYYY-MM-DD HH24:MI') || ')'
FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now() - %(long)s::interval
UNION ALL
SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < now() - %(long)s::interval
"""

IDLE_TRANSACTIONS = """
SELECT 'pid ' || pid || ' (since ' || to_char(state_change, 'YYYY-MM-DD HH24:MI') || ')' FROM pg_stat_activity
WHERE datname = current_database() AND state LIKE 'idle in transaction%%'
  AND state_change < now() - %(long)s::interval
"""

# The most urgent ready job of every kind: the index of the claim leads from kind to kind.
WAITING = """
WITH RECURSIVE front AS (
    (SELECT kind, queue, greatest(run_at, updated_at) AS since FROM orchestrator_job
     WHERE ready ORDER BY kind, rank, id LIMIT 1)
    UNION ALL
    SELECT next.kind, next.queue, next.since FROM front, LATERAL (
        SELECT kind, queue, greatest(run_at, updated_at) AS since FROM orchestrator_job
        WHERE ready AND kind > front.kind ORDER BY kind, rank, id LIMIT 1
    ) next
)
SELECT kind, queue, extract(epoch FROM clock_timestamp() - since)::float FROM front
"""

# The queues of what runs just now.
BUSY = """
SELECT DISTINCT queue FROM orchestrator_job WHERE worker_id IS NOT NULL
UNION
SELECT jsonb_array_elements_text(queues) FROM orchestrator_worker WHERE ended_at IS NULL AND trying <> '{}'
"""

DUE = """
SELECT id FROM orchestrator_job
WHERE NOT ready AND status = 'CREATED' AND unfinished_dependencies = 0 AND run_at < now() - %(overdue)s::interval
LIMIT 5
"""

PAST_DEADLINE = "SELECT id FROM orchestrator_job WHERE deadline_at < now() - %(overdue)s::interval LIMIT 5"

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
LIMIT 5
"""

# Unfinished jobs that wait for another number of jobs than their counter says.
MISCOUNTED = """
SELECT job.id FROM (
    SELECT id, unfinished_dependencies FROM orchestrator_job
    WHERE status IN ('CREATED', 'RUNNING') ORDER BY status DESC, id LIMIT %(most)s
) job
WHERE unfinished_dependencies <> (
    SELECT count(*) FROM orchestrator_dependency JOIN orchestrator_job other ON other.id = depends_on_id
    WHERE job_id = job.id AND other.status <> 'COMPLETED'
) + (SELECT count(*) FROM orchestrator_job child WHERE child.parent_id = job.id AND child.status <> 'COMPLETED')
LIMIT 5
"""


# The database


@check("database", needs=())
def database() -> Finding:
    """Reachable, and new enough."""
    try:
        [[version, name]] = _rows("SELECT current_setting('server_version_num')::int / 10000, version()")
    except Exception as error:
        at = f"{connection.settings_dict['HOST'] or 'localhost'}:{connection.settings_dict['PORT'] or 5432}"
        return fail(
            f"It does not answer at {at}: {_first_line(error)}",
            "Start it, or mend DATABASE_URL. Until it answers nothing is accepted and nothing runs; nothing is lost.",
        )
    if version < LEAST_VERSION:
        return fail(f"PostgreSQL {version} is too old.", f"Upgrade it to {LEAST_VERSION} or later.")
    return ok(f"{name.split(' on ')[0]} answers.")


@check("durability", needs=("database",))
def durability() -> Finding:
    """What was committed survives a crash, which everything that is promised rests on."""
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if _setting(name) == "off"]
    if off:
        return fail(
            f"A crash of PostgreSQL's host can lose accepted jobs: {', '.join(off)} is off.",
            f"ALTER SYSTEM SET {off[0]} = on, then SELECT pg_reload_conf(); see also ALTER ROLE … SET.",
        )
    return ok("What was committed survives a crash.")


@check("connections", needs=("database",))
def connections() -> Finding:
    """As many as all processes can need at once; see docs/operations.md."""
    [[allowed, used]] = _rows(LIMITS)
    env = settings.ENV
    needed = WEB_CONNECTIONS + 3 * env.WORKER_PROCESSES + (env.WORKER_THREADS + 2) + 3 + 1
    advice = "Raise max_connections, or run fewer threads; a pooler in between also helps."
    if used > NEARLY_FULL * allowed:
        return warn(f"{used} of {allowed} connections are taken.", advice)
    if needed > allowed:
        return warn(f"The processes of one host can need {needed} connections, and {allowed} are allowed.", advice)
    return ok(f"{used} of {allowed} connections are taken; the processes of one host can need {needed}.")


@check("autovacuum", needs=("database",))
def autovacuum() -> Finding:
    """Without it the job table and its indexes grow and slow down with every job."""
    off = [name for name in ("autovacuum", "track_counts") if _setting(name) != "on"]
    if off:
        return fail(
            f"Tables grow for ever: {' and '.join(off)} is off.", f"ALTER SYSTEM SET {off[0]} = on, and reload."
        )
    return ok("It is on.")


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


@check("clock", needs=("database",))
def clock() -> Finding:
    """Only PostgreSQL's clock decides; but ids hold this host's time, and lists by time find them by it."""
    before = time.time()
    [[theirs]] = _rows("SELECT extract(epoch FROM clock_timestamp())::float")
    after = time.time()
    apart = abs(theirs - (before + after) / 2) - (after - before) / 2
    advice = "Synchronise the clocks of all hosts (chrony, systemd-timesyncd)."
    if apart > CLOCKS_AGREE_WITHIN_SECONDS:
        return fail(f"This host's clock and PostgreSQL's are {apart:,.0f} s apart: lists by time miss jobs.", advice)
    if apart > CLOCKS_DIFFER_SECONDS:
        return warn(f"This host's clock and PostgreSQL's are {apart:,.1f} s apart.", advice)
    return ok(f"This host's clock and PostgreSQL's agree within {max(apart, 0.01):.2f} s.")


@check("migrations", needs=("database",))
def migrations() -> Finding:
    """The tables are those that this code expects."""
    executor = MigrationExecutor(connection)
    loader = executor.loader
    missing = [str(migration) for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    if missing:
        return fail(f"{len(missing)} are missing, first {missing[0]}.", "Run `manage.py migrate`.")
    here = loader.disk_migrations.keys()
    unknown = [f"{app}.{name}" for app, name in loader.applied_migrations if app in loader.migrated_apps]
    unknown = [name for name in unknown if tuple(name.split(".", 1)) not in here]
    if unknown:
        return warn(
            f"The database is ahead of this code by {', '.join(unknown[:3])}.",
            "Finish the upgrade: run the newer release everywhere.",
        )
    return ok(f"All {len(loader.applied_migrations)} are applied.")


@check("dead rows", needs=("database",))
def dead_rows() -> Finding:
    """Vacuum keeps up."""
    if tables := _names(DEAD_ROWS):
        return warn(
            f"Vacuum does not keep up: {', '.join(tables)}.",
            "End long transactions, give autovacuum more (autovacuum_vacuum_cost_limit), or run VACUUM ANALYZE.",
        )
    return ok("Vacuum keeps up.")


@check("long transactions", needs=("database",))
def long_transactions() -> Finding:
    """None holds back vacuum."""
    if found := _names(LONG_TRANSACTIONS, long=LONG_TRANSACTION):
        return warn(
            f"Open for more than {LONG_TRANSACTION}, which holds back vacuum: {', '.join(found[:5])}.",
            "End it where it runs, or by SELECT pg_terminate_backend(pid); ROLLBACK PREPARED for a prepared one.",
        )
    return ok(f"None is open for more than {LONG_TRANSACTION}.")


@check("idle transactions", needs=("database",))
def idle_transactions() -> Finding:
    """No session holds its locks while it does nothing."""
    if found := _names(IDLE_TRANSACTIONS, long=LONG_IDLE):
        return warn(
            f"Idle within a transaction for more than {LONG_IDLE}: {', '.join(found[:5])}.",
            "A frozen process, or a forgotten psql? End it, or SELECT pg_terminate_backend(pid).",
        )
    return ok(f"No session is idle within a transaction for more than {LONG_IDLE}.")


@check("disk", needs=("database",))
def disk() -> Finding:
    """Room for the servers' data, where they are this host's."""
    [[size]] = _rows("SELECT pg_size_pretty(pg_database_size(current_database()))")
    if not (data_dir() / "postgres").exists():
        return ok(f"The database takes {size}; watch the disk of its host there.")
    usage = shutil.disk_usage(data_dir() / "postgres")
    free = f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.0f} GB are free"
    if usage.free < LEAST_FREE_DISK * usage.total:
        return warn(f"The database takes {size}, and {free}.", "Make room: PostgreSQL stops when its disk is full.")
    return ok(f"The database takes {size}; {free}.")


# The broker


@check("broker", needs=())
def broker() -> Finding:
    """Reachable, and does not throw bells away."""
    url = settings.ENV.BROKER_URL
    try:
        found = _redis_facts(url) if is_redis(url) else _rabbitmq_facts(url)
    except Exception as error:
        return fail(
            f"It does not answer: {_first_line(error)}",
            "Start it, or mend BROKER_URL. Jobs are accepted meanwhile and start once it is back.",
        )
    if found.get("maxmemory") and found["maxmemory_policy"] != "noeviction":
        return warn(
            f"{found['name']} throws bells away when memory is full ({found['maxmemory_policy']}).",
            "Set maxmemory-policy to noeviction. Nothing is lost, but jobs start later.",
        )
    if found.get("used_memory", 0) > NEARLY_FULL * found.get("maxmemory", 0) > 0:
        return warn(f"{found['name']} has used {NEARLY_FULL:.0%} of its memory.", "Raise maxmemory.")
    return ok(f"{found['name']} answers.")


@check("cache", needs=())
def cache() -> Finding:
    """What merges bells is shared by all processes."""
    url = settings.CACHES["default"].get("LOCATION")
    if not url:
        return ok("There is none, so bells are not merged: all works, with more messages.")
    try:
        with health.impatient_redis(str(url)) as redis:
            redis.ping()
    except Exception as error:
        return warn(f"It does not answer: {_first_line(error)}", "Start it, or mend CACHE_URL. Bells ring unmerged.")
    return ok("It answers, and merges bells.")


# The processes


@check("workers")
def workers() -> Finding:
    """Somebody serves every queue."""
    found = health.workers()
    served = ", ".join(f"{queue} {processes}" for queue, processes in found["queues"].items())
    if not found["ok"]:
        return fail(
            f"{found['detail']} Processes alive: {served}.",
            "Start a worker with -Q of that queue, or look into the log of the one that should run.",
        )
    return ok(f"Processes alive: {served}.")


@check("lost workers")
def lost_workers() -> Finding:
    """None died without saying so of late."""
    lost = _names(
        "SELECT name || ' [' || pid || ']' FROM orchestrator_worker"
        " WHERE lost AND ended_at > now() - interval '1 hour' ORDER BY ended_at DESC"
    )
    if lost:
        return warn(
            f"{len(lost)} died or froze within the last hour, the latest {lost[0]}.",
            "Their jobs were taken back. Look for kills and for want of memory (dmesg, container events).",
        )
    return ok("None died within the last hour.")


@check("bells", needs=("database", "migrations", "broker"))
def bells() -> Finding:
    """Workers hear the broker that we ring through."""
    alive = set(health.alive_workers().values_list("name", flat=True))
    with current_app.connection_for_write() as link:
        answers = current_app.control.broadcast(
            "ping", reply=True, connection=link, timeout=3, limit=len(alive) or 1, destination=sorted(alive) or None
        )
    heard = {name for answer in answers or [] for name in answer}
    if deaf := sorted(alive - heard):
        return warn(
            f"Alive, but not heard over the broker: {', '.join(deaf)}.",
            "Have all processes the same BROKER_URL? A worker that has lost its connection is mended by a restart.",
        )
    return ok(f"{len(heard)} workers answer over the broker.")


@check("beat")
def beat() -> Finding:
    """It sends the tick."""
    tick = PeriodicTask.objects.filter(name="tick").first()
    if tick is None:
        return fail("It has never run here.", "Start `python -m config beat`.")
    if not tick.enabled:
        return fail("The tick is switched off in Beat's admin.", "Enable the periodic task `tick` in the admin.")
    [[age]] = _rows(
        "SELECT extract(epoch FROM now() - coalesce(last_run_at, date_changed))::float"
        " FROM django_celery_beat_periodictask WHERE name = 'tick'"
    )
    # One that has just been started writes after a while, and ticks before.
    if age > BEAT_STOPPED_AFTER_SECONDS and not health.tick()["ok"]:
        return fail(f"It last wrote down that it ticks {age:,.0f} s ago.", "Start `python -m config beat`.")
    return ok("It runs, and the tick is switched on.")


@check("tick")
def tick() -> Finding:
    """Upkeep runs."""
    found = health.tick()
    if not found["ok"]:
        return fail(
            found["detail"],
            "It takes Beat, the broker and the control worker: see their checks, and their logs.",
        )
    return ok(f"The last one is {found['age_seconds']:.1f} s ago.")


# The jobs


@check("waiting jobs")
def waiting_jobs() -> Finding:
    """What is ready starts."""
    served = health.workers()["queues"]
    busy = set(_names(BUSY))
    paused = _paused()
    late = [
        (kind, queue, seconds)
        for kind, queue, seconds in _rows(WAITING)
        if seconds > WAITING_LONG_SECONDS and served.get(queue) and kind not in paused
    ]
    if not late:
        return ok("Nothing that could start has waited long.")
    told = ", ".join(f"{kind} for {seconds / 60:,.0f} min" for kind, _, seconds in late[:5])
    if all(queue in busy for _, queue, _ in late):
        return warn(
            f"The workers are busy, and these wait: {told}.", "Give the queue more workers, threads or processes."
        )
    return fail(
        f"Workers are alive and do nothing, while these wait: {told}.",
        "Look into the logs of the workers; restart them if they have lost the database or the broker.",
    )


@check("unknown kinds")
def unknown_kinds() -> Finding:
    """Every job that could start has a worker that knows its kind."""
    waiting = {kind: queue for kind, queue, _ in _rows(WAITING)}
    reported = set(Kind.objects.values_list("name", flat=True))
    if unknown := sorted(kind for kind in waiting if kind not in reported):
        return fail(
            f"No worker knows these kinds, which jobs wait for: {', '.join(unknown)}.",
            "Deploy the release and the EXTRA_APPS that have them to the workers, or cancel those jobs.",
        )
    queues = health.workers()["queues"]
    if unserved := sorted(f"{kind} ({queue})" for kind, queue in waiting.items() if queue not in queues):
        return fail(
            f"These wait in queues that are not among QUEUES: {', '.join(unserved)}.",
            "Add the queue to QUEUES everywhere and start a worker for it.",
        )
    if foreign := sorted(waiting.keys() - {kind.name for kind in all_kinds()}):
        return warn(
            f"Workers know these kinds and this process does not: {', '.join(foreign)}.",
            "Finish the upgrade, and give every process the same EXTRA_APPS.",
        )
    return ok("Workers know every kind that jobs wait for.")


@check("paused kinds")
def paused_kinds() -> Finding:
    """Nobody forgot to resume one."""
    if stopped := sorted(_paused() & {kind for kind, _, _ in _rows(WAITING)}):
        return warn(f"Paused, and jobs wait: {', '.join(stopped)}.", "Resume the kind in the admin, under Kinds.")
    return ok("No job waits for a paused kind.")


@check("due jobs")
def due_jobs() -> Finding:
    """The tick makes ready what is due."""
    return _none(
        DUE, "Due, and not made ready by the tick", "See the check `tick`, and the log of the control worker."
    )


@check("overdue attempts")
def overdue_attempts() -> Finding:
    """The tick ends what takes longer than its kind allows."""
    return _none(
        PAST_DEADLINE,
        "Past the timeout of their kind, and not ended by the tick",
        "See the check `tick`, and whether a transaction holds the job's row (long and idle transactions).",
    )


@check("orphaned jobs")
def orphaned_jobs() -> Finding:
    """The tick takes back what dead workers held."""
    return _none(
        ORPHANED,
        "Held by workers that have ended, and not taken back by the tick",
        "See the check `tick`, and whether a transaction holds the job's row (long and idle transactions).",
    )


@check("unwinding pipelines")
def unwinding_pipelines() -> Finding:
    """The tick ends pipelines of which nothing runs any more."""
    return _none(
        UNWINDING,
        "Failed or cancelled, and not ended by the tick",
        "See the check `tick`, and the control worker's log.",
    )


@check("pipeline counts")
def pipeline_counts() -> Finding:
    """What a job waits for is as many as its counter says, or it would start too early or never."""
    return _none(
        MISCOUNTED,
        "Waiting for another number of jobs than they count",
        "This is a bug, or somebody changed rows by hand: please report it. Cancel the pipeline and retry it.",
        most=MOST_COUNTED,
    )


def _none(sql: str, found: str, advice: str, **parameters: Any) -> Finding:
    """Fine where the statement finds no job."""
    if ids := _names(sql, overdue=OVERDUE, **parameters):
        return fail(f"{found}: {', '.join(ids)}{' …' if len(ids) == 5 else ''}.", advice)
    return ok("None.")


def _paused() -> set[str]:
    return set(Kind.objects.exclude(paused_at=None).values_list("name", flat=True))


def _redis_facts(url: str) -> dict[str, Any]:
    with health.impatient_redis(url) as redis:
        facts: dict[str, Any] = {**redis.info("server"), **redis.info("memory")}
    name = facts.get("server_name", "redis").capitalize()
    return facts | {"name": f"{name} {facts.get('valkey_version') or facts['redis_version']}"}


def _rabbitmq_facts(url: str) -> dict[str, Any]:
    with health.impatient_link(url) as link:
        link.ensure_connection(max_retries=1, timeout=1)
        properties = getattr(link.connection, "server_properties", {})
        return {"name": f"{properties.get('product', 'The broker')} {properties.get('version', '')}".strip()}


def _setting(name: str) -> str:
    [[value]] = _rows("SELECT current_setting(%(name)s)", name=name)
    return str(value)


def _seconds_setting(name: str) -> float:
    [[seconds]] = _rows("SELECT extract(epoch FROM current_setting(%(name)s)::interval)::float", name=name)
    return float(seconds)


def _names(sql: str, **parameters: Any) -> list[str]:
    return [str(name) for [name] in _rows(sql, **parameters)]


def _rows(sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return list(cursor.fetchall())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
