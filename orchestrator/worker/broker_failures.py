"""When this Celery worker last had an error of the broker, in memory that its children share."""

from __future__ import annotations

import mmap
import struct
import time

RECENT_SECONDS = 20.0

# By the machine's monotonic clock; zero for never.
_failed_at = mmap.mmap(-1, 8)


def record() -> None:
    _failed_at[:] = struct.pack("d", time.monotonic())


def clear() -> None:
    _failed_at[:] = bytes(8)


def is_recent() -> bool:
    (failed_at,) = struct.unpack("d", _failed_at[:])
    return bool(failed_at and time.monotonic() - failed_at < RECENT_SECONDS)
