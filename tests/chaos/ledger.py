"""The account that is kept outside the system: what was asked, answered and done to it, line by line in a file."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Ledger:
    """Entries in the order in which they were made. Each is in the file before the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", buffering=1)
        self._entries: list[Entry] = []
        self._by_event: dict[str, list[Entry]] = {}
        self._lock = threading.Lock()

    def note(self, event: str, **fields: Any) -> Entry:
        entry: Entry = {"event": event, "at": time.time(), **fields}
        with self._lock:
            self._entries.append(entry)
            self._by_event.setdefault(event, []).append(entry)
            self._file.write(json.dumps(entry, default=str) + "\n")
        return entry

    def entries(self, *events: str) -> list[Entry]:
        with self._lock:
            found = [entry for event in events for entry in self._by_event.get(event, ())]
        return sorted(found, key=lambda entry: float(entry["at"]))

    def about(self, id: str) -> list[Entry]:
        """Every entry that names the id."""
        with self._lock:
            return [entry for entry in self._entries if id in json.dumps(entry, default=str)]

    def close(self) -> None:
        self._file.close()
