"""What can be done with schedules: create, change, pause, run and delete them, and tell their next runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from access import audit
from orchestrator import submission
from orchestrator.queue import ends
from scheduler.models import TaskSchedule
from scheduler.recurrence.exceptions import MAX_CALENDARS, Event
from scheduler.recurrence.rules import MICROSECOND, BadRecurrence, Recurrence, require_firing
from scheduler.services.calendars import lock_calendars
from scheduler.services.occurrences import Occurrence, database_now, job_of, next_occurrence, task_of
from scheduler.services.tasks import create_tasks
from scheduler.services.work import WORK, check_work

MAX_TIMES = 2**31 - 1
# Past occurrences that one request may make tasks of: by a start that long ago, or by a backfill.
MAX_MISSED = 10_000
# Occurrences that are left out, of those that a preview shows.
MAX_SKIPPED_SHOWN = 100
MAX_RUNNING, MAX_JITTER_SECONDS = 10_000, 86_400

# What an edit can change so that its occurrences are others.
RULES = {"interval", "every_x_days", "every_x_hours", "cron", "rrule", "timezone", "scheduled_at"}
TIMES = RULES | {"exclude", "include", "calendars", "on_closed"}
# What the audit trail keeps of a whole schedule.
AUDITED = (
    "owner", "name", "kind", "payload", "a", "b", *sorted(TIMES), "ends_at", "schedule_x_times", "misfire_policy",
    "overlap", "max_running", "jitter_seconds", "on_failure", "enabled",
)  # fmt: skip


class DeclaredInCode(Exception):
    """The schedule is declared in code, so it would come back with the next deploy."""

    def __init__(self, schedule: TaskSchedule) -> None:
        super().__init__(f"{schedule.name!r} is declared in code: pause it, or remove the declaration first.")


def create_schedule(schedule: TaskSchedule, *, trusted: bool = False) -> None:
    """Writes a new schedule with its first occurrence and its PeriodicTask. If it is to start before now, or has no
    start, which means now, its misfire policy says what becomes of what it has missed.

    Raises BadRecurrence for one that would never fire, or that says something that cannot be, and as `check_work`
    does.
    """
    schedule.scheduled_at = (schedule.scheduled_at or database_now()).replace(microsecond=0)
    check_work(schedule, trusted=trusted)
    check_notifications(schedule)
    with transaction.atomic(), _refusing_taken_names(schedule):
        lock_calendars(schedule.calendars)
        recurrence = checked(schedule)
        schedule.next_run_at = recurrence.first() if schedule.enabled else None
        schedule.schedule_celery_beat_task()
        schedule.save(force_insert=True)
        audit.record("schedule.create", schedule.id, schedule, after=_audited(schedule))
    schedule.refresh_from_db()


def change_schedule(schedule_id: UUID, changes: Mapping[str, Any], *, trusted: bool = False) -> TaskSchedule:
    """Changes some columns of a schedule. Its row is locked, so that nobody fires it meanwhile.

    A schedule whose times changed, that was resumed, or that had come to its end goes on from now: what it missed by
    its old times is not made up for. Otherwise its next occurrence stays what it was.

    Raises TaskSchedule.DoesNotExist, or as `create_schedule` does; then nothing was written.
    """
    with transaction.atomic():
        schedule = locked_schedule(schedule_id)
        with _refusing_taken_names(schedule):
            return _changed(schedule, changes, trusted)


def _changed(schedule: TaskSchedule, changes: Mapping[str, Any], trusted: bool) -> TaskSchedule:
    before = {name: getattr(schedule, name) for name in changes}
    changed = {name for name, value in changes.items() if before[name] != value}
    for name in changed:
        setattr(schedule, name, changes[name])
    if "scheduled_at" in changed:
        schedule.scheduled_at = schedule.scheduled_at.replace(microsecond=0)
    if changed & WORK:
        check_work(schedule, trusted=trusted)
    if "on_failure" in changed:
        check_notifications(schedule)
    # Otherwise it is only paused, which a broken schedule can be too.
    lock_calendars(schedule.calendars)
    if changed - {"enabled", "declared"} or schedule.enabled:
        _settle(schedule, begins_anew=bool(changed & TIMES))
    if not schedule.enabled:
        schedule.next_run_at = None
    schedule.updated_at = Now()
    schedule.update_celery_beat_task()
    schedule.save()
    if changed:
        values = audit.changes(before, {name: getattr(schedule, name) for name in changed})
        action = _audited_action(schedule, changed)
        audit.record(action, schedule.id, schedule, before=values["before"], after=values["after"])
    return TaskSchedule.objects.get(id=schedule.id)


def set_enabled(schedule_id: UUID, enabled: bool) -> TaskSchedule:
    """Pauses a schedule, or resumes it with its next occurrence. Raises as `change_schedule` does."""
    return change_schedule(schedule_id, {"enabled": enabled})


def delete_schedule(schedule_id: UUID) -> None:
    """Deletes a schedule and its PeriodicTask; its tasks stay, and what is waiting still runs.

    Raises TaskSchedule.DoesNotExist, or DeclaredInCode.
    """
    with transaction.atomic():
        schedule = locked_schedule(schedule_id)
        if schedule.declared is not None and not schedule.declared.get("removed"):
            raise DeclaredInCode(schedule)
        audit.record("schedule.delete", schedule_id, schedule, before=_audited(schedule))
        schedule.delete_celery_beat_task()
        schedule.delete()


def run_now(schedule_id: UUID) -> UUID:
    """Makes a task or a job of the schedule at once, outside its recurrence, its count and its overlap policy; returns
    the id of that.

    Raises TaskSchedule.DoesNotExist, or as `submission.submit` does.
    """
    schedule = TaskSchedule.objects.get(id=schedule_id)
    now = database_now()
    with transaction.atomic():
        audit.record("schedule.run", schedule_id, schedule)
        occurrence = Occurrence(schedule, None)
        if schedule.adds:
            return create_tasks([task_of(occurrence, now)])[0]
        job = job_of(occurrence, now)
        return submission.submit(
            schedule.kind, job.payload, owner=job.owner, priority=job.priority, occurrence=job.occurrence
        ).id


def checked(schedule: TaskSchedule) -> Recurrence:
    """The schedule's recurrence; raises BadRecurrence for a schedule that could not do what it says."""
    times = schedule.schedule_x_times
    if times is not None and not 1 <= times <= MAX_TIMES:
        raise BadRecurrence("schedule_x_times", f"Must be 1 to {MAX_TIMES:,}, not {times:,}.")
    if times is not None and times < schedule.run_count:
        raise BadRecurrence("schedule_x_times", f"It has already run {schedule.run_count:,} times.")
    _check_overlap(schedule)
    if len(schedule.calendars) > MAX_CALENDARS:
        raise BadRecurrence("calendars", f"At most {MAX_CALENDARS}, not {len(schedule.calendars):,}.")
    recurrence = schedule.recurrence
    require_firing(recurrence)
    if schedule._state.adding:
        _require_few_missed(schedule, recurrence)
    return recurrence


def check_notifications(schedule: TaskSchedule) -> None:
    """Raises BadRecurrence for the first of its notifications that there is not, or for too many."""
    named = schedule.on_failure
    if len(named) > submission.MAX_NOTIFY:
        raise BadRecurrence("on_failure", f"At most {submission.MAX_NOTIFY}, not {len(named):,}.")
    for unknown in ends.unknown_among(named) if named else ():
        raise BadRecurrence(f"on_failure/{named.index(unknown)}", f"There is no notification {unknown}.")


def _check_overlap(schedule: TaskSchedule) -> None:
    if not 1 <= schedule.max_running <= MAX_RUNNING:
        raise BadRecurrence("max_running", f"Must be 1 to {MAX_RUNNING:,}, not {schedule.max_running:,}.")
    if schedule.overlap == TaskSchedule.Overlap.ALLOW and schedule.max_running != 1:
        raise BadRecurrence("max_running", "overlap=allow has no limit; use skip, queue or cancel_running.")
    if not 0 <= schedule.jitter_seconds <= MAX_JITTER_SECONDS:
        raise BadRecurrence(
            "jitter_seconds", f"Must be 0 to {MAX_JITTER_SECONDS:,} (a day), not {schedule.jitter_seconds:,}."
        )


def next_runs(schedule: TaskSchedule, count: int) -> list[datetime]:
    """When the schedule will run next, as `next_events` says."""
    return [event.at for event in next_events(schedule, count) if not event.reason]


def next_events(schedule: TaskSchedule, count: int) -> list[Event]:
    """When the schedule will run next or, while it is paused, would if it were resumed now, that often; and what is
    skipped until then, at most MAX_SKIPPED_SHOWN of it. One that is not saved yet is read as `create_schedule` would,
    which settles its start.

    Raises BadRecurrence for a schedule that could not do what it says.
    """
    now = database_now()
    begin = now
    if schedule._state.adding:
        schedule.scheduled_at = (schedule.scheduled_at or now).replace(microsecond=0)
        if schedule.scheduled_at >= now.replace(microsecond=0):
            begin = schedule.scheduled_at - MICROSECOND
    elif schedule.enabled:
        if schedule.next_run_at is None:
            return []
        begin = schedule.next_run_at - MICROSECOND
    recurrence = checked(schedule)
    if schedule.schedule_x_times is not None:
        count = min(count, schedule.schedule_x_times - schedule.run_count - len(schedule.queued))
    return _first_events(recurrence, begin, count)


def _first_events(recurrence: Recurrence, begin: datetime, count: int) -> list[Event]:
    found: list[Event] = []
    runs = skipped = 0
    for event in recurrence.events(begin):
        if runs >= count:
            break
        runs += not event.reason
        skipped += bool(event.reason)
        if not event.reason or skipped <= MAX_SKIPPED_SHOWN:
            found.append(event)
    return found


@contextmanager
def _refusing_taken_names(schedule: TaskSchedule) -> Iterator[None]:
    """Raises BadRecurrence where the database says that its owner has a schedule of that name; with that, the
    transaction is lost.
    """
    try:
        yield
    except IntegrityError as error:
        if "schedule_name_is_its_owners_only" not in str(error):
            raise
        owner = f"{schedule.owner!r} has" if schedule.owner else "There is"
        raise BadRecurrence("name", f"{owner} a schedule called {schedule.name!r} already.") from None


def _audited(schedule: TaskSchedule) -> dict[str, Any]:
    return {name: value for name in AUDITED if (value := getattr(schedule, name)) not in (None, "", [])}


def _audited_action(schedule: TaskSchedule, changed: set[str]) -> str:
    if changed != {"enabled"}:
        return "schedule.change"
    return "schedule.resume" if schedule.enabled else "schedule.pause"


def locked_schedule(schedule_id: UUID) -> TaskSchedule:
    return TaskSchedule.objects.select_for_update(no_key=True).get(id=schedule_id)


def _settle(schedule: TaskSchedule, *, begins_anew: bool) -> None:
    """Checks a changed schedule and gives it its next occurrence: the one it had, if it had one and still has."""
    recurrence = checked(schedule)
    after = schedule.next_run_at and schedule.next_run_at - MICROSECOND
    if begins_anew or after is None:
        after = database_now()
    schedule.next_run_at = next_occurrence(schedule, recurrence, after)
    schedule.last_error = ""


def _require_few_missed(schedule: TaskSchedule, recurrence: Recurrence) -> None:
    if schedule.misfire_policy != TaskSchedule.MisfirePolicy.ALL:
        return
    if len(recurrence.between(recurrence.start, database_now(), limit=MAX_MISSED + 1)) > MAX_MISSED:
        raise BadRecurrence(
            "scheduled_at",
            f"More than {MAX_MISSED:,} occurrences since then would run at once; start later, or use misfire_policy "
            "latest or skip.",
        )
