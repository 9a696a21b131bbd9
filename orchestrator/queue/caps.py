"""The number of unfinished jobs that a kind allows each owner."""

from __future__ import annotations

import math
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from orchestrator.kinds import Kind
from orchestrator.queue import kind_limits

# The owner's lock, until the transaction ends, and then the count as others have left it: a statement sees what was
# committed before it began, so these are two, sent together. The count is a function, whose plan the session keeps.
COUNT_UNFINISHED = """
SELECT pg_advisory_xact_lock(hashtextextended(%(kind)s || ' ' || %(owner)s, 0));
SELECT count, oldest FROM orchestrator_count_unfinished(%(kind)s, %(owner)s)
"""


class TooManyUnfinished(Exception):
    """The owner has as many unfinished jobs of the kind as it allows; `retry_after` says when one may be done."""

    def __init__(self, kind: Kind, owner: str, most: int, retry_after: timedelta) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_after.total_seconds()))
        super().__init__(
            f"{owner!r} already has {most} unfinished jobs of kind {kind.name!r}, the "
            f"maximum. Wait for one to end, or cancel one; try again in {self.retry_after_seconds} s."
        )


def check_cap(kind: Kind, owner: str, *, more: int = 1) -> None:
    """Raises TooManyUnfinished where so many more would be too many. Submissions of the same owner and kind wait for
    each other here until they commit.
    """
    most = kind_limits.limits_of(kind).max_unfinished_per_owner
    if most is None:
        return
    with connection.cursor() as cursor:
        cursor.execute(COUNT_UNFINISHED, {"kind": kind.name, "owner": owner})
        count, oldest = cursor.fetchone()
    if count + more > most:
        since = oldest or timezone.now()
        raise TooManyUnfinished(kind, owner, most, since + kind.typical_duration - timezone.now())
