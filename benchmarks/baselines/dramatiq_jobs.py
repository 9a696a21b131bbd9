"""dramatiq: ordinary jobs through Valkey, with the middleware that it has by default."""

from __future__ import annotations

import os
from collections.abc import Iterable

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.ordinary_jobs import main, run_job

dramatiq.set_broker(RedisBroker(url=os.environ["BROKER_URL"]))


@dramatiq.actor(actor_name="ordinary")  # type: ignore[untyped-decorator]
def ordinary(job: str, number: int) -> None:
    run_job(job, number)


def submit(job: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        ordinary.send(job, number)


if __name__ == "__main__":
    main(submit)
