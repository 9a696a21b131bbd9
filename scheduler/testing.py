"""What a test's clock does to schedules. Nothing that runs in production imports it."""

from datetime import datetime

from orchestrator.testing import when_time_passes
from scheduler.services.firing import fire_due, release_queued


@when_time_passes
def fire_schedules(now: datetime) -> None:
    """Fires what is due by the time that the test's clock shows."""
    fire_due(now=now)
    release_queued(now=now)
