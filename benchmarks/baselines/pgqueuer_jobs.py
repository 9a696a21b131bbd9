"""pgqueuer: ordinary jobs in PostgreSQL, run by coroutines that share a pool of asyncpg's with the queue."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.ordinary_jobs import WAIT_SECONDS, main, traced

DATABASE_URL = os.environ["DATABASE_URL"]
NAME = "ordinary"


@asynccontextmanager
async def worker() -> AsyncIterator[PgQueuer]:
    async with asyncpg.create_pool(DATABASE_URL, min_size=16, max_size=16) as pool:
        program = PgQueuer.from_asyncpg_pool(pool)

        @program.entrypoint(NAME)  # type: ignore[untyped-decorator]
        async def ordinary(context: Job) -> None:
            job, number = json.loads(context.payload or b"")
            with traced(number):
                if job == "row":
                    await pool.execute("INSERT INTO effect (number) VALUES ($1)", number)
                elif job == "wait":
                    await asyncio.sleep(WAIT_SECONDS)

        yield program


@asynccontextmanager
async def queue() -> AsyncIterator[Queries]:
    connection = await asyncpg.connect(DATABASE_URL)
    yield Queries(AsyncpgDriver(connection))
    await connection.close()


async def enqueue(job: str, numbers: Iterable[int]) -> None:
    async with queue() as queries:
        for number in numbers:
            await queries.enqueue(NAME, json.dumps([job, number]).encode())


async def enqueue_many(job: str, numbers: Iterable[int]) -> None:
    async with queue() as queries:
        payloads: list[bytes | None] = [json.dumps([job, number]).encode() for number in numbers]
        await queries.enqueue([NAME] * len(payloads), payloads, [0] * len(payloads))


async def create_schema() -> None:
    async with queue() as queries:
        await queries.install()
        await queries.optimize_autovacuum()


if __name__ == "__main__":
    main(enqueue, enqueue_many, create_schema)
