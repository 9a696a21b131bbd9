"""The inputs of jobs that were claimed together, read by one statement when the first handler asks for its own."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orchestrator import handler_inputs
from orchestrator.running import RunningJob

# What one statement reads at most, as it is stored.
MAX_BYTES = 250_000


class GroupInputs:
    """For the slot that runs the jobs of a group in turn. What they have waited for has ended, and changes no more."""

    def __init__(self, jobs: Sequence[RunningJob]) -> None:
        # In the order in which they run; those that are given their children's results, and the others.
        self._unread: dict[bool, deque[UUID]] = {True: deque(), False: deque()}
        self._read: dict[UUID, list[tuple[str, str]]] = {}
        for running in jobs:
            self._unread[running.is_given_childrens].append(running.row.id)

    def of(self, running: RunningJob) -> dict[str, Any] | None:
        """The results of the jobs that it waited for, by name; None if they are too large to be read with others'."""
        id = running.row.id
        if id not in self._read:
            self._read_from(running)
        found = self._read.pop(id, None)
        return None if found is None else {name: json.loads(result) for name, result in found}

    def _read_from(self, running: RunningJob) -> None:
        """Reads the inputs of the job and of those after it, as far as the limit allows."""
        unread = self._unread[running.is_given_childrens]
        if running.row.id not in unread:
            return
        while unread[0] != running.row.id:
            unread.popleft()  # It has not asked for its inputs.
        of_children = running.is_given_childrens
        for job_id, name, result in handler_inputs.of_group(unread, of_children=of_children, max_bytes=MAX_BYTES):
            inputs = self._read.setdefault(UUID(job_id), [])
            if name is not None:
                inputs.append((name, result))
        unread.popleft()
        while unread and unread[0] in self._read:
            unread.popleft()
