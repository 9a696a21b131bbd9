"""procrastinate: jobs in PostgreSQL, deferred in batches, run by coroutines that share a pool; each inserts a result.

python -m benchmarks.baselines.deferring schema | defer COUNT | work
"""

from __future__ import annotations

import asyncio
import os
import sys

import procrastinate
from psycopg_pool import AsyncConnectionPool

DATABASE_URL = os.environ["DATABASE_URL"]
# Jobs that a worker process runs at once.
CONCURRENCY = 10
AT_ONCE = 1_000

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE_URL))
pool = AsyncConnectionPool(DATABASE_URL, min_size=CONCURRENCY, max_size=CONCURRENCY, open=False)


@app.task(name="add", queue="default")  # type: ignore[untyped-decorator]
async def add(number: int, a: float, b: float) -> None:
    async with pool.connection() as connection:
        await connection.execute("INSERT INTO result (number, result) VALUES (%s, %s)", (number, a + b))


async def create_schema() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    async with pool, pool.connection() as connection:
        await connection.execute("CREATE TABLE result (id bigserial PRIMARY KEY, number int, result numeric)")


async def defer(count: int) -> None:
    async with app.open_async():
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count))
            await add.batch_defer_async(*[{"number": number, "a": number, "b": 0.5} for number in numbers])


async def work() -> None:
    async with app.open_async(), pool:
        await app.run_worker_async(queues=["default"], concurrency=CONCURRENCY)


if __name__ == "__main__":
    command = sys.argv[1]
    if command == "schema":
        asyncio.run(create_schema())
    elif command == "defer":
        asyncio.run(defer(int(sys.argv[2])))
    else:
        asyncio.run(work())
