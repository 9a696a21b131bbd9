"""What some work reads and writes in PostgreSQL, counted in its log and its statistics: that does not depend on the
machine, nor on what else runs on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, field
from functools import reduce
from typing import Any

from benchmarks.servers import connect, rows, value

# One for each entry of an index, also where its page was split for it.
INDEX_ENTRIES = """
SELECT relname, count(*)
FROM pg_get_wal_block_info(%(since)s, %(until)s, false) AS block
JOIN pg_class ON pg_class.relfilenode = block.relfilenode AND relkind = 'i'
WHERE resource_manager = 'Btree' AND block_id = 0
  AND record_type IN ('INSERT_LEAF', 'INSERT_POST', 'SPLIT_L', 'SPLIT_R')
  AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relnamespace = 'public'::regnamespace
GROUP BY relname
"""
STATEMENTS = """
SELECT regexp_replace(query, '\\s+', ' ', 'g'), shared_blks_hit, shared_blks_read, wal_bytes::float8, wal_fpi
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# How much of a statement names it.
SHOWN_CHARACTERS = 48


@dataclass(frozen=True)
class Statement:
    """What the calls of a statement did together."""

    pages_hit: float = 0
    pages_read: float = 0
    wal_bytes: float = 0
    # In the WAL: each is written when a page is changed for the first time after a checkpoint.
    whole_pages: float = 0

    def plus(self, other: Statement) -> Statement:
        return Statement(*(own + others for own, others in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Written:
    """What was done between two moments."""

    index_entries: Mapping[str, int] = field(default_factory=dict)
    statements: Mapping[str, Statement] = field(default_factory=dict)

    @property
    def total(self) -> Statement:
        """What all statements did; nothing of what autovacuum does meanwhile."""
        return reduce(Statement.plus, self.statements.values(), Statement())


@contextmanager
def counted(url: str) -> Iterator[Written]:
    """Counts what sessions that begin within the block do in this database; what it yields is complete after it."""
    written = Written()
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        name = value(connection, "SELECT quote_ident(current_database())")
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        cursor.execute(f"ALTER DATABASE {name} SET pg_stat_statements.track = 'top'")
        cursor.execute("SELECT pg_stat_statements_reset()")
        since = value(connection, "SELECT pg_current_wal_flush_lsn()")
        try:
            yield written
        finally:
            cursor.execute(f"ALTER DATABASE {name} RESET pg_stat_statements.track")
        span = {"since": since, "until": value(connection, "SELECT pg_current_wal_flush_lsn()")}
        written.index_entries = dict(rows(connection, INDEX_ENTRIES, span))
        written.statements = by_name(rows(connection, STATEMENTS))


def by_name(found: list[tuple[Any, ...]]) -> dict[str, Statement]:
    """Statements that begin alike, as those with lists of different lengths do, are one."""
    named: dict[str, Statement] = {}
    for query, *numbers in found:
        name = query.strip()[:SHOWN_CHARACTERS].strip()
        named[name] = named.get(name, Statement()).plus(Statement(*numbers))
    return named
