"""4. Whether submitting and claiming stay as fast with millions of jobs, and over minutes of steady load.

An empty database and a full one stand in the same PostgreSQL and are measured in turn, so that whatever else happens
to the machine happens to both. What does not depend on the machine is beside the rates: what a task reads and writes.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import (
    Servers,
    connect,
    migrated,
    muster,
    muster_environment,
    require,
    rows,
    run,
    value,
)
from benchmarks.tasks import PATIENCE_SECONDS, UNFINISHED, require_right
from benchmarks.written import Written, counted

# Ids that rise with n, all of them a day old.
ID = """
(lpad(to_hex((extract(epoch FROM now() - interval '1 day') * 1000)::bigint + {n} / 1000), 12, '0') || '7'
 || lpad(to_hex({n} % 1000), 3, '0') || '{variant}' || substr(md5({n}::text), 1, 15))::uuid
"""
PAYLOAD = "jsonb_build_object('task_id', {task}, 'a', n::text, 'b', '0.5')"
# Finished jobs, jobs of next year, and tasks that wait with their jobs; all of the kind that is measured.
FINISHED = f"""
INSERT INTO orchestrator_job (id, kind, queue, owner, status, attempt, started_at, finished_at, payload, result,
                              worker_name, celery_task_id)
SELECT {ID.format(n="n", variant="8")}, 'scheduler.add', 'default', 'owner ' || n % 1000, 'COMPLETED', 1,
       now() - interval '1 day', now() - interval '1 day', {PAYLOAD.format(task="md5(n::text)::uuid")},
       '{{"result": 1.5}}', 'default@host', md5(n::text)::uuid::text
FROM generate_series(%s, %s) AS n
"""
FUTURE = f"""
INSERT INTO orchestrator_job (id, kind, queue, owner, run_at, rank, payload)
SELECT {ID.format(n="n", variant="9")}, 'scheduler.add', 'default', 'owner ' || n % 1000,
       now() + interval '1 year', now() + interval '1 year', {PAYLOAD.format(task="md5(n::text)::uuid")}
FROM generate_series(%s, %s) AS n
"""
WAITING = f"""
WITH numbers AS (
    SELECT n, {ID.format(n="n", variant="a")} AS id, {ID.format(n="n", variant="b")} AS task_id
    FROM generate_series(%s, %s) AS n
), jobs AS (
    INSERT INTO orchestrator_job (id, kind, queue, owner, rank, ready, payload)
    SELECT id, 'scheduler.add', 'default', 'owner ' || n % 1000, now() + n * interval '1 millisecond', true,
           {PAYLOAD.format(task="task_id")}
    FROM numbers RETURNING id
)
INSERT INTO scheduler_task (id, owner, a, b, operation, priority, job_id)
SELECT task_id, 'owner ' || n % 1000, n, 0.5, '', 5, numbers.id FROM numbers JOIN jobs ON jobs.id = numbers.id
"""
# What is no constraint, which takes several times as long to write row by row as to build.
INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid IN ('orchestrator_job'::regclass, 'scheduler_task'::regclass)
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""
AT_ONCE, WRITERS = 50_000, 2
BY_MINUTE = """
SELECT floor(extract(epoch FROM finished_at - %s) / %s)::int, count(*) FROM orchestrator_job GROUP BY 1
"""
# Of the table with millions, a rate is this share of that of the empty one at least; and of the last minute.
FLAT, STEADY = 0.95, 0.95
# What a task may cost that is submitted and completed: half of what it was.
INDEX_ENTRIES = 8.5
PHASES = ("submit", "claim")
EMPTY, FULL = "an empty table", "a full one"
NOTE = (
    "Each rate is that of one process that calls Muster's functions directly, the median of rounds in which the two "
    "databases of one PostgreSQL take turns. Each turn begins with a checkpoint and a batch that does not count: the "
    "first change of a page after a checkpoint writes all of it to the WAL, which happens once in minutes. Processor "
    "time is that of the process of PostgreSQL that serves it. What a task reads and writes is counted in its WAL's "
    "records and its statistics."
)
# Disk that a job with its part of the indexes takes, and what is taken besides: the WAL, and sorting for an index.
BYTES_A_JOB, BYTES_BESIDES = 500, 20_000_000_000


@dataclass(frozen=True, kw_only=True)
class Filled:
    """How many jobs there are in the full database. Others: of next year, and as many that wait with their tasks."""

    finished: int
    others: int

    def __str__(self) -> str:
        return f"{(self.finished + 2 * self.others) / 1e6:.0f} million jobs"


@benchmark("flatness", "Submitting and claiming with 7 million jobs in the table")
def flatness(bench: Bench) -> Iterator[Finding]:
    filled = Filled(finished=bench.size(5_000_000, 2_000), others=bench.size(1_000_000, 1_000))
    yield from side_by_side(bench, filled)


@benchmark("flatness_50m", "Submitting and claiming with 50 million jobs in the table", only_by_name=True)
def flatness_50m(bench: Bench) -> Iterator[Finding]:
    filled = Filled(finished=bench.size(49_800_000, 2_000), others=bench.size(100_000, 1_000))
    free = shutil.disk_usage(bench.servers.folder).free
    wanted = BYTES_A_JOB * filled.finished + BYTES_BESIDES
    require(bench.quick or free > wanted, f"It needs {wanted / 1e9:.0f} GB of disk, and there are {free / 1e9:.0f}.")
    yield from side_by_side(bench, filled)


@benchmark("steady_load", "Ten minutes of steady load")
def ten_minutes(bench: Bench) -> Iterator[Finding]:
    yield from steady_load(bench, minutes=bench.size(10, 2), seconds_a_minute=bench.size(60.0, 3.0))


def side_by_side(bench: Bench, filled: Filled) -> Iterator[Finding]:
    empty, full = Database(bench.servers, "muster_empty"), Database(bench.servers, "muster_full")
    fill(bench, full.url, filled)
    bench.servers.execute("postgres", "CHECKPOINT")
    found = measured(bench, {EMPTY: empty, FULL: full})
    for phase in PHASES:
        yield from compared(phase, filled, found[EMPTY][phase], found[FULL][phase])
    written = {name: costs(bench, database) for name, database in ((EMPTY, empty), (FULL, full))}
    for name, by_phase in written.items():
        yield from told(name, by_phase)


class Pace(NamedTuple):
    """Tasks a second of one process, and the processor time that PostgreSQL took for a task, in seconds."""

    rate: float
    postgres_seconds: float


def compared(phase: str, filled: Filled, empty: Sequence[Pace], full: Sequence[Pace]) -> Iterator[Finding]:
    """What was measured of a phase in rounds in which the two took turns."""
    rounds = list(zip(empty, full, strict=True))
    yield Finding(
        what=f"{phase}: rate with {filled}, share of the rate with none",
        value=statistics.median(full.rate / empty.rate for empty, full in rounds),
        unit="×",
        target=FLAT,
        note=NOTE,
    )
    yield Finding(
        what=f"{phase}: PostgreSQL's processor time with {filled}, times that with none",
        value=sum(pace.postgres_seconds for pace in full) / sum(pace.postgres_seconds for pace in empty),
        unit="×",
    )
    for name, paces in ((EMPTY, empty), (FULL, full)):
        yield Finding(what=f"{phase}, {name}", value=statistics.median(pace.rate for pace in paces), unit="tasks/s")
        yield Finding(
            what=f"{phase}, a task, {name}: processor time of PostgreSQL",
            value=statistics.median(pace.postgres_seconds for pace in paces) * 1e6,
            unit="µs",
        )


class Database:
    """A migrated database, and Muster's functions in it."""

    def __init__(self, servers: Servers, name: str) -> None:
        self.url = servers.fresh(name, migrated(servers))
        self._servers = servers
        self._environment = muster_environment(servers, self.url)

    def begin(self, *, batch: int) -> None:
        """A checkpoint, and a first batch of tasks, which writes pages of indexes to the WAL as a whole."""
        self._servers.execute("postgres", "CHECKPOINT")
        self.submit(batch, batch=batch)

    def submit(self, count: int, *, batch: int) -> Pace:
        return self._probe("create_tasks", str(count), str(batch))

    def claim(self, count: int) -> Pace:
        """Of one worker process that completes so many tasks."""
        return self._probe("claim", str(count))

    def _probe(self, *arguments: str) -> Pace:
        answer = run([sys.executable, "-m", "benchmarks.probe", *arguments], self._environment)
        return Pace(**json.loads(answer))


def measured(bench: Bench, databases: Mapping[str, Database]) -> dict[str, dict[str, list[Pace]]]:
    """By database and phase, round by round; every other round begins with the other database."""
    count, rounds = bench.size(20_000, 1_000), bench.size(10, 2)
    batch = min(count, 1_000)
    found: dict[str, dict[str, list[Pace]]] = {name: {phase: [] for phase in PHASES} for name in databases}
    for number in range(rounds):
        for name in list(databases)[:: 1 if number % 2 else -1]:
            databases[name].begin(batch=batch)
            found[name]["submit"].append(databases[name].submit(count, batch=batch))
            found[name]["claim"].append(databases[name].claim(count - 400))
            told = ", ".join(f"{phase} {found[name][phase][-1].rate:,.0f}" for phase in PHASES)
            bench.say(f"round {number + 1}, {name}: {told} tasks/s")
    return found


def costs(bench: Bench, database: Database) -> dict[str, Counted]:
    count = bench.size(10_000, 1_000)
    batch = min(count, 1_000)
    work: dict[str, Callable[[], Pace]] = {
        "submit": partial(database.submit, count, batch=batch),
        # It completes a batch of 200 more before it begins to count.
        "claim": partial(database.claim, count - 200),
    }
    counts: dict[str, Counted] = {}
    database.begin(batch=batch)
    for phase, do in work.items():
        with counted(database.url) as written:
            do()
        counts[phase] = Counted(written, count)
    return counts


@dataclass(frozen=True)
class Counted:
    """What so many tasks read and wrote together."""

    written: Written
    tasks: int


def told(name: str, by_phase: Mapping[str, Counted]) -> Iterator[Finding]:
    entries = sum(sum(each.written.index_entries.values()) / each.tasks for each in by_phase.values())
    yield Finding(
        what=f"index entries written for a task, submitted and completed, {name}",
        value=entries,
        unit="",
        target=INDEX_ENTRIES,
        at_most=True,
    )
    for phase, each in by_phase.items():
        written, tasks, total = each.written, each.tasks, each.written.total
        for what, number, unit in (
            ("WAL", total.wal_bytes, "bytes"),
            ("whole pages in the WAL", total.whole_pages, "pages"),
            ("pages found in memory", total.pages_hit, "pages"),
            ("pages read", total.pages_read, "pages"),
        ):
            yield Finding(what=f"{phase}, a task, {name}: {what}", value=number / tasks, unit=unit)
        for index, count in sorted(written.index_entries.items(), key=lambda item: -item[1]):
            if count > tasks / 10:
                yield Finding(what=f"{phase}, a task, {name}: entries of {index}", value=count / tasks, unit="")
        for statement, did in sorted(written.statements.items(), key=lambda item: -item[1].wal_bytes):
            if did.wal_bytes > total.wal_bytes / 100:
                yield Finding(
                    what=f"{phase}, a task, {name}: WAL by `{statement}…`", value=did.wal_bytes / tasks, unit="bytes"
                )
                yield Finding(
                    what=f"{phase}, a task, {name}: pages by `{statement}…`",
                    value=(did.pages_hit + did.pages_read) / tasks,
                    unit="pages",
                )


def fill(bench: Bench, url: str, filled: Filled) -> None:
    """Fills the tables while their indexes are away, and builds these anew."""
    began_at = time.perf_counter()
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        indexes = rows(connection, INDEXES)
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        # No key of a task is looked for while all of them are known to be there.
        for sql, count in ((FINISHED, filled.finished), (FUTURE, filled.others), (WAITING, filled.others)):
            firsts = range(0, count, AT_ONCE)
            with ThreadPoolExecutor(WRITERS) as writers:
                list(writers.map(partial(insert, url, sql, count), firsts))
        cursor.execute("SET maintenance_work_mem = '1GB'")
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM (ANALYZE) orchestrator_job, scheduler_task")
        [(size,)] = rows(connection, "SELECT pg_size_pretty(pg_total_relation_size('orchestrator_job'))")
        total = value(connection, "SELECT count(*) FROM orchestrator_job")
    require(total == filled.finished + 2 * filled.others, f"{total:,} jobs are not as many as were to be made.")
    bench.say(f"{total:,} jobs, {size}, were made in {time.perf_counter() - began_at:.0f} s")


def insert(url: str, sql: str, count: int, first: int) -> None:
    # psycopg2 takes a percent sign for a parameter, unless it is written twice.
    quoted = sql.replace("%", "%%").replace("%%s", "%s")
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(quoted, (first, min(first + AT_ONCE, count) - 1))


def steady_load(bench: Bench, *, minutes: int, seconds_a_minute: float) -> Iterator[Finding]:
    """Batches of tasks, one as soon as the last is accepted while few wait, for so many minutes."""
    batch = bench.size(1_000, 50)
    request = client.post("/tasks/batch-request/", [{"a": 1, "b": 0.5}] * batch)
    waiting = "SELECT count(*) FROM (SELECT FROM orchestrator_job WHERE status = 'CREATED' LIMIT %s) AS first_ones"
    sent = 0
    with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
        began_at = value(connection, "SELECT clock_timestamp()")
        ends_at = time.monotonic() + minutes * seconds_a_minute
        with client.Connection(stack.port) as web:
            while time.monotonic() < ends_at:
                if value(connection, waiting, [5 * batch]) < 5 * batch:
                    status, body = web.ask(request)
                    require(status == 202, f"{status}: {body[:200]!r}")
                    sent += batch
                else:
                    time.sleep(0.01)
        stack.wait_until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
        require_right(stack.database_url, sent)
        by_minute = dict(rows(connection, BY_MINUTE, [began_at, seconds_a_minute]))
    rates = [by_minute.get(minute, 0) / seconds_a_minute for minute in range(minutes)]
    yield Finding(
        what=f"steady load of {minutes} minutes: the last minute's rate, share of the first's",
        value=rates[-1] / rates[0],
        unit="×",
        target=STEADY,
    )
    for minute, rate in enumerate(rates, 1):
        yield Finding(what=f"minute {minute}", value=rate, unit="tasks/s", plot="Tasks a second under steady load")
