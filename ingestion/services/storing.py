"""What a job does with its chunk: write the good records, report the others, count both."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
from django.db import connection
from django.db.models import F

from ingestion import copying
from ingestion.models import Chunk, Ingestion, OnConflict, RecordError
from ingestion.records.rejects import Reject, conflict, duplicate
from ingestion.records.student import DEFAULT_COUNTRY, Student
from orchestrator.claimed import Claimed
from orchestrator.failpoints import Failpoint

good_stored = Failpoint("good-records-stored")

# Records become rows in the order of student_id: whoever stores some of the same ones waits at the first of them, and
# never in a circle. A record that this very ingestion has stored is not touched again, and so not returned.
STORE = """
INSERT INTO ingestion_record AS stored (
    owner, ingestion_id, student_id, first_name, last_name, email, grade, phone, section, roll_number, address,
    city, state, postal_code, country, date_of_birth
)
SELECT %(owner)s, %(ingestion)s, student_id, first_name, last_name, email, grade, coalesce(phone, ''),
       coalesce(section, ''), coalesce(roll_number, ''), coalesce(address, ''), coalesce(city, ''),
       coalesce(state, ''), coalesce(postal_code, ''), coalesce(country, %(country)s), date_of_birth
FROM json_to_recordset(%(records)s) AS sent (
    student_id text, first_name text, last_name text, email text, grade text, phone text, section text,
    roll_number text, address text, city text, state text, postal_code text, country text, date_of_birth date
)
ORDER BY student_id COLLATE "C"
"""
KEEP_STORED = """
ON CONFLICT (student_id, owner) DO NOTHING
RETURNING student_id
"""
REPLACE_STORED = """
ON CONFLICT (student_id, owner) DO UPDATE
SET ingestion_id = excluded.ingestion_id, first_name = excluded.first_name, last_name = excluded.last_name,
    email = excluded.email, grade = excluded.grade, phone = excluded.phone, section = excluded.section,
    roll_number = excluded.roll_number, address = excluded.address, city = excluded.city, state = excluded.state,
    postal_code = excluded.postal_code, country = excluded.country, date_of_birth = excluded.date_of_birth,
    updated_at = excluded.updated_at
WHERE stored.ingestion_id IS DISTINCT FROM excluded.ingestion_id
RETURNING student_id
"""
CLEAR = "UPDATE ingestion_chunk SET records = NULL WHERE id = %(chunk)s"
COUNT = "UPDATE ingestion_chunk SET stored_records = stored_records + %(count)s WHERE id = %(chunk)s"

# Which of these an owner has stored, by one ingestion or by any. They travel as one document, and are asked for one by
# one: for a list PostgreSQL, where it has no statistics yet, reads all that the owner has.
STORED = """
SELECT id FROM json_array_elements_text(%(student_ids)s) AS sent (id)
WHERE (
    SELECT %(ingestion)s IS NULL OR ingestion_id = %(ingestion)s
    FROM ingestion_record WHERE student_id = sent.id AND owner = %(owner)s
)
"""
ANY_STORED = f"SELECT EXISTS ({STORED})"
# One look at the index, in its order, which finds that none of rising student_ids is stored, by anybody.
ANY_BETWEEN = "SELECT EXISTS (SELECT FROM ingestion_record WHERE student_id BETWEEN %s AND %s)"

# The work of a job, without its records. The ORM takes longer to write this than PostgreSQL to answer.
CHUNK = """
SELECT chunk.id, chunk.stored_records, chunk.failed_records,
       ingestion.id, ingestion.mode, ingestion.on_conflict, ingestion.total_records, ingestion.created_at
FROM ingestion_ingestion ingestion
JOIN ingestion_chunk chunk ON chunk.ingestion_id = ingestion.id AND chunk.position = %(position)s
WHERE ingestion.job_id = %(job)s
"""

Numbered = Sequence[tuple[int, Student]]


def chunk_of(job: Claimed, position: int) -> Chunk | None:
    """What the job is to work at, without its records."""
    whole = job.parent_id or job.id
    with connection.cursor() as cursor:
        cursor.execute(CHUNK, {"job": whole, "position": position})
        row = cursor.fetchone()
    if row is None:
        return None
    id, stored, failed, ingestion_id, mode, on_conflict, total, created_at = row
    ingestion = Ingestion(
        id=ingestion_id, job_id=whole, mode=mode, on_conflict=on_conflict, total_records=total, created_at=created_at
    )
    return Chunk(id=id, ingestion=ingestion, position=position, stored_records=stored, failed_records=failed)


def store(chunk: Chunk, good: Numbered, rejects: Sequence[Reject], *, owner: str, are_new: bool) -> None:
    """Writes good and bad records and counts them, within the caller's transaction; `are_new` as for `write`."""
    clashes = write(chunk, good, owner=owner, are_new=are_new)
    good_stored()
    reported = [reject for reject in clashes if reject.errors[0].code != "conflict" or _reports_conflicts(chunk)]
    report(chunk, [*rejects, *reported])


def write(chunk: Chunk, good: Numbered, *, owner: str, are_new: bool = False) -> list[Reject]:
    """Writes and counts records; returns as rejects those that were stored already.

    are_new: the caller knows of none that is stored. Then they are copied, which takes PostgreSQL half the time; if
    others have stored one meanwhile, the statement does it after all.
    """
    if not good:
        return []
    if are_new and _copied(chunk, good, owner):
        return []
    ingestion = chunk.ingestion
    replaces = ingestion.on_conflict == OnConflict.UPDATE
    with connection.cursor() as cursor:
        cursor.execute(
            STORE + (REPLACE_STORED if replaces else KEEP_STORED),
            {
                "owner": owner,
                "ingestion": ingestion.id,
                "country": DEFAULT_COUNTRY,
                "records": msgspec.json.encode([student for _, student in good]).decode(),
            },
        )
        written = {student_id for (student_id,) in cursor.fetchall()}
    _count(chunk, len(written))
    left = [(index, student.student_id) for index, student in good if student.student_id not in written]
    if not left:
        return []
    own = stored_ids([student_id for _, student_id in left], owner=owner, ingestion=ingestion.id)
    return [
        duplicate(index, student_id) if replaces or student_id in own else conflict(index, student_id)
        for index, student_id in left
    ]


def _copied(chunk: Chunk, good: Numbered, owner: str) -> bool:
    """Whether all could be copied and counted, in the order in which the statement writes them; if not, none was."""
    students = sorted((student for _, student in good), key=attrgetter("student_id"))
    return copying.store_new(students, chunk, owner=owner)


def _count(chunk: Chunk, stored: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(COUNT, {"count": stored, "chunk": chunk.id})


def stored_ids(student_ids: Sequence[str], *, owner: str, ingestion: int | None = None) -> set[str]:
    """Those of the student_ids that the owner has stored, by that ingestion if one is given."""
    return {student_id for (student_id,) in _ask(STORED, student_ids, owner, ingestion)}


def any_stored(student_ids: Sequence[str], *, owner: str) -> bool:
    """Whether the owner has stored one of the student_ids."""
    if not student_ids:
        return False
    with connection.cursor() as cursor:
        cursor.execute(ANY_BETWEEN, [min(student_ids), max(student_ids)])
        if not cursor.fetchone()[0]:
            return False
    [(answer,)] = _ask(ANY_STORED, student_ids, owner)
    return bool(answer)


def _ask(sql: str, student_ids: Sequence[str], owner: str, ingestion: int | None = None) -> list[tuple[Any, ...]]:
    document = msgspec.json.encode(student_ids).decode()
    with connection.cursor() as cursor:
        cursor.execute(sql, {"owner": owner, "student_ids": document, "ingestion": ingestion})
        return list(cursor.fetchall())


def report(chunk: Chunk, rejects: Sequence[Reject]) -> None:
    """Keeps and counts what could not be stored."""
    if not rejects:
        return
    RecordError.objects.bulk_create(
        RecordError(
            ingestion=chunk.ingestion,
            index=reject.index,
            student_id=reject.student_id,
            errors=msgspec.to_builtins(reject.errors),
        )
        for reject in rejects
    )
    Chunk.objects.filter(id=chunk.id).update(failed_records=F("failed_records") + len(rejects))


def forget_reports(chunk: Chunk) -> None:
    """Makes a chunk of which nothing was stored as if it had never been looked at."""
    RecordError.objects.filter(ingestion=chunk.ingestion).delete()
    Chunk.objects.filter(id=chunk.id).update(failed_records=0)


def clear_payload(chunk: Chunk) -> None:
    """Drops the records as they were sent, since all are stored or reported."""
    with connection.cursor() as cursor:
        cursor.execute(CLEAR, {"chunk": chunk.id})


def _reports_conflicts(chunk: Chunk) -> bool:
    return chunk.ingestion.on_conflict == OnConflict.ERROR
