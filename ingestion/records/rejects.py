"""Records that cannot be stored, and why."""

from __future__ import annotations

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One thing wrong with a record; `field` is empty where it is the record as a whole."""

    field: str
    code: str
    message: str


class Reject(msgspec.Struct, frozen=True):
    """A record that cannot be stored, by its index."""

    index: int
    student_id: str
    errors: list[FieldError]


def duplicate(index: int, student_id: str, *, of: int | None = None) -> Reject:
    """The reject for a record that came before in the same request."""
    where = "earlier in this request" if of is None else f"at index {of}"
    return Reject(index, student_id, [FieldError("student_id", "duplicate", f"{student_id!r} is {where} already.")])


def conflict(index: int, student_id: str) -> Reject:
    """The reject for a record that was stored by an earlier request."""
    return Reject(index, student_id, [FieldError("student_id", "conflict", f"{student_id!r} is stored already.")])
