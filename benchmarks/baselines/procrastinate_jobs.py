"""procrastinate: ordinary jobs in PostgreSQL, run by coroutines that share a pool.

python -m benchmarks.baselines.procrastinate_jobs work CONCURRENCY, and as in benchmarks/ordinary_jobs.py
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable

import procrastinate
from psycopg_pool import AsyncConnectionPool

from benchmarks.ordinary_jobs import INSERT_ROW, WAIT_SECONDS, main, traced

DATABASE_URL = os.environ["DATABASE_URL"]

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE_URL))
pool = AsyncConnectionPool(DATABASE_URL, min_size=16, max_size=16, open=False, kwargs={"autocommit": True})


@app.task(name="ordinary")  # type: ignore[untyped-decorator]
async def ordinary(job: str, number: int) -> None:
    with traced(number):
        if job == "row":
            async with pool.connection() as connection:
                await connection.execute(INSERT_ROW, (number,))
        elif job == "wait":
            await asyncio.sleep(WAIT_SECONDS)


async def defer(job: str, numbers: Iterable[int]) -> None:
    async with app.open_async():
        for number in numbers:
            await ordinary.defer_async(job=job, number=number)


async def defer_many(job: str, numbers: Iterable[int]) -> None:
    async with app.open_async():
        await ordinary.batch_defer_async(*[{"job": job, "number": number} for number in numbers])


async def create_schema() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work(concurrency: int) -> None:
    async with app.open_async(), pool:
        await app.run_worker_async(concurrency=concurrency)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.run(work(int(sys.argv[2])))
    else:
        main(defer, defer_many, create_schema)
