"""A great many schedules with calendars that are due at once: how long it takes to submit their jobs."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing

from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import connect, migrated, muster_environment, require, run, value

# Every rule is that of so many schedules, which began at different times.
RULES = {"one rule": 1, "a thousand rules": 1_000}
MAKE = """
INSERT INTO scheduler_calendar (name, country, weekdays, hours, closed_days, open_days)
VALUES ('holidays', 'DE', '[]', '[]', '[]', '["2020-01-01/2090-12-31"]'),
       ('office', '', '["MO", "TU", "WE", "TH", "FR", "SA", "SU"]', '["00:00-24:00"]', '[]', '[]');
INSERT INTO scheduler_taskschedule (
    id, kind, payload, owner, scheduled_at, cron, timezone, calendars, misfire_policy, overlap, enabled, next_run_at
)
SELECT gen_random_uuid(), 'bench.step', '{}', 'owner ' || n %% 1000,
       date_trunc('day', statement_timestamp()) - interval '60 days' - n * interval '1 second',
       n %% %(rules)s %% 60 || ' ' || n %% %(rules)s / 60 || ' * * *', 'Europe/Berlin', '{holidays,office}', 'latest',
       'allow', true, date_trunc('minute', statement_timestamp()) - interval '1 day'
FROM generate_series(1, %(schedules)s) AS n;
ANALYZE scheduler_taskschedule
"""
MAX_SECONDS = 20


@benchmark("schedules", "50,000 schedules with calendars that are due at once")
def schedules(bench: Bench) -> Iterator[Finding]:
    count, rounds = bench.size(50_000, 500), bench.size(3, 1)
    for name, rules in RULES.items():
        found = [fire(bench, f"muster_schedules_{rules}_{number}", count, rules) for number in range(rounds)]
        yield Finding(
            what=f"{count:,} schedules with {name}: until the jobs of all are submitted",
            value=statistics.median(found),
            unit="s",
            target=MAX_SECONDS,
            at_most=True,
            note="Daily cron expressions that have been due within the last day, two calendars each, on one process.",
        )


def fire(bench: Bench, name: str, count: int, rules: int) -> float:
    """Seconds."""
    url = bench.servers.fresh(name, migrated(bench.servers))
    with closing(connect(url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(MAKE, {"rules": rules, "schedules": count})
        bench.servers.execute("postgres", "CHECKPOINT")
        command = [sys.executable, "-m", "benchmarks.probe", "fire_schedules"]
        seconds = float(json.loads(run(command, muster_environment(bench.servers, url)))["seconds"])
        jobs = value(connection, "SELECT count(DISTINCT schedule_id) FROM orchestrator_job")
        require(jobs == count, f"{jobs} of {count} schedules have submitted a job.")
    bench.say(f"{name}: {seconds:.1f} s")
    return seconds
