"""Named parts of a job's work whose results are stored once, with what they wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from orchestrator.attempt.session import read_aside
from orchestrator.pg_values import as_json, is_storable

MAX_NAME_CHARACTERS = 100
# Of one job.
MAX_CHECKPOINTS = 1_000

READ = "SELECT result::text FROM orchestrator_checkpoint WHERE job_id = %s AND name = %s"
# Returns nothing if the job has as many as it may have.
STORE = """
INSERT INTO orchestrator_checkpoint (job_id, name, result, seconds, ended_at)
SELECT %(job)s, %(name)s, %(result)s, %(seconds)s, clock_timestamp()
WHERE (SELECT count(*) FROM orchestrator_checkpoint WHERE job_id = %(job)s) < %(at_most)s
RETURNING result::text
"""


class TooManyCheckpoints(ValueError):
    """The job has as many as it may have."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The checkpoint {name!r} is one too many: a job may have {MAX_CHECKPOINTS:,}. Let one cover more "
            "work, or use job.step(), of which only the progress is kept."
        )


class Checkpoints:
    """Those of one attempt. Results are JSON as PostgreSQL shows it, so every attempt is returned the same."""

    def __init__(self, job_id: UUID, attempt: int) -> None:
        self._job_id = str(job_id)
        # An earlier attempt may have left some.
        self.may_have_some = attempt > 1
        self._used: set[str] = set()
        self._open: str | None = None

    def kept(self, name: str) -> str | None:
        """The result that an earlier attempt has stored; None if none has."""
        if not self.may_have_some:
            return None
        rows = read_aside(READ, [self._job_id, name])
        return rows[0][0] if rows else None

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """The checkpoint of that name is passed within it. Raises ValueError or RuntimeError if it must not be."""
        if not name or not is_storable(name, at_most=MAX_NAME_CHARACTERS):
            raise ValueError(f"A checkpoint needs a name of 1 to {MAX_NAME_CHARACTERS} characters, not {name!r}.")
        if name in self._used:
            raise ValueError(f"The checkpoint {name!r} was passed already; give each its own name, as f'page {{n}}'.")
        if self._open is not None:
            raise RuntimeError(f"The checkpoint {name!r} must not begin within {self._open!r}.")
        self._open = name
        try:
            yield
        finally:
            self._open = None
        self._used.add(name)

    def store(self, name: str, result: Any, *, began_at: float) -> str:
        """Stores the result in the current transaction. began_at: by this process's monotonic clock."""
        text = as_json(result, at_most=settings.ENV.MAX_RESULT_BYTES)
        with connection.cursor() as cursor:
            cursor.execute(
                STORE,
                {
                    "job": self._job_id,
                    "name": name,
                    "result": text,
                    "seconds": time.monotonic() - began_at,
                    "at_most": MAX_CHECKPOINTS,
                },
            )
            row = cursor.fetchone()
        if row is None:
            raise TooManyCheckpoints(name)
        return str(row[0])
