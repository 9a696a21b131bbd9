"""How long things took, as counts in buckets that can be added up: of two minutes, or of all kinds.

Each bucket reaches √2 times as far as the one before it, so a percentile read from them is at most a fifth off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

# The first bucket holds what took a millisecond or less, the last one what took two days or more.
BUCKETS = 56
SHORTEST_SECONDS = 0.001


def bucket(seconds: str) -> str:
    """As SQL, the number of the bucket of a duration in double precision, a hundredth of the time that a logarithm of
    PostgreSQL's exact numbers takes; NULL for none.
    """
    # What is rounded up to just above a whole number is not to count for the next one.
    number = f"ceil(2 * ln(greatest(1, ({seconds}) / {SHORTEST_SECONDS})) / ln(2::float) - 1e-9)"
    return f"CASE WHEN ({seconds}) IS NOT NULL THEN least({BUCKETS - 1}, {number})::integer END"


def added_up(counts: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip([0] * BUCKETS, *counts, strict=True)]


def percentile(counts: Sequence[int], part: float) -> float | None:
    """The seconds within which that part of them was done; None if there were none."""
    wanted = part * sum(counts)
    if not wanted:
        return None
    number = next(number for number, reached in enumerate(accumulate(counts)) if reached >= wanted)
    # The middle of the bucket.
    return float(SHORTEST_SECONDS * 2 ** ((number - 0.5) / 2)) if number else SHORTEST_SECONDS
