"""Limits on a kind of job: how many run at once, and how many start in a time. `queue.admission` enforces them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

MAX_RUNNING = 100_000
MAX_UNFINISHED = 1_000_000_000
# Of a rate. Each start is kept for the length of its period.
MAX_STARTS = 10_000
MAX_PERIOD_SECONDS = 31 * 86_400
# Of a concurrency key.
MAX_KEY_CHARACTERS = 200

SECONDS_OF = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
Scope = Literal["kind", "owner", "key"]
# What an operator sets for "none", where None restores what is declared.
UNLIMITED = "unlimited"


class BadLimit(ValueError):
    """A limit that cannot be kept; `fields` holds its name."""

    def __init__(self, field: str, detail: str) -> None:
        self.fields = (field,)
        super().__init__(detail)


@dataclass(frozen=True)
class Rate:
    """At most `count` starts in any period of so many seconds."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: Any) -> Rate:
        """A rate written "10/m", "1/30s" or "5000/d"; raises BadLimit."""
        match = re.fullmatch(r"([1-9]\d{0,9})/([1-9]\d{0,9})?([smhd])", text) if isinstance(text, str) else None
        if match is None:
            raise BadLimit("rate", f"A rate is written like '10/m', '1/30s' or '5000/d' (s, m, h, d), not {text!r}.")
        count, seconds = int(match[1]), int(match[2] or 1) * SECONDS_OF[match[3]]
        if count > MAX_STARTS or seconds > MAX_PERIOD_SECONDS:
            raise BadLimit(
                "rate", f"A rate has at most {MAX_STARTS:,} starts and a period of 31 days; {text!r} is more."
            )
        return cls(count, seconds)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits on one kind; None: there is no such limit.

    max_running, max_running_per_owner, max_running_per_key: how many of its jobs run at once, in all, of one owner,
        and of one concurrency key.
    rate: how many start in a time, "10/m"; rate_per: whether in all, or of each owner or key.
    burst: how many of a rate may start at once; all of them if not given. With "60/m" and a burst of 1 there is one in
        any second.
    max_unfinished_per_owner: more submissions are refused.
    """

    max_running: int | None = None
    max_running_per_owner: int | None = None
    max_running_per_key: int | None = None
    rate: str | None = None
    rate_per: Scope | None = None
    burst: int | None = None
    max_unfinished_per_owner: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_running", "max_running_per_owner", "max_running_per_key"):
            _check_whole(name, getattr(self, name), MAX_RUNNING)
        _check_whole("max_unfinished_per_owner", self.max_unfinished_per_owner, MAX_UNFINISHED)
        self._check_rate()

    def _check_rate(self) -> None:
        if self.rate_per is not None and self.rate_per not in get_args(Scope):
            raise BadLimit("rate_per", f"rate_per is 'kind', 'owner' or 'key', not {self.rate_per!r}.")
        if self.rate is not None:
            _check_whole("burst", self.burst, Rate.parse(self.rate).count)
        else:
            _check_whole("burst", self.burst, MAX_STARTS)

    @property
    def holds_back(self) -> bool:
        """Whether jobs have to wait for any of them. The number of unfinished jobs makes nobody wait."""
        return any((self.max_running, self.max_running_per_owner, self.max_running_per_key, self.rate))

    @property
    def needs_key(self) -> bool:
        return self.max_running_per_key is not None or (self.rate is not None and self.rate_per == "key")

    def as_json(self) -> dict[str, Any]:
        """Those that are given, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


NAMES = tuple(field.name for field in fields(Limits))


def merged(declared: Mapping[str, Any], overrides: Mapping[str, Any]) -> Limits:
    """The limits that hold: what is declared, but for what operators have set instead; null is none.

    Names that only a newer release knows are ignored.
    """
    return Limits(**{name: value for name, value in {**declared, **overrides}.items() if name in NAMES})


def _check_whole(name: str, value: Any, at_most: int) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= at_most):
        raise BadLimit(name, f"{name} is a whole number from 1 to {at_most:,}, not {value!r}.")
