"""Many jobs of one kind that are ready at once, as they come by ten thousand: checked together, and copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from orchestrator.copying import NULL, as_fields, copy_lines
from orchestrator.ids import texts_of, uuids7
from orchestrator.inputs import check_numbers, check_owner, payloads_as_json
from orchestrator.kinds import Kind
from orchestrator.queue import new_jobs
from orchestrator.queue.transitions import priority_step

# What they have in common beside this is the default of the table. See decision 85.
COPY = """
COPY orchestrator_job (id, owner, payload, limit_key, priority, rank, run_at, kind, queue, max_attempts, ready)
FROM STDIN
"""
NOW = "SELECT statement_timestamp()"


def insert_alike(
    kind: Kind, payloads: Sequence[Any], *, owners: Sequence[str], priorities: Sequence[int | None]
) -> list[UUID]:
    """Inserts jobs of a kind of which an owner may have any number, all or none: each has payload, owner and priority
    of its place. Returns their ids. Raises as `new_jobs.new_row` does.
    """
    for before, owner in pairwise(["", *owners]):
        if owner is not before:  # Mostly they are all one's.
            check_owner(owner)
    numbers = [kind.priority if each is None else each for each in priorities]
    for number in numbers:
        check_numbers(number, kind.max_attempts)
    fitting, texts = payloads_as_json(kind, payloads)
    keys = [NULL] * len(texts) if kind.key is None else _keys(kind, fitting)
    ids = uuids7(len(texts))
    with transaction.atomic(savepoint=False):
        ends = _ends(kind, numbers)
        columns = zip(texts_of(ids), as_fields(owners), as_fields(texts), keys, numbers, strict=True)
        lines = [f"{id}\t{owner}\t{text}\t{key}\t{ends[number]}" for id, owner, text, key, number in columns]
        for first in range(0, len(lines), new_jobs.INSERT_ROWS):
            copy_lines(COPY, lines[first : first + new_jobs.INSERT_ROWS])
        new_jobs.announce(kind.name)
    return ids


def _ends(kind: Kind, priorities: Iterable[int]) -> dict[int, str]:
    """By priority, how the lines of its jobs end: with their place, and what all have in common."""
    with connection.cursor() as cursor:
        cursor.execute(NOW)
        [now] = cursor.fetchone()
    common = f"{now.isoformat()}\t{kind.name}\t{kind.queue}\t{kind.max_attempts}\tt"
    return {each: f"{each}\t{(now + each * priority_step()).isoformat()}\t{common}" for each in set(priorities)}


def _keys(kind: Kind, payloads: Sequence[Any]) -> list[str]:
    keys = [kind.key_of(payload) for payload in payloads]
    fields = as_fields([key or "" for key in keys])
    return [NULL if key is None else field for key, field in zip(keys, fields, strict=True)]
