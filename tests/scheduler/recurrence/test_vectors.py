"""What others say of rules: the examples of RFC 5545, and the tests of libical, dateutil, rust-rrule, cronsim and
croniter, written down as facts in rrule_vectors.txt and cron_vectors.txt.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from scheduler.recurrence import cron
from scheduler.recurrence.rules import BadRecurrence, Recurrence, make_rule, require_firing

HERE = Path(__file__).parent


def vectors(name: str) -> list[Any]:
    lines = [line for line in (HERE / name).read_text().splitlines() if not line.startswith("#")]
    rows = [[column.strip() for column in line.split(" | ")] for line in lines]
    return [pytest.param(*row[1:], id=f"{row[0]} {row[4]} {row[3]}"[:120]) for row in rows]


def instant(local: str, zone: str) -> datetime:
    return datetime.strptime(local, "%Y%m%dT%H%M%S").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(("difference", "zone", "start", "rule", "count", "expected"), vectors("rrule_vectors.txt"))
def test_an_rrule_fires_when_other_libraries_say(
    difference: str, zone: str, start: str, rule: str, count: str, expected: str
) -> None:
    rule = rule.replace("\\n", "\n")
    if difference == "refused":
        with pytest.raises(BadRecurrence):
            make_rule(rrule=rule)
        return
    recurrence = Recurrence(make_rule(rrule=rule), instant(start, zone), ZoneInfo(zone))
    number = int(count.rstrip("+"))

    found = list(islice(recurrence.after(recurrence.start - timedelta(seconds=1)), number + (not count.endswith("+"))))

    local = [f"{at.astimezone(ZoneInfo(zone)):%Y%m%dT%H%M%S}" for at in found]
    assert len(local) == number
    assert local[:6] + ["…", local[-1]] * (number > 6) == expected.split()


@pytest.mark.parametrize(("difference", "zone", "after", "expression", "expected"), vectors("cron_vectors.txt"))
def test_a_cron_expression_fires_when_other_libraries_say(
    difference: str, zone: str, after: str, expression: str, expected: str
) -> None:
    begin = instant(after, zone)
    if difference == "refused":
        with pytest.raises(BadRecurrence):
            require_firing(Recurrence(make_rule(cron=expression), begin, ZoneInfo(zone)))
        return
    recurrence = Recurrence(make_rule(cron=expression), begin, ZoneInfo(zone))

    found = islice(recurrence.after(begin), len(expected.split()))

    assert [at.astimezone(ZoneInfo(zone)).isoformat() for at in found] == expected.split()
    assert re.fullmatch(cron.PATTERN, expression), "The document allows what is accepted."


def test_there_are_hundreds_of_vectors() -> None:
    assert len(list(vectors("rrule_vectors.txt"))) > 380
    assert len(list(vectors("cron_vectors.txt"))) > 70
