"""What can be wrong with the kind that a submission names, or with its payload."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from orchestrator.limits import MAX_KEY_CHARACTERS


class Problem(NamedTuple):
    """One thing wrong with what a client sent: where (RFC 6901), a code for programs, a sentence for people."""

    pointer: str
    code: str
    detail: str


class UnknownKind(LookupError):
    """No kind has that name."""

    def __init__(self, name: Any, known: Iterable[str] = ()) -> None:
        """known: the names of all kinds, of which one may have been meant."""
        near = difflib.get_close_matches(name, list(known), n=1) if isinstance(name, str) else []
        advice = f"Did you mean {near[0]!r}?" if near else "GET /kinds lists them."
        self.problems = [Problem("/kind", "unknown_kind", f"There is no kind {name!r}. {advice}")]
        super().__init__(self.problems[0].detail)


class InternalKind(Exception):
    """Jobs of the kind are submitted by code only, not by clients."""

    def __init__(self, name: str, use_instead: str = "") -> None:
        instead = f"; use {use_instead} instead" if use_instead else ""
        detail = f"Jobs of kind {name!r} cannot be submitted by clients{instead}."
        self.problems = [Problem("/kind", "internal_kind", detail)]
        super().__init__(detail)


class DemoKind(InternalKind):
    """The demo kinds are switched off."""

    def __init__(self, name: str) -> None:
        detail = f"The demo kind {name!r} is switched off here (DEMO_KINDS); name one of GET /kinds."
        self.problems = [Problem("/kind", "demo_kind", detail)]
        Exception.__init__(self, detail)


class BadPayload(ValueError):
    """The payload does not match the kind's payload type."""

    def __init__(self, error: msgspec.ValidationError) -> None:
        detail, _, path = str(error).partition(" - at `$")
        # msgspec says `$.items[0].name` where a JSON pointer says /items/0/name.
        pointer = "/payload" + re.sub(r"[.\[]", "/", path.rstrip("`").replace("]", ""))
        self.problems = [Problem(pointer, "invalid", f"{detail}.")]
        super().__init__(f"{pointer}: {detail}.")


class BadConcurrencyKey(ValueError):
    """The kind's function `key` has made of the payload what cannot be a concurrency key."""

    def __init__(self, kind: str, value: Any) -> None:
        detail = (
            f"The concurrency key of {kind!r} must be a string, an integer or a UUID of at most {MAX_KEY_CHARACTERS} "
            f"characters, without NUL or lone surrogates, not {reprlib.repr(value)}."
        )
        self.problems = [Problem("/payload", "bad_key", detail)]
        super().__init__(detail)
