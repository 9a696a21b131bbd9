"""The world outside the database, which no rollback reaches: a file that whatever happened there is appended to."""

from __future__ import annotations

import json
import os
import time


def tell(event: str, key: str, attempt: int = 0) -> None:
    """Appends a line, whole and at once, to the file that OUTSIDE_FILE names, if it does."""
    if path := os.environ.get("OUTSIDE_FILE"):
        line = {"event": event, "key": key, "attempt": attempt, "at": time.time(), "pid": os.getpid()}
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)
