"""4. Whether submitting and claiming stay as fast with millions of jobs, and over minutes of steady load."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import Stack, connect, muster, require, rows, run, value
from benchmarks.tasks import PATIENCE_SECONDS, UNFINISHED, require_right

# Ids that rise with n, all of them a day old.
ID = """
(lpad(to_hex((extract(epoch FROM now() - interval '1 day') * 1000)::bigint + {n} / 100), 12, '0') || '7'
 || lpad(to_hex({n} % 100), 3, '0') || '{variant}' || substr(md5({n}::text), 1, 15))::uuid
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
BY_MINUTE = """
SELECT floor(extract(epoch FROM finished_at - %s) / %s)::int, count(*) FROM orchestrator_job GROUP BY 1
"""
AT_ONCE = 100_000
# Of the table with millions, a rate is this share of that of the empty one at least; and of the last minute.
FLAT, STEADY = 0.85, 0.90


@benchmark("flatness", "Submitting and claiming with millions of jobs in the table, and ten minutes of steady load")
def flatness(bench: Bench) -> Iterator[Finding]:
    with muster(bench.servers, []) as stack:
        empty = rates(bench, stack)
        fill(bench, stack, finished=bench.size(5_000_000, 2_000), others=bench.size(1_000_000, 1_000))
        full = rates(bench, stack)
    for name in ("submit", "claim"):
        yield Finding(
            what=f"{name}: rate with millions of jobs, share of the rate with none",
            value=full[name] / empty[name],
            unit="×",
            target=FLAT,
            note="Each rate is that of one process which calls Muster's own functions.",
        )
        yield Finding(what=f"{name}, an empty table", value=empty[name], unit="tasks/s")
        yield Finding(
            what=f"{name}, 5,000,000 finished, 1,000,000 future, 1,000,000 waiting", value=full[name], unit="tasks/s"
        )
    yield from steady_load(bench, minutes=bench.size(10, 2), seconds_a_minute=bench.size(60.0, 3.0))


def rates(bench: Bench, stack: Stack) -> dict[str, float]:
    """Tasks a second submitted and claimed: the median of some rounds."""
    count, rounds = bench.size(20_000, 600), bench.size(3, 1)
    found: dict[str, list[float]] = {"submit": [], "claim": []}
    for _ in range(rounds):
        found["submit"].append(probe(stack, "create_tasks", str(count), str(min(count, 1_000))))
        found["claim"].append(probe(stack, "claim", str(count - 400)))
    return {name: statistics.median(values) for name, values in found.items()}


def probe(stack: Stack, *arguments: str) -> float:
    answer = run([sys.executable, "-m", "benchmarks.probe", *arguments], stack.environment)
    return float(json.loads(answer)["rate"])


def fill(bench: Bench, stack: Stack, *, finished: int, others: int) -> None:
    began_at = time.perf_counter()
    with closing(connect(stack.database_url)) as connection, connection.cursor() as cursor:
        for sql, count in ((FINISHED, finished), (FUTURE, others), (WAITING, others)):
            for first in range(0, count, AT_ONCE):
                # psycopg2 takes a percent sign for a parameter, unless it is written twice.
                quoted = sql.replace("%", "%%").replace("%%s", "%s")
                cursor.execute(quoted, (first, min(first + AT_ONCE, count) - 1))
        cursor.execute("VACUUM (ANALYZE) orchestrator_job, scheduler_task")
        cursor.execute("CHECKPOINT")
        [(size,)] = rows(connection, "SELECT pg_size_pretty(pg_total_relation_size('orchestrator_job'))")
        total = value(connection, "SELECT count(*) FROM orchestrator_job")
    require(total >= finished + 2 * others, f"{total:,} jobs are too few.")
    bench.say(f"{total:,} jobs, {size}, were made in {time.perf_counter() - began_at:.0f} s")


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
