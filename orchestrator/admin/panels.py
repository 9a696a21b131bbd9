"""The home page's panels on jobs, kinds and workers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from orchestrator.admin.charts import meter
from orchestrator.admin.figures import ended_chart, held_back, jobs_url, rate_of
from orchestrator.admin.home import Alert, Shown, lately, panel
from orchestrator.diagnostics import liveness
from orchestrator.diagnostics.liveness import LiveWorker
from orchestrator.rollups import reading
from orchestrator.rollups.reading import HOUR, MINUTE, Ended, Failing, KindNow
from orchestrator.shown.words import duration, rough

# A kind whose oldest job waits for longer has its place among what is wrong.
WAITING_LONG_SECONDS = 300


@panel("orchestrator/admin/home/jobs.html", permission="orchestrator.view_job", place=10)
def jobs(request: HttpRequest) -> Shown:
    now = timezone.now()
    ended = lately(request)
    failing = reading.failing(now, ended)
    times = reading.times(now)
    pulse = liveness.pulse()
    workers = liveness.live_workers()
    all_kinds = reading.kinds()
    kinds = _kinds(all_kinds, ended, times, now)
    waits, runs = times[""]
    context = {
        "now": now,
        "figures": {
            "failed": ended.total(MINUTE).failed,
            "failed_day": ended.total(HOUR).failed,
            "waiting": sum(kind["now"].waiting for kind in kinds),
            "oldest": min((kind["now"].oldest_since for kind in kinds if kind["now"].oldest_since), default=None),
            "running": sum(worker.busy for worker in workers),
            "slots": sum(worker.slots for worker in workers if worker.is_claiming),
            "rate": rate_of(ended.charts[MINUTE]),
            "waits": waits,
            "runs": runs,
        },
        "charts": [
            ended_chart(ended.charts[MINUTE], "Last hour, by the minute", "%H:%M"),
            ended_chart(ended.charts[HOUR], "Last day, by the hour", "%H:00"),
        ],
        "failing": failing,
        "kinds": kinds,
        "held_back": held_back(all_kinds),
        "workers": [_worker(worker) for worker in workers],
        "failed_url": jobs_url(status__exact="FAILED", created="day"),
    }
    return Shown(context, [*_stopped(pulse, workers, kinds), *_failing(failing), *_held_up(kinds)], _note(pulse, now))


def _kinds(kinds: Sequence[KindNow], ended: Ended, times: dict[str, Any], now: datetime) -> list[dict[str, Any]]:
    """The kinds of which something waits, runs, or ended within the day."""
    nothing = (reading.NO_TIMES, reading.NO_TIMES)
    shown = []
    for kind in kinds:
        hour, day = ended.by_kind[MINUTE][kind.name], ended.by_kind[HOUR][kind.name]
        if not (kind.waiting or kind.running or hour.ended or day.ended):
            continue
        waits, runs = times.get(kind.name, nothing)
        shown.append(
            {
                "now": kind,
                "waits_long": _seconds(kind.oldest_since, now) > WAITING_LONG_SECONDS,
                "hour": hour,
                "day": day,
                "waits": waits,
                "runs": runs,
                "url": jobs_url(kind=kind.name),
                "failed_url": jobs_url(kind=kind.name, status__exact="FAILED"),
            }
        )
    return shown


def _seconds(since: datetime | None, now: datetime) -> float:
    return (now - since).total_seconds() if since else 0.0


def _worker(worker: LiveWorker) -> dict[str, Any]:
    return {"row": worker, "meter": meter(worker.busy, worker.slots, bad=worker.hung)}


def _stopped(pulse: liveness.Pulse, workers: Sequence[LiveWorker], kinds: Sequence[dict[str, Any]]) -> list[Alert]:
    alerts = []
    queues = {kind["now"].queue for kind in kinds if kind["now"].waiting and kind["now"].queue}
    if pulse.tick_seconds is None or pulse.tick_stopped:
        ago = "has never run" if pulse.tick_seconds is None else f"last ran {rough(pulse.tick_seconds)} ago"
        alerts.append(
            Alert(f"The tick {ago}: nothing is retried, scheduled or counted. Are Beat and control running?")
        )
    url = reverse("admin:orchestrator_worker_changelist")
    alerts += [
        Alert(detail, url)
        for detail in liveness.unserved(workers, dict.fromkeys((*settings.SERVED_QUEUES, *sorted(queues))))
    ]
    if hung := sum(worker.hung for worker in workers):
        alerts.append(Alert(f"{hung:,} {'slot hangs' if hung == 1 else 'slots hang'}: past the job's timeout.", url))
    return alerts


def _note(pulse: liveness.Pulse, now: datetime) -> str:
    if pulse.tick_seconds is None or pulse.counted_until is None:
        return ""
    until = rough((now - pulse.counted_until).total_seconds())
    return f"The tick ran {duration(pulse.tick_seconds)} ago. What ended is counted until {until} ago; times are UTC."


def _failing(failing: Sequence[Failing]) -> list[Alert]:
    return [
        Alert(
            f"{each.kind} keeps failing: {each.hour.failed:,} of {each.hour.ended:,} jobs in the last hour.",
            jobs_url(kind=each.kind, status__exact="FAILED"),
        )
        for each in failing
        if each.keeps_failing
    ]


def _held_up(kinds: Sequence[dict[str, Any]]) -> list[Alert]:
    alerts = []
    for each in kinds:
        kind, url = each["now"], each["url"]
        if not kind.waiting:
            continue
        waiting = "a job waits" if kind.waiting == 1 else f"{kind.waiting:,} jobs wait"
        if kind.paused_at:
            alerts.append(Alert(f"{kind.name} is paused, and {waiting}.", url, is_grave=False))
        elif kind.queue is None:
            alerts.append(Alert(f"No worker knows {kind.name}, and {waiting}.", url))
        elif each["waits_long"]:
            oldest = rough((timezone.now() - kind.oldest_since).total_seconds())
            alerts.append(Alert(f"A job of {kind.name} has waited for {oldest}.", url, is_grave=False))
    return alerts
