"""COPY: what was sent passes to PostgreSQL and back as it is, and not as a statement's text, which both take apart."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from ingestion.models import Chunk
from ingestion.records.student import Student, as_rows
from orchestrator.copying import copy

# A chunk. Within a statement its lines would be hexadecimal digits, twice as many.
KEEP = """
COPY ingestion_chunk (ingestion_id, position, stored_records, failed_records, records) FROM STDIN (FORMAT binary)
"""

# The lines of a chunk.
READ = "COPY (SELECT records FROM ingestion_chunk WHERE id = {id:d}) TO STDOUT (FORMAT binary)"

# New records, in the form that `as_rows` gives them, and their count, in one round trip; what comes after a statement
# that failed is not run. See decisions 21 and 80.
STORE_NEW = """
SAVEPOINT new_records;
COPY ingestion_record (
    owner, ingestion_id, student_id, first_name, last_name, email, grade, phone, section, roll_number, address, city,
    state, postal_code, country, date_of_birth
)
FROM STDIN (
    FORMAT csv, DELIMITER E'\\x1f', QUOTE E'\\x1e',
    FORCE_NOT_NULL (owner, phone, section, roll_number, address, city, state, postal_code, country)
);
RELEASE SAVEPOINT new_records;
UPDATE ingestion_chunk SET stored_records = stored_records + {count:d} WHERE id = {chunk:d}
"""
# The step does not wait until it is on disk. If PostgreSQL crashes, the last ones may be undone, with their progress,
# and are done again; the job's completion waits for all of them.
WITHOUT_WAITING = "SET LOCAL synchronous_commit = off;"
UNDO_STORE_NEW = "ROLLBACK TO SAVEPOINT new_records; RELEASE SAVEPOINT new_records"

# Binary COPY is a head, the rows, and an end. A row is the number of its columns, then each one's length and bytes.
# Source: PostgreSQL's documentation of COPY, "Binary Format".
_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = struct.pack(">h", -1)
_CHUNK = struct.Struct(">hiqiiiiiii")
_LINES = struct.Struct(">hi")
_DROPPED = _LINES.pack(1, -1)
_SHORTEST = len(_HEAD) + _LINES.size + len(_END)


def keep_chunk(ingestion_id: int, position: int, lines: bytes) -> None:
    columns = _CHUNK.pack(5, 8, ingestion_id, 4, position, 4, 0, 4, 0, len(lines))
    copy(KEEP, BytesIO(b"".join([_HEAD, columns, lines, _END])))


def lines_of(chunk_id: int) -> bytes | None:
    """What was sent of a chunk; None once it has been dropped."""
    answer = BytesIO()
    copy(READ.format(id=chunk_id), answer)
    received = answer.getvalue()
    # A chunk's records are many: they are copied once.
    if len(received) <= _SHORTEST and received[len(_HEAD) : -len(_END)] in (b"", _DROPPED):
        return None
    return received[len(_HEAD) + _LINES.size : -len(_END)]


def store_new(students: Sequence[Student], chunk: Chunk, *, owner: str) -> bool:
    """Stores records of a chunk in their order, and counts them; False, and none is stored, if one of them is stored
    already or cannot be a row.
    """
    rows = as_rows(students, owner, str(chunk.ingestion_id))
    if rows is None:
        return False
    store = STORE_NEW.format(count=len(students), chunk=chunk.id)
    # A service that was called for a step is not to be called for it again.
    if not settings.ENV.INGESTION_EXTERNAL_SERVICE:
        store = WITHOUT_WAITING + store
    # The statements have a savepoint of their own.
    with transaction.atomic(savepoint=False):
        try:
            copy(store, BytesIO(rows))
        except IntegrityError:
            with connection.cursor() as cursor:
                cursor.execute(UNDO_STORE_NEW)
            return False
    return True
