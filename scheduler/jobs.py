"""The kind of job that adds two numbers, a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from orchestrator.ids import hex7s
from orchestrator.kinds import job
from orchestrator.pg_values import as_array
from orchestrator.running import RunningJob
from scheduler.models import ADD

# Enough for the sum of any two operands, so that every sum is exact.
EXACT = Context(prec=400)

# A batch takes 6 ms beside its jobs, and each of these 0.06 ms. More at once would keep an urgent task waiting longer,
# and after a crash each runs alone. See decision 82.
BATCH_SIZE = 500

# The results of tasks that are there and are their jobs' owners'. The subquery finds each by its key, whatever the
# statistics say of the table.
WRITE_RESULTS = """
INSERT INTO scheduler_taskresult (id, task_id, result)
SELECT new.id, new.task_id, new.result
FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::numeric[]) AS new (id, task_id, owner, result)
WHERE (SELECT owner FROM scheduler_task WHERE id = new.task_id) = new.owner
"""


class ForeignTask(Exception):
    """The job names a task that is not there, or is not its owner's."""

    def __init__(self) -> None:
        super().__init__(" ".join((ForeignTask.__doc__ or "").split()))


class Addition(msgspec.Struct, forbid_unknown_fields=True):
    """Decimals travel as text, since JSON's numbers are not exact."""

    task_id: UUID
    a: Decimal
    b: Decimal


@job(
    ADD,
    execution="transactional",
    takes_batch=True,
    batch_size=BATCH_SIZE,
    payload=Addition,
    no_retry=(ForeignTask,),
    internal="POST /tasks/",
)
def add(jobs: Sequence[RunningJob]) -> list[dict[str, Any]]:
    """Adds a and b of each task and keeps the sums as the tasks' results."""
    additions: list[Addition] = [job.payload for job in jobs]
    sums = [EXACT.add(addition.a, addition.b) for addition in additions]
    columns = (
        hex7s(len(jobs)),
        [addition.task_id.hex for addition in additions],
        [job.owner for job in jobs],
        map(str, sums),
    )
    with connection.cursor() as cursor:
        cursor.execute(WRITE_RESULTS, [*map(as_array, columns)])
        if cursor.rowcount != len(jobs):
            raise ForeignTask
    return [{"result": shown(sum)} for sum in sums]


def shown(number: Decimal) -> int | float | str:
    """A number as clients see it, exactly: a whole one as an integer, another as a JSON number where every reader's
    double precision holds it, and else as text.
    """
    if number == number.to_integral_value():
        return int(number)
    text = format(number.normalize(EXACT), "f")
    return float(text) if Decimal(repr(float(text))) == number else text
