"""How far the work of a job is, checked and written."""

from __future__ import annotations

import operator
import reprlib
from typing import Any

from orchestrator.pg_values import as_text

# What PostgreSQL's bigint holds.
MAX_PROGRESS = 2**63 - 1
MAX_MESSAGE_CHARACTERS = 500

# How far the work is: done, total, message.
Progress = tuple[int | None, int | None, str]

# A step's progress, if the job is still this worker's. The ORM would take longer to compile the statement than
# PostgreSQL to run it, and there may be many steps.
WRITE_PROGRESS = """
UPDATE orchestrator_job
SET progress_done = %(done)s,
    progress_total = %(total)s,
    progress_message = %(message)s,
    updated_at = statement_timestamp()
WHERE id = %(id)s AND status = 'RUNNING' AND attempt = %(attempt)s
"""


def checked_progress(done: Any, total: Any, message: Any) -> tuple[int, int | None, str]:
    """The progress as it can be stored; raises, in the handler's own call, for what cannot."""
    if not isinstance(message, str):
        raise TypeError(f"progress() takes a string as its message, not {reprlib.repr(message)}.")
    return (
        _whole_number("done", done),
        None if total is None else _whole_number("total", total),
        as_text(message, at_most=MAX_MESSAGE_CHARACTERS),
    )


def _whole_number(name: str, number: Any) -> int:
    try:
        whole = None if isinstance(number, bool) else int(operator.index(number))
    except TypeError:
        whole = None
    if whole is None:
        raise TypeError(f"progress() takes a whole number as {name}, not {reprlib.repr(number)}.")
    if not 0 <= whole <= MAX_PROGRESS:
        raise ValueError(f"progress() takes 0 to 2^63 - 1 as {name}, not {reprlib.repr(whole)}.")
    return whole
