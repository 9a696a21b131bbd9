"""Calls Muster's own functions in a process of their own, and prints how long each took as JSON.

python -m benchmarks.probe create_tasks COUNT BATCH | claim COUNT | submit_steps COUNT | submit_fan CHILDREN
    | submit_leased_fan CHILDREN | submit_each COUNT | submit_spread COUNT | submit_waits COUNT SECONDS
    | submit_async_waits COUNT SECONDS | run_leased_steps COUNT | run_keyed_steps COUNT | run_ready_steps COUNT
    | run_ready_leased_steps COUNT | fire_schedules
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import django
import psutil

BACKENDS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
"""


def create_tasks(count: int, batch: int) -> dict[str, Any]:
    """Accepts so many tasks, batch by batch."""
    from scheduler.services.tasks import NewTask, create_tasks

    tasks = [NewTask(a=Decimal(number), b=Decimal("0.5"), owner=f"owner {number % 1000}") for number in range(batch)]
    create_tasks(tasks[:1])
    used_before, began_at = sum(_of_backends().values()), time.perf_counter()
    for _ in range(count // batch):
        create_tasks(tasks)
    seconds = time.perf_counter() - began_at
    return {"rate": count / seconds, "postgres_seconds": (sum(_of_backends().values()) - used_before) / count}


def claim(count: int) -> dict[str, Any]:
    """Runs so many tasks as one worker process does: claim a batch, add, keep the results, complete, commit."""
    from django.db import connection

    from orchestrator.kinds import kind_named
    from orchestrator.worker.process import WorkerProcess
    from orchestrator.worker.runner import run_next

    kind = kind_named("scheduler.add")
    process = WorkerProcess("probe@here", ["default"]).start()
    assert process.lease.registered.wait(30)
    run_next(kind, process)
    used_before, began_at = sum(_of_backends().values()), time.perf_counter()
    for _ in range(count // kind.batch_size):
        assert run_next(kind, process)
    seconds, used = time.perf_counter() - began_at, sum(_of_backends().values()) - used_before
    process.end()
    connection.close()
    done = count // kind.batch_size * kind.batch_size
    return {"rate": done / seconds, "postgres_seconds": used / done}


def submit_steps(count: int) -> dict[str, Any]:
    """Submits so many jobs that have nothing to do with each other; when that began, as seconds since 1970."""
    from orchestrator.submission import submit_many

    began_at = time.time()
    submit_many("bench.step", [{}] * count)
    return {"began_at": began_at, **_rung()}


def submit_fan(children: int) -> dict[str, Any]:
    """Submits one pipeline with so many children."""
    from orchestrator.submission import submit

    began_at = time.time()
    submit("bench.fan", {"children": children})
    return {"began_at": began_at, **_rung()}


def submit_leased_fan(children: int) -> dict[str, Any]:
    """Submits one pipeline with so many leased children."""
    from orchestrator.submission import submit

    began_at = time.time()
    submit("bench.leased_fan", {"children": children})
    return {"began_at": began_at, **_rung()}


def submit_each(count: int) -> dict[str, Any]:
    """Submits one pipeline with a step that runs for each value of a list of so many."""
    from orchestrator.composition import start
    from orchestrator.pipelines import Pipeline, ref

    began_at = time.time()
    # The payload of each is empty: the kind takes none.
    pipeline = Pipeline().step("rows", "pipeline.value", [{}] * count).each("each", "bench.step", ref("rows"))
    start(pipeline)
    return {"began_at": began_at, **_rung()}


def submit_spread(count: int) -> dict[str, Any]:
    """Submits one job that adds so many children while it runs."""
    from orchestrator.submission import submit

    began_at = time.time()
    submit("bench.spread", {"children": count})
    return {"began_at": began_at, **_rung()}


def submit_waits(count: int, seconds: int, kind: str = "bench.wait") -> dict[str, Any]:
    """Submits so many jobs that wait."""
    from orchestrator.submission import submit_many

    submit_many(kind, [{"seconds": seconds}] * count)
    return _rung()


def submit_async_waits(count: int, seconds: int) -> dict[str, Any]:
    """Submits so many jobs that wait on an event loop."""
    return submit_waits(count, seconds, kind="bench.async_wait")


def run_leased_steps(count: int) -> dict[str, Any]:
    """Runs so many leased jobs as one thread does: claim a group, run it, complete it."""
    return _run("bench.leased_step", [{}] * count)


def run_ready_steps(count: int) -> dict[str, Any]:
    """Runs so many of the transactional jobs that are ready, as one process does."""
    return _run_ready("bench.step", "default", count)


def run_ready_leased_steps(count: int) -> dict[str, Any]:
    """Runs so many of the leased jobs that are ready, as one thread does."""
    return _run_ready("bench.leased_step", "io", count)


def run_keyed_steps(count: int) -> dict[str, Any]:
    """The same of a kind with a limit per key, each of a key of its own."""
    return _run("bench.keyed_step", [{"key": f"free {number}"} for number in range(count)])


def fire_schedules() -> dict[str, Any]:
    """Submits the jobs of all schedules that are due, as ticks that follow each other do."""
    from django.db import connection

    from scheduler.services.firing import fire_due

    began_at = time.perf_counter()
    while fire_due():
        pass
    seconds = time.perf_counter() - began_at
    connection.close()
    return {"seconds": seconds}


def _run_ready(name: str, queue: str, count: int) -> dict[str, Any]:
    from django.db import connection

    from orchestrator.kinds import kind_named
    from orchestrator.queue import turns
    from orchestrator.worker.process import WorkerProcess
    from orchestrator.worker.runner import run_next

    kind = kind_named(name)
    process = WorkerProcess("probe@here", [queue]).start()
    assert process.lease.registered.wait(30)
    while turns.absorb(kind.name):
        pass
    warm_up = count // 5
    while warm_up > 0:
        warm_up -= run_next(kind, process)
    done, used = 0, used_since_now()
    while done < count:
        ran = run_next(kind, process)
        assert ran, done
        done += ran
    found = _found(done, *used())
    process.end()
    connection.close()
    return found


def _run(name: str, payloads: list[dict[str, Any]]) -> dict[str, Any]:
    from django.db import connection

    from orchestrator.kinds import kind_named
    from orchestrator.submission import submit_many
    from orchestrator.worker.process import WorkerProcess
    from orchestrator.worker.runner import run_next

    kind = kind_named(name)
    process = WorkerProcess("probe@here", ["io"]).start()
    assert process.lease.registered.wait(30)
    warm_up = len(payloads) // 5
    submit_many(kind, payloads[:warm_up])
    while run_next(kind, process):
        pass
    submit_many(kind, payloads)
    done, used = 0, used_since_now()
    while ran := run_next(kind, process):
        done += ran
    found = _found(done, *used())
    assert done >= len(payloads), done
    process.end()
    connection.close()
    return found


def _found(jobs: int, seconds: float, processor_seconds: float) -> dict[str, Any]:
    return {"rate": jobs / seconds, "processor": processor_seconds / jobs}


def used_since_now() -> Callable[[], tuple[float, float]]:
    """What tells how many seconds have passed, and how many of processors this process and PostgreSQL have used for
    its database.
    """
    began_at, own, backends = time.perf_counter(), time.process_time(), _of_backends()

    def used() -> tuple[float, float]:
        more = sum(seconds - backends.get(pid, 0.0) for pid, seconds in _of_backends().items())
        return time.perf_counter() - began_at, time.process_time() - own + more

    return used


def _of_backends() -> dict[int, float]:
    """Processor time that each process of PostgreSQL which serves a session of this database has used, in seconds."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(BACKENDS)
        return {pid: sum(psutil.Process(pid).cpu_times()[:2]) for (pid,) in cursor.fetchall()}


def _rung() -> dict[str, Any]:
    """Waits for the bell, which a thread of this process rings."""
    from orchestrator.queue import bell

    return {"rung": bell.wait_until_rung(10)}


if __name__ == "__main__":
    django.setup()
    commands = (
        create_tasks,
        claim,
        submit_steps,
        submit_fan,
        submit_leased_fan,
        submit_each,
        submit_spread,
        submit_waits,
        submit_async_waits,
        run_leased_steps,
        run_ready_steps,
        run_ready_leased_steps,
        run_keyed_steps,
        fire_schedules,
    )
    command = {each.__name__: each for each in commands}[sys.argv[1]]
    print(json.dumps(command(*map(int, sys.argv[2:]))))
