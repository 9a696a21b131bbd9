"""How much later than its time an occurrence starts. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b
from uuid import UUID


def delay(schedule_id: UUID, at: datetime, jitter_seconds: int) -> timedelta:
    """From nothing to that many seconds, always the same for an occurrence: a crash does not draw another one."""
    digest = blake2b(f"{schedule_id} {at.timestamp()}".encode(), digest_size=8).digest()
    return timedelta(seconds=jitter_seconds * int.from_bytes(digest) / 2**64)
