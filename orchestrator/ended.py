"""What the functions that a kind declares for failures are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

P = TypeVar("P", default=Any)  # The payload.


@dataclass(frozen=True, kw_only=True, eq=False)
class EndedJob(Generic[P]):
    """A job that was cancelled, or of which an attempt has failed: what `on_failure` and `on_retry` are given.

    name, parent_id: of a child in its pipeline; "" and None for other jobs.
    attempt: how many attempts have begun; 0 if the job ended before it started.
    status: FAILED or CANCELLED if the job has ended, CREATED if another attempt follows.
    outcome: how the attempt ended: RAISED, TIMED_OUT, LOST, INTERRUPTED or UNAVAILABLE; "" if no attempt failed, since
        the job was cancelled or a child of it failed.
    exception: what the handler raised; None if it did not raise, or raised in a process that has died.
    read_payload: what `payload` is read by.
    """

    id: str
    kind: str
    owner: str
    name: str
    parent_id: str | None
    attempt: int
    max_attempts: int
    status: str
    outcome: str
    exception: BaseException | None
    read_payload: Callable[[], P]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @cached_property
    def payload(self) -> P:
        """As the kind's payload type; raises BadPayload if it does not match it any more."""
        return self.read_payload()


Callback: TypeAlias = Callable[[EndedJob[P], str], object]


def check_callback(kind: str, option: str, callback: Any) -> None:
    """Raises ValueError unless it can be called with an ended job and its error, or is None."""
    if callback is None or (callable(callback) and not _is_called_in_vain(callback) and _takes_two(callback)):
        return
    raise ValueError(
        f"The kind {kind!r} needs a function f(job, error) as {option}, neither async nor one that yields, not "
        f"{callback!r}."
    )


def _is_called_in_vain(function: Callable[..., Any]) -> bool:
    """Whether a mere call does not run it."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    )


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, "")
    except TypeError:
        return False
    except ValueError:  # It has no signature that Python knows.
        return True
    return True
