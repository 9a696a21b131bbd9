"""Retention: what is pruned when, what goes with it, and that nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import count, pairwise
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone
from knox.models import AuthToken
from pytest_django import Settings

from config.environment_variables import read_environment
from orchestrator.models import Attempt, Dependency, Job, Kind, Upkeep
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.submission import NotRetryable, retry, submit, submit_many
from orchestrator.upkeep import retention, tick
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, api
from tests.factories import make_attempt, make_job
from tests.moves import put
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, MakeWorker, lease, run, threads

__all__ = ["api"]

pytestmark = pytest.mark.django_db
threaded = pytest.mark.django_db(transaction=True)

KIND = "demo.slices"

Keep = Callable[..., None]


@pytest.fixture(autouse=True)
def keep(settings: Settings) -> Keep:
    """Sets how many days jobs are kept: 30 at first, and other times for some kinds."""

    def set_days(days: float, **by_kind: float) -> None:
        settings.ENV = msgspec.structs.replace(settings.ENV, RETENTION_DAYS=days)
        settings.RETENTION_DAYS_BY_KIND = {name.replace("__", "."): days for name, days in by_kind.items()}

    set_days(30)
    return set_days


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is pruned at once, however busy the machine."""
    monkeypatch.setattr(retention, "PRUNING_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_JOBS", 2)
    monkeypatch.setattr(retention, "MAX_ROWS", 3)


def ended(days_ago: float, status: Status = Status.COMPLETED, **columns: Any) -> Job:
    return make_job(status, finished_at=timezone.now() - timedelta(days=days_ago), **columns)


def ended_pipeline(days_ago: float, children: int, status: Status = Status.COMPLETED) -> Job:
    """Of a row of children, each after the one before."""
    parent = ended(days_ago, status)
    steps = [ended(days_ago, name=f"step {n}", parent=parent) for n in range(children)]
    for before, after in pairwise(steps):
        Dependency.objects.create(job=after, depends_on=before)
    return parent


def left() -> set[Any]:
    return set(Job.objects.values_list("id", flat=True))


# What is pruned when


@pytest.mark.parametrize("status", FINAL)
def test_a_finished_job_is_kept_for_thirty_days(status: Status) -> None:
    ended(30.01, status)
    young = ended(29.99, status)

    retention.prune()

    assert left() == {young.id}


@pytest.mark.parametrize("status", UNFINISHED)
def test_a_job_that_has_not_ended_is_kept_however_old(status: Status) -> None:
    old = make_job(status, created_at=timezone.now() - timedelta(days=1_000))

    retention.prune()

    assert left() == {old.id}


def test_a_kind_says_for_itself_how_long_its_jobs_are_kept(kind: DeclareKind) -> None:
    brief, endless = kind(keep_days=0.5), kind(keep_days=0)
    ended(0.6, kind=brief.name)
    kept = ended(0.4, kind=brief.name), ended(10_000, kind=endless.name)

    retention.prune()

    assert left() == {job.id for job in kept}


def test_the_settings_override_a_kinds_retention(kind: DeclareKind, keep: Keep) -> None:
    keep(1, **{kind(keep_days=0.5).name: 3, KIND: 0})
    spoken_for = next(iter(settings.RETENTION_DAYS_BY_KIND))
    ended(4, kind=spoken_for)
    kept = ended(2, kind=spoken_for), ended(10_000)

    retention.prune()

    assert left() == {job.id for job in kept}


def test_with_zero_days_everything_is_kept(keep: Keep) -> None:
    keep(0)
    old = ended(10_000)

    retention.prune()

    assert left() == {old.id}


def test_jobs_of_a_kind_that_no_release_knows_any_more_are_pruned_too() -> None:
    Kind.objects.create(name="gone.kind", queue="default")
    ended(31, kind="gone.kind")

    retention.prune()

    assert left() == set()


def test_the_retention_of_a_kind_that_only_other_processes_know_applies() -> None:
    Kind.objects.create(name="next.endless", queue="default", keep_days=0)
    Kind.objects.create(name="next.brief", queue="default", keep_days=1)
    kept = ended(10_000, kind="next.endless")
    ended(2, kind="next.brief")

    retention.prune()

    assert left() == {kept.id}


@threaded
def test_workers_report_how_long_their_kinds_want_to_be_kept(kind: DeclareKind, make_worker: MakeWorker) -> None:
    brief, usual = kind(keep_days=1.5), kind()

    make_worker()

    reported = dict(Kind.objects.values_list("name", "keep_days"))
    assert (reported[brief.name], reported[usual.name]) == (1.5, None)


def test_a_pruned_job_is_not_found(api: Api) -> None:
    job = ended(31)
    assert api.get(f"/jobs/{job.id}").status_code == 200

    retention.prune()

    assert api.get(f"/jobs/{job.id}").status_code == 404


@pytest.mark.parametrize(
    "given", ["scheduler.add", "scheduler.add=", "=3", "scheduler.add=-1", "demo.slices=1.2.3", "a.b=1;c.d=2"]
)
def test_days_by_kind_that_cannot_be_read_refuse_to_boot(given: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="RETENTION_DAYS_BY_KIND"):
        read_environment({"SECRET_KEY": "x" * 32, "RETENTION_DAYS_BY_KIND": given})


@pytest.mark.parametrize("given", ["", "scheduler.add=2", "scheduler.add=0.5,demo.slices=0"])
def test_days_by_kind_are_pairs_with_commas_between(given: str) -> None:
    assert read_environment({"SECRET_KEY": "x" * 32, "RETENTION_DAYS_BY_KIND": given})


def test_the_checks_report_an_unknown_kind(keep: Keep) -> None:
    keep(30, **{"demo__slice": 1, KIND: 2})

    [warning] = retention.check_names()

    assert "'demo.slice'" in warning.msg


# What goes with it


def test_a_job_goes_with_its_attempts() -> None:
    make_attempt(ended(31))
    kept = make_attempt(ended(1))

    retention.prune()

    assert list(Attempt.objects.all()) == [kept]


def test_a_pipeline_goes_whole_however_long_its_children_ended_before() -> None:
    ended_pipeline(31, children=3)
    kept = ended_pipeline(29, children=3)
    Job.objects.filter(parent=kept).update(finished_at=timezone.now() - timedelta(days=40))

    retention.prune()

    assert left() == {kept.id, *kept.children.values_list("id", flat=True)}
    assert Dependency.objects.count() == 2


def test_what_is_too_much_for_one_transaction_goes_in_several(small_steps: None) -> None:
    ended_pipeline(31, children=10)
    counts = []

    while retention.jobs():
        counts.append(Job.objects.count())

    assert counts == [8, 5, 2]
    assert left() == set()
    assert not Dependency.objects.exists()


def test_a_pipeline_of_which_children_are_gone_cannot_be_retried(small_steps: None) -> None:
    parent = ended_pipeline(31, children=10, status=Status.FAILED)
    retention.jobs()
    assert Job.objects.filter(parent=parent).count() < 10

    with pytest.raises(NotRetryable, match="being deleted"):
        retry(parent.id)


def test_what_was_begun_is_finished_also_when_jobs_are_kept_longer_by_now(small_steps: None, keep: Keep) -> None:
    ended_pipeline(31, children=10)
    retention.jobs()

    keep(0)
    retention.prune()

    assert left() == set()


def test_a_batch_never_takes_more_jobs_than_it_should(small_steps: None) -> None:
    for _ in range(5):
        ended(31)

    counts = []
    while retention.jobs():
        counts.append(Job.objects.count())

    assert counts[:2] == [3, 1]
    assert left() == set()


# What else is pruned


def test_expired_sessions_and_tokens_are_pruned() -> None:
    user = User.objects.create(username="ada")
    hour = timedelta(hours=1)
    for key, expiry in (("old", -hour), ("young", hour)):
        Session.objects.create(session_key=key, session_data="", expire_date=timezone.now() + expiry)
        AuthToken.objects.create(user, expiry=expiry)
    AuthToken.objects.create(user, expiry=None)

    retention.prune()

    assert list(Session.objects.values_list("session_key", flat=True)) == ["young"]
    assert AuthToken.objects.count() == 2


# That nobody waits for it


@threaded
def test_a_job_that_someone_holds_is_left_alone_and_the_others_go() -> None:
    held, _ = ended(31), ended(31)

    with transaction.atomic():
        Job.objects.select_for_update().get(id=held.id)
        with threads(1) as call:
            call(retention.prune).result(PATIENCE_SECONDS)

    assert left() == {held.id}


@threaded
def test_pruning_gives_way_to_whoever_holds_what_goes_with_a_job(caplog: pytest.LogCaptureFixture) -> None:
    attempt = make_attempt(ended(31))

    with transaction.atomic():
        Attempt.objects.select_for_update().get(id=attempt.id)
        with threads(1) as call:
            call(retention.prune).result(PATIENCE_SECONDS)
    assert "Pruning jobs failed" in caplog.text
    assert "lock timeout" in caplog.text
    assert left() == {attempt.job_id}

    retention.prune()

    assert left() == set()


@threaded
def test_claims_submissions_and_completions_do_not_wait_for_pruning(kind: DeclareKind, worker: WorkerProcess) -> None:
    leased, short = kind(), kind(execution="transactional")
    for declared in (leased, short):
        ended(31, kind=declared.name)
        submit(declared)

    with transaction.atomic():
        assert not retention.jobs()
        with threads(1) as call:
            call(submit, leased).result(PATIENCE_SECONDS)
            call(run, short, worker).result(PATIENCE_SECONDS)
            call(run, leased, worker).result(PATIENCE_SECONDS)
            call(lease, leased, worker).result(PATIENCE_SECONDS)

    assert Job.objects.filter(status=Status.COMPLETED).count() == 2


@threaded
def test_two_prunings_at_once_take_different_jobs() -> None:
    for _ in range(4):
        ended(31)

    with transaction.atomic(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "MAX_JOBS", 2)
        assert retention.jobs()
        with threads(1) as call:
            assert call(retention.prune_some, retention.jobs).result(PATIENCE_SECONDS)

    assert left() == set()


@threaded
def test_a_retry_that_comes_first_keeps_the_job() -> None:
    job = ended(31, Status.FAILED)

    retry(job.id)
    retention.prune()

    assert left() == {job.id}


# How it goes on


def test_pruning_goes_on_at_the_next_tick_while_there_is_more_and_rests_when_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [True, True, False, False]
    monkeypatch.setattr(retention, "prune", lambda: answers.pop(0))

    for _ in range(5):
        tick.prune()

    assert answers == [False]
    Upkeep.objects.filter(part="prune").update(ran_at=Now() - timedelta(minutes=2))
    tick.prune()
    assert answers == []


def test_a_tick_prunes_for_a_bounded_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    seconds = count()

    def call_again() -> bool:
        called.append(1)
        return True

    monkeypatch.setattr(retention, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(retention, "prunings", [call_again])
    monkeypatch.setattr(retention, "PRUNING_SECONDS", 3)

    assert retention.prune()

    assert len(called) == 2


def test_a_pruning_that_fails_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> bool:
        raise ValueError("no")

    monkeypatch.setattr(retention, "prunings", [broken, *retention.prunings])
    ended(31)

    assert not retention.prune()

    assert left() == set()
    assert "Pruning broken failed" in caplog.text


def test_every_kind_gets_its_turn_although_one_always_has_more(kind: DeclareKind, small_steps: None) -> None:
    busy, quiet = sorted((kind(keep_days=1), kind(keep_days=1)), key=lambda kind: kind.name)
    rare = ended(2, kind=quiet.name)
    for _ in range(40):
        ended(2, kind=busy.name)
        ended(2, kind=busy.name)
        retention.jobs()

    assert rare.id not in left()


def test_finding_old_jobs_costs_the_same_however_many_are_kept(kind: DeclareKind) -> None:
    short = kind(execution="transactional")
    submit_many(short, [{} for _ in range(2_000)])
    put(Job.objects.all(), status="COMPLETED", ready=False, finished_at=Now())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE orchestrator_job")
        statement = retention.LOCK_OLD.format(limit=500, unless_protected="") % "('%s', 1)" % short.name
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
        [[[explained]]] = cursor.fetchall()

    assert rows_read(explained["Plan"]) == 0


def rows_read(plan: dict[str, Any]) -> int:
    """Rows of the job table that the plan looked at in vain."""
    own = plan.get("Rows Removed by Filter", 0) if plan.get("Relation Name") == "orchestrator_job" else 0
    return own + sum(map(rows_read, plan.get("Plans", [])))
