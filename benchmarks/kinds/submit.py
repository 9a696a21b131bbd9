"""Submits ordinary jobs of KIND to Muster, see benchmarks/ordinary_jobs.py."""

from __future__ import annotations

import os
from collections.abc import Iterable

import django

from benchmarks.ordinary_jobs import main

KIND = os.environ["KIND"]


def one_by_one(job: str, numbers: Iterable[int]) -> None:
    from orchestrator.submission import submit

    for number in numbers:
        submit(KIND, {"job": job, "number": number})
    _wait_for_the_bell()


def many(job: str, numbers: Iterable[int]) -> None:
    from orchestrator.submission import submit_many

    submit_many(KIND, [{"job": job, "number": number} for number in numbers])
    _wait_for_the_bell()


def _wait_for_the_bell() -> None:
    """A thread of this process rings it."""
    from orchestrator.queue import bell

    bell.wait_until_rung(10)


if __name__ == "__main__":
    django.setup()
    main(one_by_one, many)
