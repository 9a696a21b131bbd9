"""huey: ordinary jobs through Valkey, taken by blocking reads. It keeps no results of functions that return none."""

from __future__ import annotations

import os
from collections.abc import Iterable

from huey import RedisHuey

from benchmarks.ordinary_jobs import main, run_job

huey = RedisHuey("ordinary", url=os.environ["BROKER_URL"])


@huey.task(name="ordinary")  # type: ignore[untyped-decorator]
def ordinary(job: str, number: int) -> None:
    run_job(job, number)


def submit(job: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        ordinary(job, number)


if __name__ == "__main__":
    # As the consumer knows it.
    from benchmarks.baselines import huey_jobs

    main(huey_jobs.submit)
