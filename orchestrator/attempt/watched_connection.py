"""The worker's connection to PostgreSQL, which tells whoever lends it to a handler what is sent past Django."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2.extensions as pg


class WatchedConnection(pg.connection):  # type: ignore[misc]
    """Calls `before_use` before anything is sent, with the statement if it is known."""

    before_use: Callable[[Any], None] | None = None

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        cursor = super().cursor(*args, **kwargs)
        # One of another class is told of when it is made, and not each time that it sends something.
        if self.before_use and not isinstance(cursor, WatchedCursor):
            self.before_use(None)
        return cursor

    def lobject(self, *args: Any, **kwargs: Any) -> Any:
        if self.before_use:
            self.before_use(None)
        return super().lobject(*args, **kwargs)


class WatchedCursor(pg.cursor):  # type: ignore[misc]
    """A plain cursor, which tells of each statement before it is sent."""

    def execute(self, query: Any, vars: Any = None) -> None:
        _tell(self, query)
        super().execute(query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        _tell(self, query)
        super().executemany(query, vars_list)

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        _tell(self)
        return super().callproc(*args, **kwargs)

    def copy_from(self, *args: Any, **kwargs: Any) -> None:
        _tell(self)
        super().copy_from(*args, **kwargs)

    def copy_to(self, *args: Any, **kwargs: Any) -> None:
        _tell(self)
        super().copy_to(*args, **kwargs)

    def copy_expert(self, *args: Any, **kwargs: Any) -> None:
        _tell(self)
        super().copy_expert(*args, **kwargs)


def _tell(cursor: pg.cursor, sql: Any = None) -> None:
    connection = cursor.connection
    if isinstance(connection, WatchedConnection) and connection.before_use:
        connection.before_use(sql)
