"""An outside service for ingestions, for tests with real workers."""

from __future__ import annotations

import time
from typing import Any

from django.db import connection

from tests.kinds import outside

CALL_SECONDS = 0.3


def remember(records: list[dict[str, Any]], *, idempotency_key: str) -> None:
    """Takes a moment. For records of the city of Troubleton it raises at the first call with each key."""
    time.sleep(CALL_SECONDS)
    outside.tell("called", idempotency_key)
    troubled = any(record["city"] == "Troubleton" for record in records)
    if troubled and count_call(idempotency_key) == 1:
        raise ConnectionError("The outside service is down.")


def count_call(idempotency_key: str) -> int:
    """Counts the call even if the caller is rolled back; answers how many there were with the key."""
    own = connection.copy()
    try:
        with own.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS outside_call (key text PRIMARY KEY, calls integer)")
            cursor.execute(
                "INSERT INTO outside_call VALUES (%s, 1) "
                "ON CONFLICT (key) DO UPDATE SET calls = outside_call.calls + 1 RETURNING calls",
                [idempotency_key],
            )
            return int(cursor.fetchone()[0])
    finally:
        own.close()
