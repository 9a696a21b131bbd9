"""What is due of schedules, computed once for all of them that have the same rule."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from scheduler.models import TaskSchedule
from scheduler.recurrence.calendars import DAY, Calendar
from scheduler.recurrence.exceptions import MAX_MOVE
from scheduler.services.calendars import load_calendars

# Occurrences of one schedule that one transaction looks at, one by one.
OCCURRENCES_AT_ONCE = 1_000
# An occurrence is missed if it is later than a tenth of the time to the next one, within these bounds.
MIN_GRACE, MAX_GRACE = timedelta(seconds=3), timedelta(seconds=30)
# How long after its start an occurrence of a cron expression no longer depends on the start, wherever it was moved.
START_FORGOTTEN = MAX_MOVE + 2 * DAY


class Due(NamedTuple):
    """The occurrences that are due of a schedule, at most OCCURRENCES_AT_ONCE, and the one that follows the last of
    them, or now where there is none.
    """

    times: Sequence[datetime]
    following: datetime | None

    @property
    def grace(self) -> timedelta:
        """How late the last one may be without being missed."""
        if self.following is None:
            return MAX_GRACE
        return min(max(MIN_GRACE, (self.following - self.times[-1]) / 10), MAX_GRACE)


class DueTimes:
    """The due occurrences of schedules. Those of a rule are kept for the next schedule that has it, which may have
    begun at another time, while neither time nor calendars have changed them.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Due] = {}
        self._calendars: dict[str, Calendar] = {}

    def load(self, schedules: Sequence[TaskSchedule]) -> None:
        """Reads the calendars of schedules, before what is due of them is computed."""
        calendars = load_calendars(schedules)
        if any(self._calendars.get(name, calendar) != calendar for name, calendar in calendars.items()):
            self._found.clear()
        self._calendars.update(calendars)

    def of(self, schedule: TaskSchedule, now: datetime) -> Due:
        """What is due of the schedule; of so much that not all of it is looked at, only the last one is the last,
        unless all are to run. Raises BadRecurrence where the row is broken.
        """
        key = _what_matters(schedule)
        found = self._found.get(key)
        if found is None or (found.following is not None and found.following <= now):
            found = self._found[key] = _due(schedule, now)
        return found


def _due(schedule: TaskSchedule, now: datetime) -> Due:
    assert schedule.next_run_at
    recurrence = schedule.recurrence
    times, following = recurrence.due(schedule.next_run_at, now, limit=OCCURRENCES_AT_ONCE)
    if len(times) == OCCURRENCES_AT_ONCE and schedule.misfire_policy != TaskSchedule.MisfirePolicy.ALL:
        # So much was missed that only its end is looked for; what lies between is not counted one by one.
        times[-1] = recurrence.latest(now)
        following = recurrence.next_after(times[-1])
    return Due(tuple(times), following)


def _what_matters(schedule: TaskSchedule) -> Hashable:
    """What two schedules have in common of which the same is due. Their calendars are known by name."""
    return (
        schedule.next_run_at,
        schedule.interval,
        schedule.every_x_days,
        schedule.every_x_hours,
        schedule.cron,
        schedule.rrule,
        schedule.timezone,
        _what_matters_of_start(schedule),
        schedule.ends_at,
        str(schedule.exclude),
        str(schedule.include),
        tuple(schedule.calendars),
        schedule.on_closed,
        schedule.misfire_policy == TaskSchedule.MisfirePolicy.ALL,
    )


def _what_matters_of_start(schedule: TaskSchedule) -> Hashable:
    """Nothing for a cron expression that has long begun; where in its step the start is for an interval that has."""
    start, due_at = schedule.scheduled_at, schedule.next_run_at
    assert due_at
    may_move = schedule.calendars and schedule.on_closed != TaskSchedule.OnClosed.SKIP
    if start > (due_at - START_FORGOTTEN if may_move else due_at):
        return start
    if schedule.cron is not None:
        return None
    return start.timestamp() % schedule.interval if schedule.interval else start
