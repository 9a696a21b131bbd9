"""When a recurrence fires, by the clocks of its zone; no database."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.recurrence.rules import BadRecurrence, Recurrence, make_rule, require_firing, zone_named

BUCHAREST, NEW_YORK = "Europe/Bucharest", "America/New_York"
ZONES = ["UTC", BUCHAREST, NEW_YORK, "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"]


def recurrence(
    zone: str = "UTC", start: str = "2026-01-01T00:00:00+00:00", end: str | None = None, **rule: Any
) -> Recurrence:
    ends = datetime.fromisoformat(end) if end else None
    return Recurrence(make_rule(**rule), datetime.fromisoformat(start), zone_named(zone), ends)


def refused(call: Callable[[], Any]) -> tuple[str, ...] | None:
    """The fields for which the call is refused; None if it is not."""
    try:
        call()
    except BadRecurrence as refusal:
        return refusal.fields
    return None


def local(recurring: Recurrence, after: str, count: int) -> list[str]:
    """The next occurrences as the clocks of the zone show them, with their offset from UTC."""
    occurrences = islice(recurring.after(datetime.fromisoformat(after)), count)
    return [occurrence.astimezone(recurring.zone).isoformat() for occurrence in occurrences]


# Daylight saving. Bucharest goes from 03:00 to 04:00 on 29 March 2026 and from 04:00 to 03:00 on 25 October; New York
# from 02:00 to 03:00 on 8 March and from 02:00 to 01:00 on 1 November.

DAILY_RULES = {
    "cron": lambda hour, minute: {"cron": f"{minute} {hour} * * *"},
    "days": lambda hour, minute: {"every_x_days": 1},
    "rrule": lambda hour, minute: {"rrule": "FREQ=DAILY"},
}
daily = pytest.mark.parametrize("rule", DAILY_RULES.values(), ids=DAILY_RULES)


@daily
def test_a_time_that_bucharest_skips_runs_at_the_first_valid_instant_after_it(rule: Any) -> None:
    half_past_three = recurrence(BUCHAREST, "2026-03-01T03:30:00+02:00", **rule(3, 30))

    assert local(half_past_three, "2026-03-28T12:00:00+02:00", 2) == [
        "2026-03-29T04:00:00+03:00",
        "2026-03-30T03:30:00+03:00",
    ]


@daily
def test_a_time_that_bucharest_repeats_runs_once_the_first_time(rule: Any) -> None:
    half_past_three = recurrence(BUCHAREST, "2026-10-01T03:30:00+03:00", **rule(3, 30))

    assert local(half_past_three, "2026-10-24T12:00:00+03:00", 2) == [
        "2026-10-25T03:30:00+03:00",
        "2026-10-26T03:30:00+02:00",
    ]


@daily
def test_a_time_that_new_york_skips_runs_at_the_first_valid_instant_after_it(rule: Any) -> None:
    half_past_two = recurrence(NEW_YORK, "2026-03-01T02:30:00-05:00", **rule(2, 30))

    assert local(half_past_two, "2026-03-07T12:00:00-05:00", 2) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-09T02:30:00-04:00",
    ]


@daily
def test_a_time_that_new_york_repeats_runs_once_the_first_time(rule: Any) -> None:
    half_past_one = recurrence(NEW_YORK, "2026-10-25T01:30:00-04:00", **rule(1, 30))

    assert local(half_past_one, "2026-10-31T12:00:00-04:00", 2) == [
        "2026-11-01T01:30:00-04:00",
        "2026-11-02T01:30:00-05:00",
    ]


@daily
def test_noon_stays_noon_through_changes_of_the_clocks(rule: Any) -> None:
    noon = recurrence(NEW_YORK, "2026-01-01T12:00:00-05:00", **rule(12, 0))

    year = islice(noon.after(noon.start), 365)

    assert {(at.hour, at.minute) for at in (each.astimezone(noon.zone) for each in year)} == {(12, 0)}


def test_times_that_are_skipped_together_run_once() -> None:
    every_ten_minutes = recurrence(BUCHAREST, cron="*/10 * * * *")

    assert local(every_ten_minutes, "2026-03-29T02:45:00+02:00", 3) == [
        "2026-03-29T02:50:00+02:00",
        "2026-03-29T04:00:00+03:00",
        "2026-03-29T04:10:00+03:00",
    ]


@pytest.mark.parametrize(
    "rule",
    [{"cron": "*/30 * * * *"}, {"rrule": "FREQ=MINUTELY;INTERVAL=30"}, {"rrule": "FREQ=HOURLY;BYMINUTE=0,30"}],
)
def test_rules_that_name_no_hour_run_in_both_passes_of_a_repeated_one(rule: Any) -> None:
    every_half_hour = recurrence(BUCHAREST, "2026-10-24T00:00:00+03:00", **rule)

    assert local(every_half_hour, "2026-10-25T03:10:00+03:00", 4) == [
        "2026-10-25T03:30:00+03:00",
        "2026-10-25T03:00:00+02:00",
        "2026-10-25T03:30:00+02:00",
        "2026-10-25T04:00:00+02:00",
    ]


@pytest.mark.parametrize("rule", [{"interval": 3_600}, {"every_x_hours": 1}])
def test_seconds_and_hours_alone_are_elapsed_time(rule: Any) -> None:
    hourly = recurrence(BUCHAREST, "2026-10-25T00:30:00+03:00", **rule)

    occurrences = list(islice(hourly.after(hourly.start), 8))

    assert {later - earlier for earlier, later in pairwise(occurrences)} == {timedelta(hours=1)}


def test_days_and_hours_are_their_sum_by_the_clock_on_the_wall() -> None:
    every_25_hours = recurrence(BUCHAREST, "2026-03-27T22:00:00+02:00", every_x_days=1, every_x_hours=1)

    assert local(every_25_hours, "2026-03-27T22:00:00+02:00", 3) == [
        "2026-03-28T23:00:00+02:00",
        "2026-03-30T00:00:00+03:00",
        "2026-03-31T01:00:00+03:00",
    ]


def test_a_start_in_the_second_pass_of_a_repeated_hour_is_the_first_occurrence() -> None:
    for rule in ({"every_x_days": 1}, {"rrule": "FREQ=DAILY"}):
        daily_rule = recurrence(BUCHAREST, "2026-10-25T03:30:00+02:00", **rule)

        assert daily_rule.first() == daily_rule.start


def test_a_day_that_samoa_skipped_runs_when_the_next_one_begins() -> None:
    at_noon = recurrence("Pacific/Apia", "2011-12-28T12:00:00-10:00", every_x_days=1)

    assert local(at_noon, "2011-12-29T13:00:00-10:00", 2) == ["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]


# Any rule

instants = st.integers(1_577_836_800, 2_208_988_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
rules: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, interval=st.integers(1, 10**8)),
    st.builds(dict, every_x_days=st.integers(1, 400), every_x_hours=st.one_of(st.none(), st.integers(0, 100))),
    st.builds(dict, every_x_hours=st.integers(1, 10_000)),
    st.sampled_from(
        ["* * * * *", "*/7 * * * *", "30 3 * * *", "0 2 * * SUN", "15 1-4 * * *", "0 0 31 * *", "59 23 L * *"]
    ).map(lambda text: {"cron": text}),
    st.builds(
        lambda frequency, interval, rest: {"rrule": f"FREQ={frequency};INTERVAL={interval}{rest}"},
        st.sampled_from(["SECONDLY", "MINUTELY", "HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
        st.integers(1, 20),
        st.sampled_from(["", ";BYHOUR=2,3", ";BYMONTH=3,10", ";COUNT=50", ";BYDAY=SU,MO", ";BYDAY=MO,FR;BYSETPOS=-1"]),
    ),
)


@st.composite
def recurrences(draw: Any) -> Recurrence:
    start = draw(instants)
    end = draw(st.one_of(st.none(), st.integers(0, 10**8).map(lambda seconds: start + timedelta(seconds=seconds))))
    try:
        made = Recurrence(make_rule(**draw(rules)), start, ZoneInfo(draw(st.sampled_from(ZONES))), end)
        require_firing(made)
    except BadRecurrence:
        return Recurrence(make_rule(interval=7), start, ZoneInfo("UTC"), end)
    return made


@settings(deadline=None)
@given(recurrences())
def test_occurrences_strictly_rise_between_start_and_end(recurring: Recurrence) -> None:
    occurrences = list(islice(recurring.after(recurring.start - timedelta(seconds=1)), 40))

    assert occurrences == sorted(set(occurrences))
    assert all(recurring.start <= each and (not recurring.end or each <= recurring.end) for each in occurrences)


@settings(deadline=None)
@given(recurrences(), st.integers(0, 30))
def test_the_next_after_an_occurrence_is_the_next_of_the_row(recurring: Recurrence, place: int) -> None:
    occurrences = list(islice(recurring.after(recurring.start - timedelta(seconds=1)), 40))

    for earlier, later in list(pairwise(occurrences))[place : place + 3]:
        assert recurring.next_after(earlier) == later
        assert recurring.next_after(later - timedelta(microseconds=1)) == later
        assert recurring.latest(later) == later
        assert recurring.latest(later - timedelta(microseconds=1)) == earlier


def test_seven_days_of_a_seven_second_interval_do_not_drift_by_a_second() -> None:
    every_seven = recurrence(start="2026-03-25T00:00:03+00:00", interval=7)

    at, seen = every_seven.start, 1
    while at < every_seven.start + timedelta(days=7):
        # As if each had been looked for some milliseconds after the one before was due.
        due = every_seven.next_after(at + timedelta(milliseconds=250 + seen % 700))
        at = every_seven.start + seen * timedelta(seconds=7)
        assert due == at
        seen += 1

    assert seen == 7 * 86_400 // 7 + 1


def test_an_old_rule_is_as_quick_as_a_new_one() -> None:
    for rule in (
        {"interval": 1},
        {"cron": "* * * * *"},
        {"rrule": "FREQ=SECONDLY"},
        {"rrule": "FREQ=MONTHLY;BYDAY=-1FR"},
    ):
        old = recurrence(start="1970-01-01T00:00:00+00:00", **rule)

        began = time.process_time()
        old.next_after(datetime(2026, 6, 1, tzinfo=UTC))

        assert time.process_time() - began < 0.1


# Rules that are refused


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ({}, ("interval",)),
        ({"interval": 0}, ("interval",)),
        ({"interval": -5}, ("interval",)),
        ({"interval": 10**12}, ("interval",)),
        ({"interval": 10**99}, ("interval",)),
        ({"interval": 7, "cron": "* * * * *"}, ("interval", "cron")),
        ({"every_x_days": 1, "rrule": "FREQ=DAILY"}, ("every_x_days", "rrule")),
        ({"every_x_days": 10**9}, ("every_x_days",)),
        ({"every_x_days": 0}, ("every_x_days",)),
        ({"every_x_days": 0, "every_x_hours": 0}, ("every_x_days", "every_x_hours")),
        ({"every_x_days": 2, "every_x_hours": -1}, ("every_x_hours",)),
        ({"every_x_hours": 10**9}, ("every_x_hours",)),
    ],
)
def test_an_invalid_rule_is_refused_with_what_is_wrong(rule: dict[str, Any], fields: tuple[str, ...]) -> None:
    with pytest.raises(BadRecurrence) as refusal:
        make_rule(**rule)

    assert refusal.value.fields == fields


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "0 0 32 * *", "0 0 30 2 *", "@reboot",
        "a b c d e", "*/0 * * * *", "0 0 * * 1L/2", "0 0 * * 1#6", "٣ * * * *", "0 0 * * MON" + "," * 300,
    ],
)  # fmt: skip
def test_a_cron_expression_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRecurrence) as refusal:
        require_firing(recurrence(cron=text))

    assert refusal.value.fields == ("cron",)


@settings(deadline=None)
@given(st.text(alphabet="0123456789*/,-#LW ?MONJ", max_size=30))
def test_any_text_as_cron_is_refused_or_fires(text: str) -> None:
    assert refused(lambda: require_firing(recurrence(cron=text))) in (None, ("cron",))


HOSTILE = [
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=MONTHLY;BYMONTHDAY=31;BYMONTH=2,4,6",
    "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=SECONDLY;BYMONTHDAY=31;BYMONTH=4",
    "FREQ=SECONDLY;BYYEARDAY=366;BYMONTH=1",
    "FREQ=SECONDLY;INTERVAL=86400;BYHOUR=5;BYMINUTE=7",
    "FREQ=SECONDLY;BYWEEKNO=60",
    "FREQ=YEARLY;BYWEEKNO=60",
    "FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=30;BYHOUR=23",
    f"FREQ=YEARLY;BYHOUR={','.join(map(str, range(24)))};BYMINUTE={','.join(map(str, range(60)))};BYSECOND=1,2,3",
    "FREQ=DAILY;INTERVAL=0",
    "FREQ=DAILY;INTERVAL=-1",
    "FREQ=SECONDLY;INTERVAL=0;BYSECOND=1",
    "FREQ=DAILY;INTERVAL=99999999999999999999",
    "FREQ=DAILY;COUNT=100000000",
    "FREQ=DAILY;COUNT=0",
    "FREQ=DAILY;COUNT=3;UNTIL=20300101T000000Z",
    "FREQ=DAILY;UNTIL=99999999T999999Z",
    "FREQ=DAILY;UNTIL=00010101T000000Z",
    "FREQ=DAILY;FREQ=SECONDLY",
    "FREQ=DAILY;BYHOUR=24",
    "FREQ=DAILY;BYSETPOS=0;BYDAY=MO",
    "FREQ=DAILY;NONSENSE=1",
    "FREQ=FORTNIGHTLY",
    "DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY",
    "EXRULE:FREQ=DAILY",
    "FREQ=DAILY;BYDAY=XX",
    "nonsense",
    "",
    "FREQ=DAILY" + ";BYDAY=MO" * 100,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_rrule_is_refused_at_once(text: str) -> None:
    began = time.process_time()

    with pytest.raises(BadRecurrence) as refusal:
        list(islice(_fires(recurrence("America/New_York", rrule=text)), 100))

    assert refusal.value.fields == ("rrule",)
    assert time.process_time() - began < 2


def _fires(recurring: Recurrence) -> Any:
    require_firing(recurring)
    return recurring.after(recurring.start)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "FREQ=YEARLY",
                "FREQ=MONTHLY",
                "FREQ=WEEKLY",
                "FREQ=HOURLY",
                "FREQ=MINUTELY",
                "FREQ=SECONDLY",
                "INTERVAL=7",
                "INTERVAL=3600",
                "COUNT=5",
                "UNTIL=20270101T000000Z",
                "BYMONTH=2",
                "BYMONTHDAY=-1",
                "BYMONTHDAY=30",
                "BYYEARDAY=366",
                "BYWEEKNO=53",
                "BYDAY=5MO",
                "BYDAY=SU",
                "BYHOUR=2",
                "BYMINUTE=30",
                "BYSECOND=59",
                "BYSETPOS=-1",
                "WKST=SU",
                "BYEASTER=1",
            ]
        ),
        max_size=6,
    ).map(";".join)
)
def test_any_rrule_is_refused_or_fires_soon(text: str) -> None:
    began = time.process_time()

    assert refused(lambda: list(islice(_fires(recurrence(BUCHAREST, rrule=text)), 10))) in (None, ("rrule",))

    assert time.process_time() - began < 3


def test_a_rare_rule_is_found() -> None:
    for text in ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=29;BYDAY=SU", "FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=23"):
        first = recurrence(start="2028-03-01T00:00:00+00:00", rrule=text).first()

    assert first is not None
    assert first.date().month == 2


def test_a_rule_may_be_written_in_small_letters_and_with_its_name() -> None:
    assert recurrence(rrule="rrule:freq=weekly;byday=mo").first() == datetime(2026, 1, 5, tzinfo=UTC)


def test_until_is_read_in_utc() -> None:
    daily_rule = recurrence(NEW_YORK, "2026-01-01T23:00:00+00:00", rrule="FREQ=DAILY;UNTIL=20260103T230000Z")

    assert len(list(daily_rule.after(daily_rule.start - timedelta(seconds=1)))) == 3


@pytest.mark.parametrize(
    "name", ["", "Europe", "Mars/Olympus", "../../etc/passwd", "europe/bucharest ", "UTC\0", "x" * 999]
)
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(BadRecurrence) as refusal:
        zone_named(name)

    assert refusal.value.fields == ("timezone",)


@pytest.mark.parametrize(
    ("end", "rule"),
    [("2025-12-31T00:00:00+00:00", {"interval": 7}), ("2026-01-01T12:00:00+00:00", {"cron": "0 13 * * *"})],
)
def test_an_end_before_the_first_occurrence_is_refused(end: str, rule: dict[str, Any]) -> None:
    with pytest.raises(BadRecurrence) as refusal:
        require_firing(recurrence(end=end, **rule))

    assert refusal.value.fields == ("ends_at",)


def test_occurrences_end_where_the_calendar_ends() -> None:
    seldom: list[dict[str, Any]] = [
        {"every_x_days": 36_525},
        {"interval": 3_155_760_000},
        {"cron": "0 0 29 2 *"},
        {"rrule": "FREQ=YEARLY"},
    ]
    for rule in seldom:
        late = recurrence(NEW_YORK, "8999-12-31T00:00:00+00:00", **rule)

        assert len(list(islice(late.after(late.start), 2_000))) <= 1_001
