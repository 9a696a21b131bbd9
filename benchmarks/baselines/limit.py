"""The limit: the same work with no framework at all. COPY brings the jobs in; two processes each claim 200, complete
them and insert their results, one transaction after another.

python -m benchmarks.baselines.limit copy COUNT | work
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from io import StringIO

import psycopg2

TABLES = """
CREATE TABLE job (
    id bigint PRIMARY KEY, a numeric, b numeric, ready boolean NOT NULL DEFAULT true, finished_at timestamptz
);
CREATE INDEX job_ready ON job (id) WHERE ready;
CREATE TABLE result (id bigserial PRIMARY KEY, job_id bigint NOT NULL, result numeric);
"""
WORK = """
WITH next AS (
    SELECT id FROM job WHERE ready ORDER BY id LIMIT 200 FOR UPDATE SKIP LOCKED
), done AS (
    UPDATE job SET ready = false, finished_at = clock_timestamp() FROM next WHERE job.id = next.id
    RETURNING job.id, a, b
)
INSERT INTO result (job_id, result) SELECT id, a + b FROM done
"""


def create_tables() -> None:
    with (
        closing(psycopg2.connect(os.environ["DATABASE_URL"])) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(TABLES)


def copy(count: int) -> None:
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as connection, connection.cursor() as cursor:
        for first in range(0, count, 10_000):
            lines = "".join(f"{number}\t{number}\t0.5\n" for number in range(first, min(first + 10_000, count)))
            cursor.copy_from(StringIO(lines), "job", columns=("id", "a", "b"))
            connection.commit()


def work() -> None:
    """Works until nothing is left."""
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as connection, connection.cursor() as cursor:
        done = -1
        while done:
            cursor.execute(WORK)
            done = cursor.rowcount
            connection.commit()


if __name__ == "__main__":
    if sys.argv[1] == "copy":
        copy(int(sys.argv[2]))
    else:
        work()
