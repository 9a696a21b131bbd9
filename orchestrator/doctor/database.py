"""Whether the database can be reached, has this release's tables, and can clean up after itself."""

from __future__ import annotations

import shutil
import time

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from orchestrator.diagnostics.checks import Finding, check, fail, first_line, ok, warn
from orchestrator.diagnostics.queries import names, rows
from orchestrator.queries import CLOCKS_AGREE_WITHIN_SECONDS

MIN_VERSION = 15
# Beyond so much time a transaction keeps vacuum from cleaning up, and an idle one may hold locks.
LONG_TRANSACTION = "1 hour"
LONG_IDLE = "5 minutes"
CLOCKS_DIFFER_SECONDS = 2
MIN_FREE_DISK = 0.05

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


@check("database", needs=())
def database() -> Finding:
    """Reachable, and new enough."""
    try:
        [[version, name]] = rows("SELECT current_setting('server_version_num')::int / 10000, version()")
    except Exception as error:
        at = f"{connection.settings_dict['HOST'] or 'localhost'}:{connection.settings_dict['PORT'] or 5432}"
        return fail(
            f"It cannot be reached at {at}: {first_line(error)}",
            "Start it, or correct DATABASE_URL. Until then no job is accepted or run; nothing is lost.",
        )
    if version < MIN_VERSION:
        return fail(f"PostgreSQL {version} is too old.", f"Upgrade it to {MIN_VERSION} or later.")
    return ok(f"{name.split(' on ')[0]} is reachable.")


@check("migrations", needs=("database",))
def migrations() -> Finding:
    """The tables are those that this release expects."""
    executor = MigrationExecutor(connection)
    loader = executor.loader
    missing = [str(migration) for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    if missing:
        return fail(f"{len(missing)} are not applied, first {missing[0]}.", "Run `manage.py migrate`.")
    here = loader.disk_migrations.keys()
    unknown = [f"{app}.{name}" for app, name in loader.applied_migrations if app in loader.migrated_apps]
    unknown = [name for name in unknown if tuple(name.split(".", 1)) not in here]
    if unknown:
        return warn(
            f"The database has migrations that this release does not know: {', '.join(unknown[:3])}.",
            "Finish the upgrade: run the newer release everywhere.",
        )
    return ok(f"All {len(loader.applied_migrations)} are applied.")


@check("clock", needs=("database",))
def clock() -> Finding:
    """Only PostgreSQL's clock decides; but ids hold this host's time, and lists by time find them by it."""
    before = time.time()
    [[theirs]] = rows("SELECT extract(epoch FROM clock_timestamp())::float")
    after = time.time()
    apart = abs(theirs - (before + after) / 2) - (after - before) / 2
    hint = "Synchronise the clocks of all hosts (chrony, systemd-timesyncd)."
    if apart > CLOCKS_AGREE_WITHIN_SECONDS:
        return fail(f"This host's clock and PostgreSQL's differ by {apart:,.0f} s: lists by time miss jobs.", hint)
    if apart > CLOCKS_DIFFER_SECONDS:
        return warn(f"This host's clock and PostgreSQL's differ by {apart:,.1f} s.", hint)
    return ok(f"This host's clock and PostgreSQL's agree within {max(apart, 0.01):.2f} s.")


@check("disk", needs=("database",))
def disk() -> Finding:
    """Room for the servers' data, where they are this host's."""
    [[size]] = rows("SELECT pg_size_pretty(pg_database_size(current_database()))")
    folder = settings.DATA_DIR / "postgres"
    if not folder.exists():
        return ok(f"The database takes {size}; check the disk on its host.")
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.0f} GB are free"
    if usage.free < MIN_FREE_DISK * usage.total:
        return warn(f"The database takes {size}, and {free}.", "Free space: PostgreSQL stops when its disk is full.")
    return ok(f"The database takes {size}; {free}.")


@check("dead rows", needs=("database",))
def dead_rows() -> Finding:
    """Vacuum keeps up."""
    if tables := names(DEAD_ROWS):
        return warn(
            f"Vacuum does not keep up: {', '.join(tables)}.",
            "End long transactions, give autovacuum more (autovacuum_vacuum_cost_limit), or run VACUUM ANALYZE.",
        )
    return ok("Vacuum keeps up.")


@check("long transactions", needs=("database",))
def long_transactions() -> Finding:
    """None holds back vacuum."""
    if found := names(LONG_TRANSACTIONS, long=LONG_TRANSACTION):
        return warn(
            f"Open for more than {LONG_TRANSACTION}, which holds back vacuum: {', '.join(found[:5])}.",
            "End it where it runs, or by SELECT pg_terminate_backend(pid); a prepared one by ROLLBACK PREPARED.",
        )
    return ok(f"None is open for more than {LONG_TRANSACTION}.")


@check("idle transactions", needs=("database",))
def idle_transactions() -> Finding:
    """No session holds its locks while it does nothing."""
    if found := names(IDLE_TRANSACTIONS, long=LONG_IDLE):
        return warn(
            f"Idle within a transaction for more than {LONG_IDLE}: {', '.join(found[:5])}.",
            "A frozen process, or a forgotten psql? End it, or SELECT pg_terminate_backend(pid).",
        )
    return ok(f"No session is idle within a transaction for more than {LONG_IDLE}.")
