"""Texts that pass through COPY."""

from __future__ import annotations

import pytest
from django.db import DataError, connection

from orchestrator.copying import NULL, as_fields, copy_lines

TEXTS = ["", "a", r"\N", "\\", r"\.", "tab\there", "line\nhere", "carriage\rreturn", r"\t", "ü", "💡", "it's", '"']
COPY = "COPY copied (text) FROM STDIN"


@pytest.fixture
def table(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE copied (id serial, text text) ON COMMIT DROP")


@pytest.mark.usefixtures("table")
def test_postgresql_reads_texts_as_they_are() -> None:
    copy_lines(COPY, as_fields(TEXTS))

    assert copied() == TEXTS


@pytest.mark.usefixtures("table")
def test_nothing_is_nothing_and_null_is_null() -> None:
    copy_lines(COPY, as_fields([]))
    copy_lines(COPY, [NULL])

    assert copied() == [None]


@pytest.mark.usefixtures("table")
def test_an_error_is_one_of_djangos() -> None:
    with pytest.raises(DataError):
        copy_lines("COPY copied (id) FROM STDIN", ["one"])


def copied() -> list[str | None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT text FROM copied ORDER BY id")
        return [text for (text,) in cursor.fetchall()]
