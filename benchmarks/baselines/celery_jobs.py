"""Celery: ordinary jobs as its documentation has it. TRACKING is `none` (results are ignored), `acks_late` (likewise,
and a message is acknowledged once its task has ended) or `results` (django-celery-results keeps a row for each).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import django
from celery import Celery
from django.core.management import call_command

from benchmarks.ordinary_jobs import main, run_job

TRACKING = os.environ["TRACKING"]

app = Celery("ordinary", broker=os.environ["BROKER_URL"])
app.conf.update(
    worker_hijack_root_logger=False,
    task_acks_late=TRACKING == "acks_late",
    # What Celery's guide to optimizing advises for many short tasks.
    worker_prefetch_multiplier=64,
)
if TRACKING == "results":
    # Else it would connect anew before each task and after it.
    app.conf.update(result_backend="django-db", CELERY_DB_REUSE_MAX=1_000)
    django.setup()
else:
    app.conf.update(task_ignore_result=True)


@app.task(name="ordinary")
def ordinary(job: str, number: int) -> None:
    run_job(job, number)


def submit(job: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        ordinary.delay(job, number)


def submit_many(job: str, numbers: Iterable[int]) -> None:
    """By one producer; Celery sends a message for each."""
    with app.producer_pool.acquire(block=True) as producer:
        for number in numbers:
            ordinary.apply_async((job, number), producer=producer)


def create_schema() -> None:
    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    main(submit, submit_many, create_schema)
