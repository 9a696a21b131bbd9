"""Time that passes when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import F
from django.utils.module_loading import autodiscover_modules

from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.upkeep import tick

Follow = Callable[[datetime], object]

_followers: list[Follow] = []


def when_time_passes(follow: Follow) -> Follow:
    """Has the function called with the time that a test's clock shows, whenever the test sets it forward.

    For what is due at a time, in the module `testing` of an installed app.
    """
    _followers.append(follow)
    return follow


class Clock:
    """PostgreSQL's clock, and how far a test has set it forward.

    PostgreSQL's own clock decides and cannot be set, so instead of the clock the times that jobs wait for are moved.
    """

    def __init__(self) -> None:
        self.travelled = timedelta(0)
        autodiscover_modules("testing")

    def now(self) -> datetime:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            [now] = cursor.fetchone()
        shown: datetime = now + self.travelled
        return shown

    def travel(self, seconds: float) -> None:
        """Lets the time pass: jobs start so much earlier, whether they wait for a start time or for a retry, and
        schedules fire what is due by then.
        """
        if not seconds > 0:
            raise ValueError(f"travel() takes seconds above 0, not {seconds!r}: time does not run backwards.")
        passed = timedelta(seconds=seconds)
        self.travelled += passed
        waiting = Job.objects.filter(status=Status.CREATED)
        waiting.update(run_at=F("run_at") - passed, rank=F("rank") - passed)
        tick.make_due_ready()
        now = self.now()
        for follow in _followers:
            follow(now)
