"""The diagnosis of a running installation: checks, each asked in turn, none of which can hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as TookTooLong
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from django.utils.module_loading import autodiscover_modules

from orchestrator.health import Probe, impatient_connection

# No check is waited for longer.
CHECK_SECONDS = 6.0


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # Work goes on, and somebody should look.
    FAIL = "fail"  # Work does not go on, or what is promised does not hold.
    SKIP = "skip"  # Not looked at, since something that it needs has failed.


class Finding(NamedTuple):
    """What a check found, in a sentence, and what to do about it, where there is something to do."""

    level: Level
    found: str
    advice: str = ""


def ok(found: str) -> Finding:
    return Finding(Level.OK, found)


def warn(found: str, advice: str) -> Finding:
    return Finding(Level.WARN, found, advice)


def fail(found: str, advice: str) -> Finding:
    return Finding(Level.FAIL, found, advice)


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
    """Makes a function a check of `manage.py doctor`. It only reads; what it raises is its finding.

    Checks are found in each app's doctor.py, and asked in the order in which they are declared.

    needs: the checks without which this one cannot say anything.
    """

    def declare(look: Look) -> Check:
        _checks[name] = Check(name, look, needs)
        return _checks[name]

    return declare


def diagnose() -> Iterator[Examined]:
    """What each check finds, as soon as it is known."""
    autodiscover_modules("doctor")
    broken: dict[str, str] = {}  # Each check that could not be asked or failed, with the one that is to blame.
    for each in _checks.values():
        began = time.monotonic()
        if blamed := sorted({broken[name] for name in each.needs if name in broken}):
            finding = Finding(Level.SKIP, f"Not looked at, because of: {', '.join(blamed)}.")
            broken[each.name] = blamed[0]
        else:
            finding = ask(each)
            if finding.level == Level.FAIL:
                broken[each.name] = each.name
        yield Examined(each.name, finding, round(time.monotonic() - began, 3))


def ask(check: Check) -> Finding:
    """What the check finds; that it raised, or did not answer in time, is a finding, too."""
    try:
        finding: Finding = Probe(partial(_with_own_connection, check.look)).start().result(CHECK_SECONDS)
        return finding
    except TookTooLong:
        return fail(f"No answer within {CHECK_SECONDS:g} s.", "Something hangs: look at that host, and ask again.")
    except Exception as error:
        words = " ".join(str(error).split())
        return fail(f"{type(error).__name__}: {words}"[:500], "See which server or setting the error names.")


def _with_own_connection(look: Look) -> Finding:
    with impatient_connection():
        return look()
