"""What is kept of an exception, however odd it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import django.db
import pytest

from orchestrator.database_errors import is_database_fault
from orchestrator.failures import (
    MAX_ERROR_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    error_of,
    is_one_of,
    traceback_of,
)
from tests.kinds.mischief import Setting


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Numeric(Exception):
    def __str__(self) -> Any:
        return 5


class OddText(str):
    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("no characters")

    __format__ = replace = encode = __len__ = __getitem__  # type: ignore[assignment]


class Odd(Exception):
    def __str__(self) -> str:
        return OddText("odd text")


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


class Childless(type):
    def __subclasscheck__(cls, other: type) -> bool:
        raise RuntimeError("no family")


class Anonymous(Exception, metaclass=Nameless):
    """Its class does not tell its name."""


class Unfamiliar(Exception, metaclass=Childless):
    """Nobody can ask what belongs to it."""


class Shifty(Exception):
    __class__ = property(lambda self: 1 / 0)
    __cause__ = property(lambda self: 1 / 0)
    __context__ = property(lambda self: 1 / 0)
    __notes__ = property(lambda self: 1 / 0)
    __traceback__ = property(lambda self: 1 / 0)


def in_a_circle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def in_a_long_chain() -> BaseException:
    error: BaseException = ValueError("the first")
    for number in range(3_000):
        outer = ValueError(f"number {number}")
        outer.__context__ = error
        error = outer
    return error


ODD_ERRORS: list[tuple[Callable[[], BaseException], str]] = [
    (lambda: Mute(), "Mute: (its __str__ raised RuntimeError)"),
    (lambda: Exits(), "Exits: (its __str__ raised SystemExit)"),
    (lambda: Numeric(), "Numeric: (its __str__ raised TypeError)"),
    (lambda: Odd(), "Odd: odd text"),
    (lambda: Anonymous("a"), "Anonymous: a"),
    (lambda: Shifty("s"), "Shifty: s"),
    (lambda: type("x" * 500, (Exception,), {})("long"), "x" * 100 + ": long"),
    (lambda: type("a b\n", (Exception,), {})("named"), "a b\n: named"),
    (lambda: ValueError("a\x00b \udcff"), "ValueError: a\N{REPLACEMENT CHARACTER}b ?"),
    (lambda: ValueError("x" * 5_000_000), ("ValueError: " + "x" * 5_000)[:MAX_ERROR_CHARACTERS]),
    (lambda: ValueError(), "ValueError: "),
    (lambda: ExceptionGroup("some", [Mute(), ValueError("\udcff")]), "ExceptionGroup: some (2 sub-exceptions)"),
    (lambda: asyncio.CancelledError(), "CancelledError: "),
    (lambda: GeneratorExit("g"), "GeneratorExit: g"),
    (in_a_circle, "ValueError: first"),
    (in_a_long_chain, "ValueError: number 2999"),
]


@pytest.mark.parametrize(("make", "text"), ODD_ERRORS)
def test_any_exception_is_kept_as_text_with_the_place_it_was_raised(
    make: Callable[[], BaseException], text: str
) -> None:
    def explode() -> None:
        raise make()

    try:
        explode()
    except BaseException as error:
        kept, trace = error_of(error), traceback_of(error)
        is_of_a_kind = is_one_of(error, (OSError,)), is_one_of(error, (Unfamiliar,))
        is_fault = is_database_fault(error)

    assert kept == text
    assert "in explode" in trace or "explode" in trace[-2_000:], trace
    assert len(trace) <= MAX_TRACEBACK_CHARACTERS
    assert (is_of_a_kind, is_fault) == ((False, False), False)
    assert "\x00" not in kept + trace
    assert (kept + trace).encode()


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    def deeper(depth: int) -> None:
        if depth == 0:
            raise ValueError("the end")
        (deeper if depth % 2 else lambda depth: deeper(depth))(depth - 1)

    try:
        deeper(200)
    except ValueError as error:
        text = traceback_of(error)

    assert text.startswith("Traceback")
    assert text.endswith("ValueError: the end\n")


def test_a_database_error_that_a_handler_raises_itself_is_the_handlers() -> None:
    assert not is_database_fault(django.db.OperationalError("as the handler says"))


@pytest.mark.django_db
def test_the_rows_that_postgresql_quotes_are_for_operators_alone() -> None:
    def clash() -> None:
        with django.db.transaction.atomic(), django.db.connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE secrets (name text UNIQUE)")
            cursor.execute("INSERT INTO secrets VALUES ('somebody else''s'), ('somebody else''s')")

    with pytest.raises(django.db.IntegrityError) as caught:
        clash()
    reworded = ValueError(f"It did not work: {caught.value}")

    expected = 'duplicate key value violates unique constraint "secrets_name_key"'
    assert error_of(caught.value) == f"IntegrityError: {expected}"
    assert error_of(reworded) == f"ValueError: It did not work: {expected}"
    assert "somebody else's" in traceback_of(caught.value)


@pytest.mark.django_db
def test_the_text_of_an_exception_changes_nothing_in_the_session() -> None:
    def timeout() -> str:
        with django.db.connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return str(cursor.fetchone()[0])

    before = timeout()

    assert error_of(Setting()) == "Setting: (its __str__ raised RuntimeError)"
    assert "Setting" in traceback_of(Setting())
    assert timeout() == before


def test_the_traceback_of_a_group_within_very_many_groups_is_cut() -> None:
    group: Exception = ValueError("in the middle")
    for _ in range(60):
        group = ExceptionGroup("twice", [group, group])

    assert traceback_of(raised(group)).splitlines()[-1] == "ExceptionGroup: twice (2 sub-exceptions)"
    assert "in raised" in traceback_of(raised(group))


def test_a_group_of_some_exceptions_is_shown_with_them() -> None:
    group = ExceptionGroup("some", [ValueError("first"), KeyError("second")])

    assert all(each in traceback_of(raised(group)) for each in ("first", "second"))


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as same:
        return same
