"""What ends an attempt that has not failed: it was asked to stop, has lost its job, or asks to run again later."""

from __future__ import annotations

from datetime import timedelta

MAX_SNOOZE_SECONDS = 366 * 86_400


class Stop(BaseException):
    """Ends an attempt at its next checkpoint. Not an Exception, so that `except Exception` does not catch it."""


class Cancelled(Stop):
    """Someone asked for the job to be cancelled."""


class Interrupted(Stop):
    """The worker shuts down; the job goes back to the queue and is charged no attempt."""


class TimedOut(Stop):
    """The attempt took longer than its kind allows."""


class LeaseLost(Stop):
    """The job is no longer this worker's; nothing that this attempt wrote may be kept."""


class RowMoved(LeaseLost):
    """The row is not as the claim left it: the job is another worker's, or its own handler has changed the row."""


class Snooze(Exception):
    """Ends an attempt, which is not charged; the job runs again after so many seconds, in no slot meanwhile.

    seconds: more than 0, at most a year. What the attempt wrote is rolled back, except its finished steps.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds <= MAX_SNOOZE_SECONDS:  # False for NaN, too.
            raise ValueError(f"Snooze takes more than 0 and at most {MAX_SNOOZE_SECONDS:,} seconds, not {seconds!r}.")
        self.delay = timedelta(seconds=seconds)
        super().__init__(f"for {seconds:g} s")
