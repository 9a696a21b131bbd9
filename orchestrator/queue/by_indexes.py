"""How a tick looks for what there is hardly any of: by an index that holds nothing else, whatever statistics say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

# Where there is no other way, an old release of PostgreSQL takes that for so dear that it would compile the statement.
INDEXES = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off"


@contextmanager
def by_indexes() -> Iterator[None]:
    """What is asked within is found by an index, in a transaction.

    By statistics of a quiet time, or without any, PostgreSQL would rather read the whole table, each second: it takes
    half of the rows for what is looked for, and hopes to find one at once.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(INDEXES)
        yield
