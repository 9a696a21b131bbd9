"""The checks of `manage.py doctor`: how they are declared and run, one after the other, none of which can hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as TookTooLong
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from django.utils.module_loading import autodiscover_modules

from orchestrator.diagnostics.probes import Probe, impatient_connection

# No check is waited for longer.
CHECK_SECONDS = 6.0
# Memory or connections of which more is used than this part of what is allowed run out soon.
NEARLY_FULL = 0.9


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # Work goes on, and somebody should look.
    FAIL = "fail"  # Work does not go on, or what is promised does not hold.
    SKIP = "skip"  # Something that it needs has failed.


class Finding(NamedTuple):
    """What a check found, in a sentence, and what to do about it, if anything."""

    level: Level
    msg: str
    hint: str = ""


def ok(msg: str) -> Finding:
    return Finding(Level.OK, msg)


def warn(msg: str, hint: str) -> Finding:
    return Finding(Level.WARN, msg, hint)


def fail(msg: str, hint: str) -> Finding:
    return Finding(Level.FAIL, msg, hint)


Look = Callable[[], Finding]


class Check(NamedTuple):
    name: str
    look: Look
    needs: tuple[str, ...]


class Examined(NamedTuple):
    name: str
    finding: Finding
    seconds: float


_checks: dict[str, Check] = {}


def check(name: str, *, needs: tuple[str, ...] = ("database", "migrations")) -> Callable[[Look], Check]:
    """Makes a function a check of `manage.py doctor`. It only reads; if it raises, the check has failed.

    Checks are found in each app's doctor.py, and run in the order in which they are declared.

    needs: the checks without which this one is skipped.
    """

    def declare(look: Look) -> Check:
        _checks[name] = Check(name, look, needs)
        return _checks[name]

    return declare


def registered_checks() -> list[Check]:
    autodiscover_modules("doctor")
    return list(_checks.values())


def diagnose(checks: Iterable[Check]) -> Iterator[Examined]:
    """What each check finds, as soon as it is known."""
    broken: dict[str, str] = {}  # Each check that failed or was skipped, with the one that is the cause.
    for each in checks:
        began = time.monotonic()
        if causes := sorted({broken[name] for name in each.needs if name in broken}):
            finding = Finding(Level.SKIP, f"Skipped, since this failed: {', '.join(causes)}.")
            broken[each.name] = causes[0]
        else:
            finding = ask(each)
            if finding.level == Level.FAIL:
                broken[each.name] = each.name
        yield Examined(each.name, finding, round(time.monotonic() - began, 3))


def ask(check: Check) -> Finding:
    """What the check finds. It fails if it raises, or takes too long."""
    try:
        finding: Finding = Probe(partial(_with_own_connection, check.look)).start().result(CHECK_SECONDS)
        return finding
    except TookTooLong:
        return fail(f"No response within {CHECK_SECONDS:g} s.", "Something hangs: check that host, and run it again.")
    except Exception as error:
        words = " ".join(str(error).split())
        return fail(f"{type(error).__name__}: {words}"[:500], "Check the server or setting that the error names.")


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _with_own_connection(look: Look) -> Finding:
    with impatient_connection():
        return look()
