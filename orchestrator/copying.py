"""COPY: what is much passes to PostgreSQL and back as it is, and not as a statement's text, which both take apart."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from django.db import connection

NULL = r"\N"

# What psycopg2 takes at once.
_PIECE = 1024 * 1024
# Signs that mean something in COPY's text format. Source: PostgreSQL's documentation of COPY, "Text Format".
_ESCAPES = (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r"))


def copy(sql: str, file: BytesIO) -> None:
    """Runs a COPY from the file, or into it. Django's cursor knows none, so that its errors are not yet Django's."""
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.copy_expert(sql, file, _PIECE)


def copy_lines(sql: str, lines: Sequence[str]) -> None:
    """Runs a COPY from lines in its text format."""
    copy(sql, BytesIO("\n".join(lines).encode()))


def as_fields(texts: Sequence[str]) -> list[str]:
    """The texts as fields of such lines. They have no NUL, which PostgreSQL cannot hold."""
    joined = "\x00".join(texts)
    for sign, escaped in _ESCAPES:
        joined = joined.replace(sign, escaped)
    return joined.split("\x00") if texts else []
