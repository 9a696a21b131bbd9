"""Calls Muster's own functions in a process of their own, and prints how long each took as JSON.

python -m benchmarks.probe create_tasks COUNT BATCH | claim COUNT | submit_steps COUNT | submit_fan CHILDREN
    | submit_waits COUNT SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from decimal import Decimal
from typing import Any

import django


def create_tasks(count: int, batch: int) -> dict[str, Any]:
    """Accepts so many tasks, batch by batch."""
    from scheduler.services import NewTask, create_tasks

    tasks = [NewTask(a=Decimal(number), b=Decimal("0.5")) for number in range(batch)]
    create_tasks(tasks[:1])
    began_at = time.perf_counter()
    for _ in range(count // batch):
        create_tasks(tasks)
    return {"rate": count / (time.perf_counter() - began_at)}


def claim(count: int) -> dict[str, Any]:
    """Runs so many tasks as one worker process does: claim a batch, add, keep the results, complete, commit."""
    from django.db import connection

    from orchestrator import engine
    from orchestrator.kinds import kind_named
    from orchestrator.workers import WorkerProcess

    kind = kind_named("scheduler.add")
    process = WorkerProcess("probe@here", ["default"]).start()
    assert process.registered.wait(30)
    engine.run_batch(kind, process, "")
    began_at = time.perf_counter()
    for _ in range(count // kind.batch_size):
        assert engine.run_batch(kind, process, "")
    rate = count // kind.batch_size * kind.batch_size / (time.perf_counter() - began_at)
    process.end()
    connection.close()
    return {"rate": rate}


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


def submit_waits(count: int, seconds: int) -> dict[str, Any]:
    """Submits so many jobs that wait."""
    from orchestrator.submission import submit_many

    submit_many("bench.wait", [{"seconds": seconds}] * count)
    return _rung()


def _rung() -> dict[str, Any]:
    """Waits for the bell, which a thread of this process rings."""
    from orchestrator import bell

    return {"rung": bell._ringer().wait_until_idle(10)}


if __name__ == "__main__":
    django.setup()
    command = {each.__name__: each for each in (create_tasks, claim, submit_steps, submit_fan, submit_waits)}[
        sys.argv[1]
    ]
    print(json.dumps(command(*map(int, sys.argv[2:]))))
