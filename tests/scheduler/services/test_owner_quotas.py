"""Schedules of owners who have as many unfinished jobs, or as much stored for them, as clients may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from orchestrator import kinds, stored_bytes
from orchestrator.kinds import job
from orchestrator.models import Job
from orchestrator.owner_quotas import left_in_kind
from orchestrator.queue import kind_limits
from orchestrator.running import RunningJob
from orchestrator.states import Status
from scheduler.models import TaskSchedule
from scheduler.services.firing import SCHEDULES_A_PASS, fire_due, release_queued
from tests.factories import make_job, make_user
from tests.moves import put
from tests.scheduler.factories import MINUTE, MONDAY, SECOND, again, end, make_job_schedule, make_schedule, occurrences

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens", "measures_anew")]

MANY = """
INSERT INTO scheduler_taskschedule (
    id, kind, payload, owner, scheduled_at, interval, misfire_policy, overlap, enabled, next_run_at
)
SELECT gen_random_uuid(), 'demo.slices', '{"slices": 1}', 'owner ' || n %% %(owners)s, %(at)s, 3600, 'latest', 'allow',
       true, %(at)s
FROM generate_series(1, %(count)s) AS n
"""
# It is stored uncompressed.
LONG = "".join(chr(33 + place * 7919 % 90) for place in range(1_000))


@pytest.fixture
def limit(settings: Settings) -> Callable[..., None]:
    def limited(**values: Any) -> None:
        settings.ENV = msgspec.structs.replace(settings.ENV, **values)

    return limited


@pytest.fixture
def declared() -> Iterator[None]:
    """A kind of which an owner may have two unfinished jobs, and one of any payload."""

    @job("capped.kind", max_unfinished_per_owner=2)
    def capped(job: RunningJob) -> None:
        pass

    @job("texts.kind", payload=dict[str, Any])
    def texts(job: RunningJob, payload: dict[str, Any]) -> None:
        pass

    yield
    for name in ("capped.kind", "texts.kind"):
        kinds.forget_kind(name)


@pytest.fixture
def full(limit: Callable[..., None]) -> None:
    """The client ada has the one unfinished job that a client may have."""
    limit(CLIENT_MAX_UNFINISHED=1)
    make_user("ada")
    make_job(owner="ada")


def finish_one() -> None:
    """Ada's oldest job ends, as if a worker had run it."""
    oldest = Job.objects.filter(owner="ada", status=Status.CREATED).order_by("id").values_list("id", flat=True)[:1]
    put(Job.objects.filter(id=oldest.get()), status="COMPLETED", ready=False, finished_at=MONDAY)


def times(schedule: TaskSchedule) -> list[datetime | None]:
    """The occurrences that became jobs."""
    return list(Job.objects.filter(schedule_id=schedule.id).order_by("id").values_list("scheduled_for", flat=True))


def minutes(*numbers: int) -> list[Any]:
    return [MONDAY + number * MINUTE for number in numbers]


def version(schedule: TaskSchedule) -> str:
    """Another one whenever its row is written."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT ctid::text FROM scheduler_taskschedule WHERE id = %s", [schedule.id])
        return str(cursor.fetchone()[0])


# What becomes of what is held back


def test_an_occurrence_waits_while_its_owner_has_as_many_unfinished_jobs_as_a_client_may(full: None) -> None:
    schedule = make_job_schedule(owner="ada")

    assert fire_due(now=MONDAY) == 0

    seen = again(schedule)
    assert (times(schedule), seen.queued, seen.held_since) == ([], minutes(0), MONDAY)
    assert (seen.run_count, seen.missed_count, seen.next_run_at) == (0, 0, MONDAY + MINUTE)
    assert seen.last_error == f"{MONDAY} waits: 'ada' has as many unfinished jobs as allowed."


def test_it_starts_by_itself_once_there_is_room(full: None) -> None:
    schedule = make_job_schedule(owner="ada")
    fire_due(now=MONDAY)
    assert release_queued(now=MONDAY + SECOND) == 0
    assert again(schedule).held_since == MONDAY

    finish_one()

    assert release_queued(now=MONDAY + 2 * SECOND) == 1
    seen = again(schedule)
    assert (times(schedule), seen.queued, seen.run_count) == (minutes(0), [], 1)
    assert (seen.held_since, seen.last_error, seen.missed_count) == (None, "", 0)


def test_of_what_was_held_back_only_the_latest_runs_unless_all_are_to(full: None) -> None:
    latest, every = make_job_schedule(owner="ada"), make_job_schedule(owner="ada", misfire_policy="all")
    for minute in range(3):
        fire_due(now=MONDAY + minute * MINUTE)

    assert (again(latest).queued, again(latest).missed_count) == (minutes(2), 2)
    assert (again(every).queued, again(every).missed_count) == (minutes(0, 1, 2), 0)
    assert (again(latest).held_since, again(every).held_since) == (MONDAY, MONDAY)


def test_where_the_next_one_is_due_when_there_is_room_it_is_the_latest(full: None) -> None:
    schedule = make_job_schedule(owner="ada")
    fire_due(now=MONDAY)
    finish_one()

    fire_due(now=MONDAY + MINUTE)

    seen = again(schedule)
    assert (times(schedule), seen.queued, seen.run_count, seen.missed_count) == (minutes(1), [], 1, 1)


def test_all_that_was_held_back_runs_in_its_order_as_there_is_room(full: None) -> None:
    schedule = make_job_schedule(owner="ada", misfire_policy="all")
    fire_due(now=MONDAY + 2 * MINUTE)

    for _ in range(3):
        finish_one()
        release_queued()

    assert times(schedule) == minutes(0, 1, 2)
    assert (again(schedule).run_count, again(schedule).missed_count, again(schedule).held_since) == (3, 0, None)


def test_what_is_late_is_missed_at_once_where_nothing_late_is_to_run(full: None) -> None:
    schedule = make_job_schedule(owner="ada", misfire_policy="skip")

    fire_due(now=MONDAY)

    seen = again(schedule)
    assert (seen.queued, seen.missed_count, seen.held_since) == ([], 1, MONDAY)
    assert "was missed: 'ada' has as many" in seen.last_error

    finish_one()
    fire_due(now=MONDAY + MINUTE)
    assert (times(schedule), again(schedule).held_since, again(schedule).last_error) == (minutes(1), None, "")


def test_a_queue_keeps_what_waits_for_its_owner_as_it_does_for_earlier_jobs(full: None) -> None:
    schedule = make_job_schedule(owner="ada", overlap="queue")
    for minute in range(2):
        fire_due(now=MONDAY + minute * MINUTE)
    assert again(schedule).queued == minutes(0, 1)

    finish_one()
    assert release_queued() == 1

    # Now the second waits for the first, whatever else the owner has.
    seen = again(schedule)
    assert (times(schedule), seen.queued, seen.held_since, seen.last_error) == (minutes(0), minutes(1), None, "")


def test_cancel_running_keeps_only_as_many_as_may_run(full: None) -> None:
    schedule = make_job_schedule(owner="ada", overlap="cancel_running")
    for minute in range(2):
        fire_due(now=MONDAY + minute * MINUTE)

    assert (again(schedule).queued, again(schedule).missed_count) == (minutes(1), 1)


def test_as_many_run_as_there_is_room_for(limit: Callable[..., None]) -> None:
    limit(CLIENT_MAX_UNFINISHED=3)
    make_user("ada")
    make_job(owner="ada")
    schedule = make_job_schedule(owner="ada", misfire_policy="all")

    assert fire_due(now=MONDAY + 4 * MINUTE) == 2

    assert (times(schedule), again(schedule).queued) == (minutes(0, 1), minutes(2, 3, 4))


def test_schedules_of_one_owner_share_the_room(limit: Callable[..., None]) -> None:
    limit(CLIENT_MAX_UNFINISHED=3)
    make_user("ada")
    for _ in range(5):
        make_job_schedule(owner="ada")

    assert fire_due(now=MONDAY) == 3
    assert fire_due(now=MONDAY + MINUTE) == 0


def test_tasks_are_held_back_as_jobs_are(full: None) -> None:
    schedule = make_schedule(owner="ada")

    fire_due(now=MONDAY)

    assert (occurrences(schedule), again(schedule).queued) == ([], minutes(0))
    end()
    release_queued()
    assert occurrences(schedule) == minutes(0)


def test_what_is_stored_for_unfinished_jobs_is_limited_too(limit: Callable[..., None], declared: None) -> None:
    limit(CLIENT_MAX_STORED_BYTES=2_500)
    make_user("ada")
    schedule = make_job_schedule(owner="ada", kind="texts.kind", payload={"text": LONG}, misfire_policy="all")

    fire_due(now=MONDAY + 2 * MINUTE)

    assert (times(schedule), again(schedule).queued) == (minutes(0, 1), minutes(2))
    assert "as many bytes stored" in again(schedule).last_error
    stored_bytes.forget()
    assert release_queued() == 0
    finish_one()
    stored_bytes.forget()
    assert release_queued() == 1


def test_what_is_more_than_the_bytes_that_are_left_is_not_tried_each_second(
    limit: Callable[..., None], declared: None
) -> None:
    limit(CLIENT_MAX_STORED_BYTES=1_100)
    make_user("ada")
    texts: dict[str, Any] = {"owner": "ada", "kind": "texts.kind"}
    first, large = (make_job_schedule(**texts, payload={"text": LONG}) for _ in range(2))
    small = make_job_schedule(**texts, payload={"text": "ä"})
    fire_due(now=MONDAY)
    assert [len(times(each)) for each in (first, large, small)] == [1, 0, 1]
    stored_bytes.forget()
    before = version(large)

    assert release_queued() == 0

    assert version(large) == before


def test_one_that_has_come_to_its_end_still_runs_what_waits(full: None) -> None:
    schedule = make_job_schedule(owner="ada", schedule_x_times=1)
    fire_due(now=MONDAY)
    assert (again(schedule).next_run_at, again(schedule).queued) == (None, minutes(0))

    finish_one()

    assert release_queued() == 1


def test_one_that_has_missed_its_end_is_not_held_back_for_ever(full: None) -> None:
    schedule = make_job_schedule(owner="ada", misfire_policy="skip", ends_at=MONDAY + 30 * SECOND)

    fire_due(now=MONDAY)

    assert (again(schedule).next_run_at, again(schedule).held_since, again(schedule).missed_count) == (None, None, 1)


# A kind's own limit


@pytest.mark.parametrize("owner", ["ada", ""])
def test_a_limit_of_the_kind_holds_back_too_and_whoever_the_owner_is(declared: None, owner: str) -> None:
    schedule = make_job_schedule(kind="capped.kind", payload={}, owner=owner, misfire_policy="all")

    fire_due(now=MONDAY + 3 * MINUTE)

    seen = again(schedule)
    assert (times(schedule), seen.queued) == (minutes(0, 1), minutes(2, 3))
    assert f"{owner!r} has as many unfinished jobs of kind 'capped.kind' as allowed" in seen.last_error
    assert left_in_kind(kinds.kind_named("capped.kind"), [owner]) == {owner: 0}
    assert release_queued() == 0
    put(Job.objects.filter(schedule_id=schedule.id), status="COMPLETED", ready=False, finished_at=MONDAY)
    assert release_queued() == 2


def test_one_who_submits_at_the_same_moment_makes_it_wait_too(declared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked as if there was room."""
    monkeypatch.setattr("scheduler.services.owner_quotas.left_in_kind", lambda kind, owners: dict.fromkeys(owners, 9))
    schedule = make_job_schedule(kind="capped.kind", payload={}, owner="ada", misfire_policy="all")

    fire_due(now=MONDAY + 2 * MINUTE)

    assert (times(schedule), again(schedule).queued) == (minutes(0, 1), minutes(2))
    assert again(schedule).held_since == MONDAY + 2 * MINUTE


# Whom it holds for


def permit(owner: str) -> None:
    make_user(owner).user_permissions.set(Permission.objects.filter(codename="exceed_client_limits"))


def permit_group(owner: str) -> None:
    group = Group.objects.create(name="pipelines")
    group.permissions.set(Permission.objects.filter(codename="exceed_client_limits"))
    make_user(owner).groups.set([group])


@pytest.mark.parametrize(
    "make_owner", [permit, permit_group, partial(make_user, is_superuser=True), lambda owner: None]
)
def test_who_may_exceed_the_limits_is_not_held_back_nor_is_an_owner_that_is_no_user(
    limit: Callable[..., None], make_owner: Callable[[str], object]
) -> None:
    limit(CLIENT_MAX_UNFINISHED=1)
    make_owner("grace")
    make_job(owner="grace")
    schedule = make_job_schedule(owner="grace")

    fire_due(now=MONDAY)

    assert times(schedule) == minutes(0)


@pytest.mark.parametrize(("owner", "requires_auth"), [("", True), ("ada", False)])
def test_nobody_is_where_everybody_may_do_everything_nor_what_has_no_owner(
    full: None, limit: Callable[..., None], owner: str, requires_auth: bool
) -> None:
    limit(REQUIRE_AUTH=requires_auth)
    schedule = make_job_schedule(owner=owner)

    fire_due(now=MONDAY)

    assert times(schedule) == minutes(0)


def test_whose_user_is_gone_or_may_not_log_in_is_held_back(limit: Callable[..., None]) -> None:
    limit(CLIENT_MAX_UNFINISHED=1)
    permit("grace")
    make_user("grace2", is_superuser=True, is_active=False)
    make_user("ada").delete()
    schedules = [make_job_schedule(owner=owner) for owner in ("ada", "grace", "grace2")]
    for schedule in schedules:
        make_job(owner=schedule.owner)

    fire_due(now=MONDAY)

    assert [times(schedule) for schedule in schedules] == [[], minutes(0), []]


def test_children_are_not_counted(limit: Callable[..., None]) -> None:
    limit(CLIENT_MAX_UNFINISHED=2)
    make_user("ada")
    parent = make_job(owner="ada")
    make_job(owner="ada", parent=parent, name="child")
    schedule = make_job_schedule(owner="ada")

    fire_due(now=MONDAY)

    assert times(schedule) == minutes(0)


# Others


def test_schedules_of_others_fire_in_the_same_tick(full: None) -> None:
    make_user("ben")
    held, other, nobodys = make_job_schedule(owner="ada"), make_job_schedule(owner="ben"), make_job_schedule()

    assert fire_due(now=MONDAY) == 2

    assert [times(each) for each in (held, other, nobodys)] == [[], minutes(0), minutes(0)]


def make_many(count: int, *, owners: int = 1) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY, {"count": count, "owners": owners, "at": MONDAY})


def statements(do: Callable[[], object]) -> int:
    with CaptureQueriesContext(connection) as captured:
        do()
    return len(captured.captured_queries)


def test_a_thousand_due_schedules_of_owners_at_their_limit_take_as_many_statements_as_one(
    limit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stored_bytes, kind_limits):
        monkeypatch.setattr(module, "KNOWN_SECONDS", 600)
    limit(CLIENT_MAX_UNFINISHED=1)
    for number in range(3):
        make_user(f"owner {number}")
        make_job(owner=f"owner {number}")
    nothing = statements(lambda: fire_due(now=MONDAY))
    make_many(1)
    for_one = statements(lambda: fire_due(now=MONDAY)) - nothing
    to_release = statements(lambda: release_queued(now=MONDAY))

    make_many(2 * SCHEDULES_A_PASS, owners=3)
    for_many = statements(lambda: fire_due(now=MONDAY)) - nothing

    assert for_many <= 2 * for_one
    assert TaskSchedule.objects.filter(held_since=MONDAY).count() == 2 * SCHEDULES_A_PASS + 1
    assert statements(lambda: release_queued(now=MONDAY)) == to_release


def test_a_pass_full_of_schedules_that_are_held_back_keeps_no_other_from_what_it_waits_for(
    limit: Callable[..., None],
) -> None:
    limit(CLIENT_MAX_UNFINISHED=1)
    for name in ("owner 0", "ben"):
        make_user(name)
        make_job(owner=name)
    make_many(SCHEDULES_A_PASS)
    fire_due(now=MONDAY)
    later = make_job_schedule(MONDAY + MINUTE, owner="ben")
    fire_due(now=MONDAY + MINUTE)
    put(Job.objects.filter(owner="ben"), status="COMPLETED", ready=False, finished_at=MONDAY)

    assert release_queued(now=MONDAY + MINUTE) == 1
    assert times(later) == minutes(1)


def test_what_has_waited_longest_goes_first(full: None) -> None:
    often, once = make_job_schedule(owner="ada"), make_job_schedule(owner="ada", schedule_x_times=1)
    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)
    finish_one()

    release_queued(now=MONDAY + MINUTE)

    assert (times(once), times(often)) == (minutes(0), [])
