"""Whether claims stay as fast as at the start while jobs pass through: submitted, claimed, completed and pruned.

    python benchmarks/bloat.py [--jobs 2000000] [--history 0] [--keep-seconds 60] [--tables shipped]

It starts a PostgreSQL of its own, which syncs to disk as in production, and pushes jobs through the engine's own
functions, a backlog of --backlog at a time; beside it a thread prunes every second, as the tick does. A few leased
jobs that say their progress are among them. --history puts so many finished jobs there first, which stay.

--tables says how the tables are kept: "shipped"; "plain", as PostgreSQL does by default; or "partitions", the job
table cut into ranges of ids, of which those that are over are dropped (without its foreign keys, and without the
constraint on children's names, which a partitioned table cannot have).

The machine may be busy with other things, so times count as ratios within one run only. What does not depend on it is
how many pages a claim of one job reads ("claim pages": the median and the most since the line before).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BASE_DIR))

from config.local.ports import free_port  # noqa: E402 The path comes first.
from config.local.postgres import Postgres  # noqa: E402 The path comes first.

SHORT, LONG = "bench.nothing", "bench.progress"
# Leased jobs of each backlog, and how often each writes its progress.
LEASED, STEPS = 10, 20
# The ids of so many seconds are a partition.
SPAN_SECONDS = 20

# Statements that take every table back to what PostgreSQL does by default.
PLAIN = """
SELECT format('ALTER TABLE %s RESET (%s)', oid::regclass, string_agg(split_part(option, '=', 1), ', '))
FROM pg_class, unnest(reloptions) AS option
WHERE relkind = 'r' AND relname ~ '^(orchestrator|scheduler|ingestion)_'
GROUP BY oid
"""

# Jobs that ended yesterday, with ids of that time.
HISTORY = """
INSERT INTO orchestrator_job (id, kind, queue, owner, status, attempt, started_at, finished_at, payload)
SELECT (lpad(to_hex(ms + n / 100), 12, '0') || '7' || lpad(to_hex(n %% 100), 3, '0') || '8'
           || substr(md5(n::text), 1, 15))::uuid,
       'bench.history', 'default', 'historian', 'COMPLETED', 1, yesterday, yesterday, '{}'
FROM generate_series(1, %s) AS n,
     (SELECT yesterday, extract(epoch FROM yesterday)::bigint * 1000 AS ms
      FROM (SELECT now() - interval '1 day' AS yesterday) AS begin) AS begin
"""

STATE = """
SELECT coalesce(sum(pg_relation_size(relid)), 0) / 1e6, coalesce(sum(pg_indexes_size(relid)), 0) / 1e6,
       (SELECT sum(pg_relation_size(indexrelid)) FROM pg_index
        WHERE indexrelid::regclass::text ~ '(job_ready_by_owner|kind_owner_rank_id)') / 1e6,
       pg_total_relation_size('orchestrator_worker') / 1e6,
       (SELECT 100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1) FROM pg_stat_user_tables
        WHERE relname = 'orchestrator_worker'),
       sum(n_dead_tup), sum(n_live_tup), sum(n_tup_upd), sum(n_tup_hot_upd), sum(autovacuum_count)
FROM pg_stat_user_tables WHERE relname ~ '^orchestrator_job'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2_000_000)
    parser.add_argument("--backlog", type=int, default=10_000)
    parser.add_argument("--report-every", type=int, default=100_000)
    parser.add_argument("--history", type=int, default=0)
    parser.add_argument("--keep-seconds", type=float, default=60, help="0: nothing is pruned.")
    parser.add_argument("--tables", choices=["shipped", "plain", "partitions"], default="shipped")
    parser.add_argument("--sql", action="append", default=[], help="Run first of all, to try something else.")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
    folder.chmod(0o711)
    postgres = Postgres(folder / "postgres", free_port())
    try:
        postgres.start()
        prepare(postgres.url, asked)
        push(asked)
    finally:
        postgres.stop()
        postgres.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def prepare(database_url: str, asked: argparse.Namespace) -> None:
    days = asked.keep_seconds / 86_400
    os.environ.update(
        SECRET_KEY="only-for-benchmarks-0123456789-abcdefghijklmnopqrstuv",
        DATABASE_URL=database_url,
        RETENTION_DAYS="0",
        RETENTION_DAYS_BY_KIND=f"{SHORT}={days:.9f},{LONG}={days:.9f}",
        REQUIRE_AUTH="false",
        ALLOW_UNAUTHENTICATED="true",
        SECURE_COOKIES="false",
        LOG_LEVEL="WARNING",
        DJANGO_SETTINGS_MODULE="config.settings",
    )
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    declare_kinds()
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        if asked.tables == "plain":
            cursor.execute(PLAIN)
            for (statement,) in cursor.fetchall():
                cursor.execute(statement)
        for statement in asked.sql:
            cursor.execute(statement)
        cursor.execute(HISTORY, [asked.history])
        cursor.execute("VACUUM ANALYZE orchestrator_job")
        if asked.tables == "partitions":
            cut_into_partitions(cursor)


def declare_kinds() -> None:
    from orchestrator.kinds import job
    from orchestrator.queue import bell

    @job(SHORT, execution="transactional", takes_batch=True)
    def nothing(jobs: list[Any]) -> list[None]:
        return [None for _ in jobs]

    @job(LONG)
    def progress(job: Any) -> None:
        for step in range(STEPS):
            with job.step(step + 1, STEPS, "on the way"):
                pass

    # There is no broker, and nobody who would answer.
    bell.ring = lambda kind: None


def push(asked: argparse.Namespace) -> None:
    from orchestrator.kinds import kind_named
    from orchestrator.queue import claims
    from orchestrator.submission import submit_many
    from orchestrator.worker.process import WorkerProcess
    from orchestrator.worker.runner import run_next

    short, long = kind_named(SHORT), kind_named(LONG)
    seconds: list[float] = []
    pages: list[int] = []
    claims.lock_ready = timed(claims.lock_ready, seconds)
    process = WorkerProcess("bench@here", ["default"]).start()
    assert process.lease.registered.wait(10)
    pruner = Pruner(asked)
    pruner.start()
    print("".join(name.rjust(width) for name, width in COLUMNS.items()))
    submitting = running = 0.0
    for done in range(asked.backlog, asked.jobs + 1, asked.backlog):
        began_at = time.perf_counter()
        for _ in range(asked.backlog // 1_000):
            submit_many(short, [{} for _ in range(1_000)])
        submit_many(long, [{} for _ in range(LEASED)])
        submitting += time.perf_counter() - began_at
        pages.append(pages_of_a_claim())
        began_at = time.perf_counter()
        while run_next(short, process):
            pass
        running += time.perf_counter() - began_at
        while run_next(long, process):
            pass
        if done % asked.report_every == 0:
            report(done, asked.report_every / submitting, asked.report_every / running, seconds, pages, pruner)
            submitting = running = 0.0
            seconds.clear()
            pages.clear()
    pruner.end()
    process.end()


def pages_of_a_claim() -> int:
    from django.db import connection, transaction

    from orchestrator.queue.claims import LOCK

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {LOCK}", {"kind": SHORT, "limit": 1, "left_out": []})
        [[[explained]]] = cursor.fetchall()
        plan = explained["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        began_at = time.perf_counter()
        answer = function(*args, **options)
        seconds.append(time.perf_counter() - began_at)
        return answer

    return call


class Pruner(threading.Thread):
    """The part of the tick that prunes."""

    def __init__(self, asked: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self.asked = asked
        self.ended = threading.Event()
        self.longest = 0.0

    def run(self) -> None:
        while self.asked.keep_seconds and not self.ended.wait(1):
            began_at = time.perf_counter()
            self.prune()
            self.longest = max(self.longest, time.perf_counter() - began_at)

    def prune(self) -> None:
        from django.db import connection

        from orchestrator.upkeep import tick

        if self.asked.tables == "partitions":
            with connection.cursor() as cursor:
                move_partitions(cursor, self.asked.keep_seconds)
        else:
            tick.prune()

    def end(self) -> None:
        self.ended.set()
        if self.is_alive():
            self.join()


def cut_into_partitions(cursor: Any) -> None:
    cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'orchestrator_job' AND indexdef !~ 'UNIQUE'")
    indexes = [definition for (definition,) in cursor.fetchall()]
    for statement in (
        "ALTER TABLE orchestrator_job RENAME TO whole",
        "CREATE TABLE orchestrator_job (LIKE whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (id)",
        "DROP TABLE whole CASCADE",
        "ALTER TABLE orchestrator_job ADD PRIMARY KEY (id)",
        *indexes,
    ):
        cursor.execute(statement)
    move_partitions(cursor, keep_seconds=0)


def move_partitions(cursor: Any, keep_seconds: float) -> None:
    """Makes the partitions of the next time, and drops those of which all has ended long enough ago."""
    from orchestrator.queries import least_id

    now = int(time.time()) // SPAN_SECONDS * SPAN_SECONDS
    for begin in range(now, now + 5 * SPAN_SECONDS, SPAN_SECONDS):
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS orchestrator_job_{begin} PARTITION OF orchestrator_job"
            f" FOR VALUES FROM ('{least_id(begin)}') TO ('{least_id(begin + SPAN_SECONDS)}')"
        )
    cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^orchestrator_job_[0-9]'")
    for (name,) in cursor.fetchall():
        if int(name.rpartition("_")[2]) + SPAN_SECONDS < time.time() - keep_seconds:
            cursor.execute(f"SELECT EXISTS (SELECT FROM {name} WHERE finished_at IS NULL)")
            if cursor.fetchone() == (False,):
                cursor.execute(f"DROP TABLE {name}")


COLUMNS = {
    "jobs": 8, "submit/s": 9, "run/s": 7, "claim ms": 9, "p99": 6, "claim pages": 12, "most": 6, "rows": 10, "dead": 9,
    "table MB": 9, "indexes MB": 11, "ready MB": 9, "worker MB": 10, "HOT %": 7, "job HOT %": 10, "vacuums": 8,
    "prune s": 8,
}  # fmt: skip


def report(done: int, submitted: float, ran: float, claims: list[float], pages: list[int], pruner: Pruner) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(STATE)
        table, indexes, ready, worker, worker_hot, dead, live, updates, hot, vacuums = cursor.fetchone()
    figures = (
        f"{done}", f"{submitted:.0f}", f"{ran:.0f}",
        f"{statistics.median(claims) * 1e3:.2f}", f"{statistics.quantiles(claims, n=100)[98] * 1e3:.0f}",
        f"{statistics.median(pages):.0f}", f"{max(pages)}", f"{live}", f"{dead}", f"{table:.1f}", f"{indexes:.1f}",
        f"{ready:.2f}", f"{worker:.2f}", f"{worker_hot:.1f}", f"{100 * hot / max(updates, 1):.1f}",
        f"{vacuums}", f"{pruner.longest:.2f}",
    )  # fmt: skip
    print("".join(figure.rjust(width) for figure, width in zip(figures, COLUMNS.values(), strict=True)), flush=True)
    pruner.longest = 0.0


if __name__ == "__main__":
    main()
