"""What a handler raised, as the text that is kept of it. Nothing here raises, whatever the exception does."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import TypeVar

import psycopg2
from django.db import connection

from orchestrator.pg_values import as_text

T = TypeVar("T")

_READS = re.compile(r"\s*SELECT\b", re.IGNORECASE)

MAX_ERROR_CHARACTERS = 2_000
MAX_TYPE_CHARACTERS = 100
MAX_TRACEBACK_CHARACTERS = 20_000
# Of a chain of exceptions that is longer, only the last is shown: each would be read from its source files.
MAX_CHAINED = 100
# Of more exceptions, in groups and chains, only the frames of the outermost are shown.
MAX_WITHIN = 2_000
# Frames shown where Python cannot format a traceback.
MAX_FRAMES = 100

# PostgreSQL's second line, which may quote rows that are none of the job owner's business.
_DATABASE_DETAIL = re.compile(r"\n(DETAIL|CONTEXT):  .*", re.DOTALL)


def error_of(error: BaseException) -> str:
    """The exception as the one sentence that the job's owner is shown: without the rows that PostgreSQL quotes."""
    return f"{type_of(error)}: {_message_of(error)}"[:MAX_ERROR_CHARACTERS]


def type_of(error: BaseException) -> str:
    # Not type(error).__name__, which a metaclass may override.
    return as_text(type.__dict__["__name__"].__get__(type(error)), at_most=MAX_TYPE_CHARACTERS)


def traceback_of(error: BaseException) -> str:
    """The whole traceback, for operators; of a long one its beginning and its end."""
    text = _or(lambda: _formatted(error), lambda _: _frames(error))
    if len(text) > MAX_TRACEBACK_CHARACTERS:
        half = MAX_TRACEBACK_CHARACTERS // 2 - 10
        text = f"{text[:half]}\n  […]\n{text[-half:]}"
    return text


def is_one_of(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    # Not isinstance, which also asks the exception for its __class__.
    return _or(lambda: issubclass(type(error), types), lambda _: False)


def _message_of(error: BaseException) -> str:
    text = _or(
        lambda: as_text(_only_reading(lambda: str(error)), at_most=2 * MAX_ERROR_CHARACTERS),
        lambda failure: f"(its __str__ raised {type_of(failure)})",
    )
    return _DATABASE_DETAIL.sub("", _or(lambda: _primary_message(error), lambda _: None) or text)


def _primary_message(error: BaseException) -> str | None:
    """What PostgreSQL said first, if it was PostgreSQL that raised it and nobody has worded it otherwise."""
    cause = error if isinstance(error, psycopg2.Error) else error.__cause__
    if not isinstance(cause, psycopg2.Error) or str(cause) != str(error) or not cause.diag.message_primary:
        return None
    return as_text(cause.diag.message_primary, at_most=MAX_ERROR_CHARACTERS)


def _formatted(error: BaseException) -> str:
    if next(islice(_within(error), MAX_WITHIN, None), None) is not None:
        return _frames(error)
    chain = sum(1 for _ in islice(_chained(error), MAX_CHAINED)) < MAX_CHAINED
    lines = "".join(_only_reading(lambda: traceback.format_exception(error, chain=chain)))
    return as_text(lines, at_most=len(lines))


def _within(error: BaseException) -> Iterator[BaseException]:
    """The exception and those within it, of groups and chains, each as often as Python would read it for a traceback:
    one that is twice in each of 25 groups within each other, 33 million times.
    """
    left, chained = [error], {id(error)}
    while left:
        yield (one := left.pop())
        if isinstance(one, BaseExceptionGroup):
            left.extend(one.exceptions)
        for other in (one.__cause__, one.__context__):
            if other is not None and id(other) not in chained:
                chained.add(id(other))
                left.append(other)


def _chained(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__context__ if error.__cause__ is None else error.__cause__


def _frames(error: BaseException) -> str:
    """The traceback by nothing but the names of files and functions."""
    frames = traceback.walk_tb(_raised_at(error))
    lines = [f"  {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames][-MAX_FRAMES:]
    return as_text("\n".join([*lines, error_of(error)]), at_most=MAX_TRACEBACK_CHARACTERS)


def _raised_at(error: BaseException) -> TracebackType | None:
    found: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    return found


def _only_reading(function: Callable[[], T]) -> T:
    """Calls it so that an exception's __str__ at most reads the database: what it set or wrote would hinder the
    statement that ends the attempt, or be committed with it.
    """
    with connection.execute_wrapper(_refuse_writing):
        return function()


def _refuse_writing(execute: Callable[..., T], sql: object, *options: object) -> T:
    if not _READS.match(str(sql)):
        raise RuntimeError("The text of an exception may not change anything in the database.")
    return execute(sql, *options)


def _or(function: Callable[[], T], otherwise: Callable[[BaseException], T]) -> T:
    """What the function returns; it calls a user's object, which may raise anything."""
    try:
        return function()
    except BaseException as failure:
        return otherwise(failure)
