"""1. A+B tasks in batches over HTTP, from the first request until the last result is visible, beside the usual way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import redis

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import (
    BASELINES,
    WORKER_PROCESSES,
    Stack,
    baseline,
    celery_worker,
    connect,
    muster,
    require,
    rows,
    run,
    spent,
    until,
    value,
)

PLOT = "Tasks a second, submitted in batches"
PATIENCE_SECONDS = 600
# The list that bare Celery pushes its sums onto.
SUMS = "sums"

# Asked again and again while others work, so it is to cost nothing: the order leads to an index, whatever the table's
# statistics say. (Within EXISTS it would be left out.)
UNFINISHED = """
SELECT (
    SELECT true FROM orchestrator_job WHERE status IN ('CREATED', 'RUNNING') ORDER BY status, id DESC LIMIT 1
) IS NOT NULL
"""
# Tasks, tasks that have exactly one result and a right one, and jobs that were completed at their first attempt.
OUTCOME = """
SELECT (SELECT count(*) FROM scheduler_task),
       (SELECT count(*) FROM (
            SELECT task.id FROM scheduler_task task JOIN scheduler_taskresult result ON result.task_id = task.id
            GROUP BY task.id HAVING count(*) = 1 AND min(result.result) = task.a + task.b) AS right_ones),
       (SELECT count(*) FROM orchestrator_job WHERE status = 'COMPLETED' AND attempt = 1)
"""


@benchmark("tasks", "A+B tasks in batches over HTTP, to the last result visible")
def tasks(bench: Bench) -> Iterator[Finding]:
    ours, costs = by_muster(bench, count=bench.size(100_000, 2_000), batch=bench.size(10_000, 500))
    usual = by_the_usual_way(bench, count=bench.size(3_000, 100), batch=bench.size(1_000, 50))
    celery = by_bare_celery(bench, count=bench.size(3_000, 100))
    limit = by_plain_sql(bench, count=bench.size(100_000, 2_000))
    yield Finding(what="tasks in batches, times the usual way", value=ours / usual, unit="×", target=100)
    yield Finding(what="tasks in batches, share of COPY and plain SQL", value=ours / limit, unit="×", target=0.25)
    yield rate("Muster", ours)
    yield rate("the usual way: Django + Celery", usual)
    yield rate("bare Celery, no tracking", celery)
    if BASELINES.exists():
        yield rate("procrastinate, deferred in batches", by_procrastinate(bench, count=bench.size(3_000, 100)))
    else:
        bench.say("procrastinate is not installed, so it is left out; `make bench` installs it.")
    yield rate("the limit: COPY and plain SQL", limit)
    for part, seconds in costs.items():
        yield Finding(what=f"processor time of {part} for a task", value=seconds * 1e6, unit="µs")


def rate(who: str, value: float) -> Finding:
    return Finding(what=who, value=value, unit="tasks/s", plot=PLOT)


def by_muster(bench: Bench, *, count: int, batch: int) -> tuple[float, dict[str, float]]:
    """Tasks a second, and the processor time that a task takes of each process."""
    batches = [
        [{"a": number, "b": 0.5, "priority": number % 10} for number in range(first, min(first + batch, count))]
        for first in range(0, count, batch)
    ]
    requests = [client.post("/tasks/batch-request/", tasks) for tasks in batches]
    with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
        before = stack.cpu_seconds()
        began_at = time.perf_counter()
        client.send(stack.port, requests, connections=1).expect(202)
        stack.wait_until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
        seconds = time.perf_counter() - began_at
        costs = {part: used / count for part, used in spent(before, stack.cpu_seconds()).items()}
    bench.servers.prove(lambda: require_right(stack.database_url, count))
    bench.say(f"Muster: {count:,} tasks in {seconds:.2f} s")
    return count / seconds, costs


def require_right(database_url: str, count: int) -> None:
    with closing(connect(database_url)) as connection:
        [outcome] = rows(connection, OUTCOME)
    require(outcome == (count, count, count), f"Of {count:,} tasks: (kept, right once, completed once) = {outcome}.")


def by_the_usual_way(bench: Bench, *, count: int, batch: int) -> float:
    batches = [
        [{"a": number, "b": "0.5"} for number in range(first, min(first + batch, count))]
        for first in range(0, count, batch)
    ]
    requests = [client.post("/tasks/batch/", tasks) for tasks in batches]
    with (
        baseline(bench.servers, "usual", "web", "worker") as stack,
        closing(connect(stack.database_url)) as connection,
    ):
        warm_up_usual(stack)
        began_at = time.perf_counter()
        client.send(stack.port, requests, connections=1).expect(202)
        pending = "SELECT EXISTS (SELECT FROM usual_task WHERE status = 'PENDING')"
        stack.wait_until(lambda: not value(connection, pending), PATIENCE_SECONDS)
        seconds = time.perf_counter() - began_at
    bench.servers.prove(lambda: require_usual_right(stack.database_url, count))
    bench.say(f"The usual way: {count:,} tasks in {seconds:.2f} s")
    return count / seconds


def warm_up_usual(stack: Stack) -> None:
    """Runs a few tasks, so that every worker process has begun, and forgets them."""
    with closing(connect(stack.database_url)) as connection:
        client.send(stack.port, [client.post("/tasks/", {"a": 1, "b": 1})] * 20).expect(202)
        stack.wait_until(lambda: value(connection, "SELECT count(*) FROM usual_result") == 20)
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE usual_task, usual_result")


def require_usual_right(database_url: str, count: int) -> None:
    sql = """SELECT (SELECT count(*) FROM usual_task), count(*), count(DISTINCT task.id)
             FROM usual_task task JOIN usual_result ON task_id = task.id
             WHERE result = a + b AND status = 'SUCCESS'"""
    with closing(connect(database_url)) as connection:
        [outcome] = rows(connection, sql)
    require(outcome == (count, count, count), f"Of {count:,} tasks: (kept, right results, of tasks) = {outcome}.")


def by_bare_celery(bench: Bench, *, count: int) -> float:
    valkey = redis.Redis.from_url(bench.servers.valkey.url)
    environment = {"BROKER_URL": bench.servers.valkey.url}
    program = [sys.executable, "-m", "benchmarks.baselines.bare_celery"]
    with Stack(bench.servers, {"worker": celery_worker("benchmarks.baselines.bare_celery")}, environment) as stack:
        run([*program, "20"], environment)
        stack.wait_until(lambda: valkey.llen(SUMS) == 20)
        valkey.delete(SUMS)
        seconds = timed_through(lambda: run([*program, str(count)], environment), lambda: valkey.llen(SUMS) >= count)
        sums = sorted(map(float, valkey.lrange(SUMS, 0, -1)))
    require(sums == [number + 0.5 for number in range(count)], "Every sum must be there once.")
    bench.say(f"Bare Celery: {count:,} tasks in {seconds:.2f} s")
    return count / seconds


def by_procrastinate(bench: Bench, *, count: int) -> float:
    program = [sys.executable, "-m", "benchmarks.baselines.deferring"]

    def environment(url: str) -> dict[str, str]:
        return {"DATABASE_URL": url, "PYTHONPATH": str(BASELINES)}

    url = bench.servers.fresh("deferring", lambda url: run([*program, "schema"], environment(url)))
    commands = {f"worker-{number}": f"exec {' '.join(program)} work" for number in range(WORKER_PROCESSES)}
    with Stack(bench.servers, commands, environment(url)) as stack, closing(connect(url)) as connection:
        run([*program, "defer", "20"], environment(url))
        stack.wait_until(lambda: value(connection, "SELECT count(*) FROM result") == 20)
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE result")
        todo = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        seconds = timed_through(
            lambda: run([*program, "defer", str(count)], environment(url)), lambda: not value(connection, todo)
        )

    def check() -> None:
        with closing(connect(url)) as connection:
            right = "SELECT count(DISTINCT number) FROM result WHERE result = number + 0.5"
            outcome = value(connection, "SELECT count(*) FROM result"), value(connection, right)
        require(outcome == (count, count), f"Of {count:,} tasks: (results, right once) = {outcome}.")

    bench.servers.prove(check)
    bench.say(f"procrastinate: {count:,} tasks in {seconds:.2f} s")
    return count / seconds


def by_plain_sql(bench: Bench, *, count: int) -> float:
    program = [sys.executable, "-m", "benchmarks.baselines.limit"]
    tables = "import benchmarks.baselines.limit as limit; limit.create_tables()"
    url = bench.servers.fresh("plain", lambda url: run([sys.executable, "-c", tables], {"DATABASE_URL": url}))
    environment = {"DATABASE_URL": url}
    with closing(connect(url)) as connection:
        began_at = time.perf_counter()
        run([*program, "copy", str(count)], environment)
        workers = {f"limit-{number}": f"exec {' '.join(program)} work" for number in range(WORKER_PROCESSES)}
        with Stack(bench.servers, workers, environment):
            some_left = "SELECT (SELECT true FROM job WHERE ready ORDER BY id LIMIT 1) IS NOT NULL"
            until(lambda: not value(connection, some_left), PATIENCE_SECONDS)
            seconds = time.perf_counter() - began_at
        right = value(connection, "SELECT count(*) FROM job JOIN result ON job_id = job.id WHERE result = a + b")
    require(right == count, f"Of {count:,} jobs {right:,} have the right result.")
    bench.say(f"The limit: {count:,} tasks in {seconds:.2f} s")
    return count / seconds


def timed_through(submit: Callable[[], object], is_done: Callable[[], bool]) -> float:
    """Seconds from before the program that submits begins until all is done.

    The start of the program, some tenths of a second, is counted, since its first task is under way before it ends.
    """
    began_at = time.perf_counter()
    submit()
    until(is_done, PATIENCE_SECONDS)
    return time.perf_counter() - began_at
