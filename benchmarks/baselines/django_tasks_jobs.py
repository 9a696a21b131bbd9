"""django-tasks-db: ordinary jobs as rows of Django's ORM. Many at once are enqueued in one transaction."""

from __future__ import annotations

from collections.abc import Iterable

import django
from django.core.management import call_command
from django.db import transaction
from django_tasks import task

from benchmarks.ordinary_jobs import main, run_job


@task()  # type: ignore[untyped-decorator]
def ordinary(job: str, number: int) -> None:
    run_job(job, number)


def submit(job: str, numbers: Iterable[int]) -> None:
    # A worker imports it by this name.
    from benchmarks.baselines.django_tasks_jobs import ordinary

    for number in numbers:
        ordinary.enqueue(job, number)


def submit_many(job: str, numbers: Iterable[int]) -> None:
    with transaction.atomic():
        submit(job, numbers)


def create_schema() -> None:
    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    django.setup()
    main(submit, submit_many, create_schema)
