"""Excluded and included times, and calendars: what does not run, what runs elsewhere, and why."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from scheduler.recurrence.calendars import Calendar, holidays_of
from scheduler.recurrence.exceptions import BadMoment, Exceptions, Moments, OnClosed, read_moment
from scheduler.recurrence.rules import BadRecurrence, Recurrence, make_rule, require_firing

BERLIN = ZoneInfo("Europe/Berlin")
WORKDAYS = frozenset(range(5))
OFFICE = Calendar("office", weekdays=WORKDAYS, hours=((time(9), time(12)), (time(13), time(17))))
GERMANY = Calendar("germany", country="DE", weekdays=WORKDAYS)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN).astimezone(UTC)  # type: ignore[arg-type,misc]


def recurrence(start: datetime, exceptions: Exceptions, end: datetime | None = None, **rule: Any) -> Recurrence:
    return Recurrence(make_rule(**rule), start, BERLIN, end, exceptions)


def local_days(found: list[datetime]) -> list[str]:
    return [f"{each.astimezone(BERLIN):%m-%d %H:%M}" for each in found]


def runs(start: datetime, count_until: datetime, exceptions: Exceptions, **rule: Any) -> list[str]:
    return local_days(recurrence(start, exceptions, **rule).between(start, count_until, limit=1_000))


def closed(*calendars: Calendar, on_closed: OnClosed = "skip") -> Exceptions:
    return Exceptions(calendars=calendars, on_closed=on_closed)


def test_an_excluded_day_and_an_excluded_time_do_not_run() -> None:
    excluded = Moments(frozenset({date(2030, 1, 2)}), frozenset({at(2030, 1, 3, 9)}))

    found = runs(at(2030, 1, 1), at(2030, 1, 4, 23), Exceptions(excluded=excluded), cron="0 9 * * *")

    assert found == ["01-01 09:00", "01-04 09:00"]


def test_an_excluded_day_is_one_of_the_zone_also_when_clocks_change() -> None:
    excluded = Moments(frozenset({date(2030, 3, 31)}))

    found = runs(at(2030, 3, 30, 20), at(2030, 4, 1, 1), Exceptions(excluded=excluded), cron="0 */2 * * *")

    assert found == ["03-30 20:00", "03-30 22:00", "04-01 00:00"]


def test_an_included_time_runs_besides_and_an_included_day_in_spite_of_the_calendars() -> None:
    included = Moments(frozenset({date(2030, 1, 5)}), frozenset({at(2030, 1, 6, 7, 30)}))
    exceptions = Exceptions(included=included, calendars=(GERMANY,))

    found = runs(at(2030, 1, 4), at(2030, 1, 7, 23), exceptions, cron="0 9 * * *")

    assert found == ["01-04 09:00", "01-05 09:00", "01-06 07:30", "01-07 09:00"]


def test_an_included_time_at_which_the_rule_runs_anyway_runs_once() -> None:
    included = Moments(instants=frozenset({at(2030, 1, 2, 9)}))

    found = runs(at(2030, 1, 1), at(2030, 1, 3), Exceptions(included=included), cron="0 9 * * *")

    assert found == ["01-01 09:00", "01-02 09:00"]


def test_holidays_and_weekends_are_skipped_with_their_names() -> None:
    events = recurrence(at(2030, 12, 24), closed(GERMANY), cron="0 9 * * *").events(at(2030, 12, 24))
    reasons = {event.at.astimezone(BERLIN).day: event.reason for event, _ in zip(events, range(6), strict=False)}

    assert list(reasons) == [24, 25, 26, 27, 28, 29]
    assert "germany: " in reasons[25]
    assert [day for day, reason in reasons.items() if not reason] == [24, 27]
    assert reasons[28] == "germany: closed on Saturdays"


def test_names_of_holidays_do_not_depend_on_the_language_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    holidays_of.cache_clear()

    assert GERMANY.day_closed(date(2030, 12, 25)) == "germany: Christmas Day"


def test_a_part_of_a_country_has_holidays_of_its_own() -> None:
    bavaria, berlin = (Calendar("c", country="DE", subdivision=part) for part in ("BY", "BE"))

    assert bavaria.day_closed(date(2030, 1, 6))
    assert not berlin.day_closed(date(2030, 1, 6))


def test_open_days_are_open_whatever_else_is_said() -> None:
    calendar = Calendar(
        "c",
        weekdays=WORKDAYS,
        closed_days=((date(2030, 1, 1), date(2030, 1, 10)),),
        open_days=((date(2030, 1, 5), date(2030, 1, 5)),),
    )

    assert runs(at(2030, 1, 1), at(2030, 1, 11, 12), closed(calendar), cron="0 9 * * *") == [
        "01-05 09:00",
        "01-11 09:00",
    ]


def test_outside_business_hours_nothing_runs() -> None:
    found = runs(at(2030, 1, 4, 16), at(2030, 1, 7, 10), closed(OFFICE), interval=1_800)

    assert found == ["01-04 16:00", "01-04 16:30", "01-07 09:00", "01-07 09:30", "01-07 10:00"]


def test_a_rule_of_every_second_finds_its_way_over_a_long_closed_time_at_once() -> None:
    summer = Calendar("summer", closed_days=((date(2030, 1, 2), date(2030, 7, 1)),))

    following = recurrence(at(2030, 1, 1), closed(summer), interval=1).next_after(
        at(2030, 1, 2) - timedelta(seconds=1)
    )

    assert following == at(2030, 7, 2)


@pytest.mark.parametrize(
    ("on_closed", "cron", "expected"),
    [
        # The last working day of each month, and the first: 31 March 2030 is a Sunday, 1 June a Saturday.
        ("previous", "0 9 L * *", ["01-31 09:00", "02-28 09:00", "03-29 09:00", "04-30 09:00", "05-31 09:00"]),
        (
            "next",
            "0 9 1 * *",
            ["01-02 09:00", "02-01 09:00", "03-01 09:00", "04-01 09:00", "05-02 09:00", "06-03 09:00"],
        ),
    ],
)
def test_the_last_and_first_working_day_of_a_month(on_closed: OnClosed, cron: str, expected: list[str]) -> None:
    exceptions = closed(GERMANY, on_closed=on_closed)

    assert runs(at(2030, 1, 1), at(2030, 6, 5), exceptions, cron=cron) == expected


@pytest.mark.parametrize("on_closed", ["next", "previous"])
def test_what_is_moved_is_found_from_any_instant_on(on_closed: OnClosed) -> None:
    whole = recurrence(at(2030, 1, 1), closed(GERMANY, on_closed=on_closed), cron="30 9,15 * * *")
    found = whole.between(at(2030, 1, 1), at(2030, 2, 1), limit=1_000)

    assert found == sorted(set(found))
    assert all(whole.next_after(one) == following for one, following in pairwise(found))
    assert all(not GERMANY.day_closed(each.astimezone(BERLIN).date()) for each in found)


def test_days_on_which_nothing_is_open_for_a_month_are_skipped() -> None:
    strike = Calendar("strike", closed_days=((date(2030, 1, 1), date(2030, 3, 31)),))

    found = runs(at(2030, 1, 1), at(2030, 4, 2), closed(strike, on_closed="next"), cron="0 9 1 * *")

    assert found == ["04-01 09:00"]


@pytest.mark.parametrize(
    ("exceptions", "rule", "field"),
    [
        (closed(GERMANY, on_closed="next"), {"interval": 60}, "on_closed"),
        (closed(GERMANY, on_closed="next"), {"cron": "0 * * * *"}, "on_closed"),
        (closed(Calendar("never", weekdays=frozenset())), {"cron": "0 9 * * *"}, "calendars"),
        (closed(GERMANY), {"cron": "0 9 * * SUN"}, "calendars"),
        (Exceptions(included=Moments(frozenset({date(2030, 1, 5)}))), {"cron": "0 9 * * MON"}, "include/0"),
        (closed(Calendar("c", country="XX")), {"cron": "0 9 * * *"}, "calendars"),
    ],
)
def test_exceptions_that_cannot_be_meant_are_refused(exceptions: Exceptions, rule: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRecurrence) as refused:
        require_firing(recurrence(at(2030, 1, 1), exceptions, **rule))

    assert refused.value.fields == (field,)


def test_all_occurrences_excluded_is_refused() -> None:
    excluded = Exceptions(excluded=Moments(frozenset({date(2030, 1, 1), date(2030, 1, 2)})))

    with pytest.raises(BadRecurrence, match="never fires"):
        require_firing(recurrence(at(2030, 1, 1), excluded, at(2030, 1, 2, 12), cron="0 9 * * *"))


def test_moments_are_days_or_times_with_or_without_an_offset() -> None:
    assert read_moment("2030-12-24", BERLIN) == date(2030, 12, 24)
    assert read_moment("2030-12-24T09:00:00", BERLIN) == at(2030, 12, 24, 9)
    assert read_moment("2030-12-24T09:00:00Z", BERLIN) == datetime(2030, 12, 24, 9, tzinfo=UTC)
    # A local time that clocks skip is the first valid one after it.
    assert read_moment("2030-03-31T02:30:00", BERLIN) == at(2030, 3, 31, 3)


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2030-13-01", "2030-12-24T25:00:00", "20301224", "2030-W52-2", 7, None, "9" * 99]
)
def test_other_texts_are_no_moments(text: Any) -> None:
    with pytest.raises(BadMoment, match="neither a day"):
        read_moment(text, BERLIN)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59Z", "9000-01-01", "1969-12-31", "0001-01-01T00:00:00+14:00"])
def test_a_moment_has_a_year_that_every_zone_can_show(text: str) -> None:
    with pytest.raises(BadMoment, match="1970 to 8999"):
        read_moment(text, BERLIN)
