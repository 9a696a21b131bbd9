"""What waits, as it passes to PostgreSQL and back."""

from __future__ import annotations

import pytest

from ingestion import copying
from ingestion.models import Chunk, Ingestion

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("lines", [b"", b"\0\xff\n\\N\t", bytes(range(256)) * 10_000], ids=len)
def test_what_waits_comes_back_as_it_was(lines: bytes) -> None:
    ingestion = Ingestion.objects.create()

    copying.keep_chunk(ingestion.id, 7, lines)

    chunk = Chunk.objects.get(ingestion=ingestion)
    assert copying.lines_of(chunk.id) == bytes(chunk.records) == lines
    assert (chunk.position, chunk.stored_records, chunk.failed_records) == (7, 0, 0)


def test_what_was_dropped_is_nothing() -> None:
    chunk = Chunk.objects.create(ingestion=Ingestion.objects.create(), position=0, records=None)

    assert copying.lines_of(chunk.id) is None
    assert copying.lines_of(chunk.id + 1) is None
