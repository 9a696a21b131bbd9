"""What a submission says, checked: numbers, times, names and payloads. Nothing here knows of jobs that there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings

from orchestrator.failures import error_of
from orchestrator.kind_problems import BadPayload, Problem
from orchestrator.kinds import MAX_ATTEMPTS, Kind
from orchestrator.pg_values import NotFinite, as_json, as_json_each, is_storable

# PostgreSQL could store more, but Python could not read it, nor the rank computed from it.
RUN_AT_YEARS = range(1970, 9999)

# An offset from UTC with 60 minutes or more, or as many seconds.
_IMPOSSIBLE_OFFSET = re.compile(r"[+-]\d\d(:?[0-5]\d)?:?[6-9]\d(\.\d*)?$")

MAX_OWNER_CHARACTERS = 150
# Of a value that an error shows.
MAX_SHOWN_CHARACTERS = 120


class BadSubmission(Exception):
    """A submission that could never run as asked."""

    def __init__(self, pointer: str, code: str, detail: str) -> None:
        self.problems = [Problem(pointer, code, detail)]
        super().__init__(detail)


def check_numbers(priority: int, max_attempts: int) -> None:
    if type(priority) is not int or not 0 <= priority <= 9:
        raise BadSubmission(
            "/priority", "out_of_range", f"The priority must be 0 (most urgent) to 9, not {priority!r}."
        )
    if type(max_attempts) is not int or not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise BadSubmission(
            "/max_attempts", "out_of_range", f"max_attempts must be 1 to {MAX_ATTEMPTS}, not {max_attempts!r}."
        )


def check_run_at(run_at: datetime | None) -> None:
    if run_at is not None and run_at.utcoffset() is None:
        raise BadSubmission("/run_at", "no_time_zone", f"The time {run_at.isoformat()} needs an offset from UTC.")
    if run_at is not None and run_at.year not in RUN_AT_YEARS:
        raise BadSubmission("/run_at", "out_of_range", f"The year must be 1970 to 9998, not {run_at.isoformat()}.")


def is_misread(time: str) -> bool:
    """Whether Python or Django would read the time although ISO 8601 has none such: the offset +05:75 as +06:15, and
    digits of all scripts.
    """
    return not time.isascii() or bool(_IMPOSSIBLE_OFFSET.search(time))


def check_owner(owner: str) -> None:
    if not is_storable(owner, at_most=MAX_OWNER_CHARACTERS):
        raise BadSubmission(
            "/owner",
            "invalid",
            f"An owner may have at most {MAX_OWNER_CHARACTERS} characters, without NUL or lone surrogates, "
            f"not {quoted(owner)}.",
        )


def payload_as_json(kind: Kind, payload: Any) -> tuple[Any, str]:
    """The payload as the kind's type, and as JSON."""
    try:
        fitting = kind.read_payload({} if payload is None else payload)
        return fitting, as_json(fitting, at_most=settings.ENV.MAX_BODY_BYTES)
    except BadPayload:
        raise
    except NotFinite as error:
        raise BadSubmission(f"/payload{error.pointer}", "not_finite", str(error)) from None
    # A payload may contain objects that raise any exception.
    except Exception as error:
        raise BadSubmission("/payload", "not_storable", f"The payload cannot be stored: {error_of(error)}") from None


def payloads_as_json(kind: Kind, payloads: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """What `payload_as_json` returns for each, in less time. Raises as it does."""
    try:
        fitting = [kind.read_payload({} if payload is None else payload) for payload in payloads]
        return fitting, as_json_each(fitting, at_most=settings.ENV.MAX_BODY_BYTES)
    except Exception:  # It is raised once more for the payload that it is about.
        each = [payload_as_json(kind, payload) for payload in payloads]
        return [fitting for fitting, _ in each], [text for _, text in each]


def quoted(value: Any) -> str:
    shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return shown if len(shown) <= MAX_SHOWN_CHARACTERS else f"{shown[:MAX_SHOWN_CHARACTERS]}…"
