"""What makes a job the same as another, and what a submission does about it. Nothing here reads or writes a job."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, get_args
from uuid import UUID

import msgspec

from orchestrator.pg_values import is_storable

OnConflict = Literal["return", "replace", "postpone", "refuse"]
ON_CONFLICT = get_args(OnConflict)

MAX_KEY_CHARACTERS = 200
MAX_FIELDS = 20
# 31 days: of a period, and of the longest wait.
MAX_SECONDS = 31 * 86_400
# A job that is postponed again and again waits so many times as long as one that is not, unless it says how long.
POSTPONED_TIMES = 10


class BadUnique(ValueError):
    """Something that cannot be asked for; `field` is what is wrong, and the message says what would be right."""

    def __init__(self, field: str, detail: str) -> None:
        self.field = field
        super().__init__(detail)


@dataclass(frozen=True, kw_only=True)
class Unique:
    """What makes a job the same as another of its kind and owner. Of those, only one is unfinished at any time.

    key: equal for the same jobs. fields: the payload's fields that are. If neither is given, the whole payload is.
    for_seconds: a job that has completed stays the one until so long after its submission; one that failed or was
        cancelled does not.
    on_conflict: what a submission does when there is one already:
        "return": nothing; the caller is given that job.
        "replace": that job gets the new payload, and the earlier of both starts.
        "postpone": that job gets the new payload and waits `wait_seconds` from now, as every job does that is
            submitted so, but at most `max_wait_seconds` in all: 10 times as long if not given.
        "refuse": it raises NotUnique. So do "replace" and "postpone" once that job has started.
    across_owners: whether the jobs of all owners are compared.
    """

    key: str | None = None
    fields: Collection[str] | None = None
    for_seconds: float = 0
    on_conflict: OnConflict = "return"
    wait_seconds: float | None = None
    max_wait_seconds: float | None = None
    across_owners: bool = False

    def __post_init__(self) -> None:
        self._check_what()
        if self.on_conflict not in ON_CONFLICT:
            raise BadUnique("on_conflict", f"Must be one of {', '.join(ON_CONFLICT)}, not {self.on_conflict!r}.")
        self._check_seconds("for_seconds", self.for_seconds, at_least=0)
        self._check_waits()

    def _check_what(self) -> None:
        if self.key is not None and self.fields is not None:
            raise BadUnique("fields", "Give a key or fields, not both.")
        if self.key is not None and not (self.key and is_storable(self.key, at_most=MAX_KEY_CHARACTERS)):
            raise BadUnique("key", f"A key has 1 to {MAX_KEY_CHARACTERS} characters, without NUL or lone surrogates.")
        if self.fields is None:
            return
        are_names = not isinstance(self.fields, str) and all(isinstance(name, str) for name in self.fields)
        if not are_names or not 1 <= len(self.fields) <= MAX_FIELDS:
            raise BadUnique("fields", f"Give a list of 1 to {MAX_FIELDS} names of fields, not {self.fields!r}.")

    def _check_waits(self) -> None:
        if self.on_conflict != "postpone":
            for name in ("wait_seconds", "max_wait_seconds"):
                if getattr(self, name) is not None:
                    raise BadUnique(name, "Only on_conflict=postpone waits.")
            return
        if self.wait_seconds is None:
            raise BadUnique("wait_seconds", "Give the seconds to wait after the last submission.")
        self._check_seconds("wait_seconds", self.wait_seconds, at_least=0.001)
        if self.max_wait_seconds is not None:
            self._check_seconds("max_wait_seconds", self.max_wait_seconds, at_least=self.wait_seconds)

    def _check_seconds(self, name: str, value: Any, *, at_least: float) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and at_least <= value <= MAX_SECONDS):
            raise BadUnique(name, f"Must be {at_least:g} to {MAX_SECONDS:,} seconds, not {value!r}.")

    @property
    def longest_wait(self) -> float:
        """The seconds that a job may be postponed in all."""
        if self.max_wait_seconds is not None:
            return self.max_wait_seconds
        return min((self.wait_seconds or 0) * POSTPONED_TIMES, MAX_SECONDS)

    @property
    def changes_jobs(self) -> bool:
        """Whether a submission changes the job that there is already."""
        return self.on_conflict in ("replace", "postpone")

    def key_of(self, kind: str, owner: str, payload: bytes, *, known: Collection[str] | None) -> UUID:
        """Equal for the same jobs. payload: as JSON. known: the fields that it may have, if its type says.

        Raises BadUnique for a field that there is not.
        """
        what = ["key", self.key] if self.key is not None else ["payload", self._chosen(payload, known)]
        whose = [] if self.across_owners else [owner]
        described = msgspec.json.encode([kind, whose, what], order="deterministic")
        return UUID(bytes=blake2b(described, digest_size=16).digest())

    def _chosen(self, payload: bytes, known: Collection[str] | None) -> Any:
        decoded = msgspec.json.decode(payload)
        if self.fields is None:
            return decoded
        check_fields(self.fields, known if known is not None else decoded)
        return {name: decoded[name] for name in self.fields if name in decoded}


def check_fields(fields: Collection[str], known: Any) -> None:
    """Raises BadUnique for a field that is not among those known, of a payload that has some."""
    if not isinstance(known, Collection) or isinstance(known, str):
        raise BadUnique("fields", "The payload has no fields; give a key.")
    if unknown := [name for name in fields if name not in known]:
        listed = ", ".join(sorted(map(str, known))[:MAX_FIELDS]) or "none"
        raise BadUnique("fields", f"The payload has no field {unknown[0]!r}; it has: {listed}.")
