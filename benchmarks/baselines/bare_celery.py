"""Bare Celery: no rows, no results, no tracking. What a task came to is pushed onto a list in Valkey, for the check
that all of them ran.
"""

from __future__ import annotations

import os
import sys

import redis
from celery import Celery

SUMS = "sums"

app = Celery("bare", broker=os.environ["BROKER_URL"])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
sums = redis.Redis.from_url(os.environ["BROKER_URL"])


@app.task
def add(a: float, b: float) -> None:
    sums.rpush(SUMS, a + b)


if __name__ == "__main__":
    from benchmarks.baselines.bare_celery import add as known

    for number in range(int(sys.argv[1])):
        known.delay(number, 0.5)
