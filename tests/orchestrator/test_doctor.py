"""What `manage.py doctor` finds, on real servers: each check where all is well, and where it is not."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg2
import pytest
from celery import current_app
from celery.contrib.testing.worker import start_worker
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from pytest_django import Settings
from redis import Redis

from config.embedded import Postgres, Valkey
from orchestrator import diagnosis, doctor, health
from orchestrator.diagnosis import Finding, Level
from orchestrator.models import Dependency, Job, Kind, Upkeep, Worker
from orchestrator.states import Status
from tests.factories import make_job

pytestmark = pytest.mark.django_db(transaction=True)

Ask = Callable[[str], Finding]
AN_HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not what is tested."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 20)
    monkeypatch.setattr(diagnosis, "CHECK_SECONDS", 60)


@pytest.fixture
def ask() -> Ask:
    return lambda name: diagnosis.ask(diagnosis._checks[name])


@pytest.fixture
def mortal_postgres(transactional_db: None, postgres: Postgres) -> Iterator[Postgres]:
    """PostgreSQL that the test may stop, kill and set otherwise."""
    kept = dict(postgres.settings)
    yield postgres
    postgres.stop()
    postgres.settings = kept
    postgres.start()
    connection.close()


def restarted(postgres: Postgres, **settings: str) -> None:
    connection.close()
    postgres.stop()
    postgres.settings = settings
    postgres.start()


@pytest.fixture
def set_for_us() -> Iterator[Callable[..., None]]:
    """Sets what every new connection of our role has, until the end of the test."""
    names: list[str] = []

    def set_for_role(name: str, value: str) -> None:
        names.append(name)
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE muster SET {name} = '{value}'")

    yield set_for_role
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"ALTER ROLE muster RESET {name}")


def make_worker(queue: str = "io", **columns: Any) -> Worker:
    given = {"name": f"{queue}@here", "queues": [queue], "host": "here", "pid": 1, "process_started": "1"} | columns
    return Worker.objects.create(**given)


def all_alive() -> None:
    for queue in ("default", "io", "control"):
        make_worker(queue)
    Upkeep.objects.create(part="tick", ran_at=timezone.now())


def another_session() -> Any:
    return closing(psycopg2.connect(**connection.get_connection_params() | {"cursor_factory": None}))


# --- The database ---


def test_a_database_that_answers_is_well_and_told_by_its_version(ask: Ask) -> None:
    finding = ask("database")

    assert finding.level == Level.OK
    assert finding.found.startswith("PostgreSQL 18")


def test_a_database_that_is_down_fails_with_its_address_and_without_its_password(
    ask: Ask, mortal_postgres: Postgres
) -> None:
    mortal_postgres.kill()
    connection.close()

    finding = ask("database")

    assert finding.level == Level.FAIL
    assert f"127.0.0.1:{mortal_postgres.port}" in finding.found
    assert connection.settings_dict["PASSWORD"] not in finding.found
    assert "DATABASE_URL" in finding.advice


def test_a_database_that_is_too_old_fails(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_VERSION", 99)

    finding = ask("database")

    assert (finding.level, finding.advice) == (Level.FAIL, "Upgrade it to 99 or later.")


@pytest.mark.parametrize("off", [None, "fsync", "full_page_writes", "synchronous_commit"])
def test_a_database_that_forgets_fails(ask: Ask, mortal_postgres: Postgres, off: str | None) -> None:
    restarted(mortal_postgres, **({off: "off"} if off else {}))

    finding = ask("durability")

    assert finding.level == (Level.FAIL if off else Level.OK)
    assert off is None or off in finding.advice


@pytest.mark.parametrize(("allowed", "level"), [("120", Level.OK), ("60", Level.WARN)])
def test_too_few_connections_for_all_processes_are_noticed(
    ask: Ask, mortal_postgres: Postgres, allowed: str, level: Level
) -> None:
    restarted(mortal_postgres, max_connections=allowed)

    assert ask("connections").level == level


def test_connections_that_run_out_are_noticed(ask: Ask, mortal_postgres: Postgres) -> None:
    restarted(mortal_postgres, max_connections="20")

    with ExitStack() as sessions:
        for _ in range(16):
            sessions.enter_context(another_session())
        finding = ask("connections")

    assert finding.level == Level.WARN
    assert "of 17 connections are taken" in finding.found


@pytest.mark.parametrize(("value", "level"), [("on", Level.OK), ("off", Level.FAIL)])
def test_tables_that_nobody_vacuums_are_noticed(ask: Ask, mortal_postgres: Postgres, value: str, level: Level) -> None:
    restarted(mortal_postgres, autovacuum=value)

    assert ask("autovacuum").level == level


@pytest.mark.parametrize(("limit", "level"), [("0", Level.OK), ("5s", Level.WARN), ("5min", Level.OK)])
def test_a_limit_that_would_cut_off_handlers_is_noticed(
    ask: Ask, set_for_us: Callable[..., None], limit: str, level: Level
) -> None:
    set_for_us("idle_in_transaction_session_timeout", limit)

    assert ask("idle limit").level == level


@pytest.mark.parametrize(("seconds", "level"), [(0, Level.OK), (60, Level.WARN), (-7_200, Level.FAIL)])
def test_clocks_that_differ_are_noticed(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, seconds: float, level: Level
) -> None:
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: time.time() + seconds))

    assert ask("clock").level == level


def test_a_database_with_every_migration_is_well(ask: Ask) -> None:
    assert ask("migrations").level == Level.OK


@pytest.fixture
def migration_row() -> Iterator[Callable[[str], None]]:
    """Runs a statement on the list of applied migrations, which is as before after the test."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM django_migrations")
        yield cursor.execute
        cursor.execute("TRUNCATE django_migrations")
        cursor.execute("INSERT INTO django_migrations OVERRIDING SYSTEM VALUE SELECT * FROM kept")
        cursor.execute("DROP TABLE kept")


def test_a_missing_migration_fails(ask: Ask, migration_row: Callable[[str], None]) -> None:
    migration_row("DELETE FROM django_migrations WHERE app = 'ingestion'")

    finding = ask("migrations")

    assert finding.level == Level.FAIL
    assert "ingestion.0001_initial" in finding.found
    assert "migrate" in finding.advice


def test_a_migration_of_a_newer_release_is_noticed(ask: Ask, migration_row: Callable[[str], None]) -> None:
    migration_row("INSERT INTO django_migrations (app, name, applied) VALUES ('orchestrator', '0099_later', now())")

    finding = ask("migrations")

    assert finding.level == Level.WARN
    assert "orchestrator.0099_later" in finding.found


def test_rows_that_vacuum_does_not_clean_up_are_noticed(ask: Ask) -> None:
    assert ask("dead rows").level == Level.OK

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE churned (n int) WITH (autovacuum_enabled = off)")
        cursor.execute("INSERT INTO churned SELECT generate_series(1, 110000)")
        cursor.execute("DELETE FROM churned")
        cursor.execute("SELECT pg_stat_force_next_flush()")
        try:
            finding = ask("dead rows")
        finally:
            cursor.execute("DROP TABLE churned")

    assert finding.level == Level.WARN
    assert "churned" in finding.found


def test_a_transaction_that_holds_back_vacuum_is_noticed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_session() as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]

        assert ask("long transactions").level == Level.OK
        monkeypatch.setattr(doctor, "LONG_TRANSACTION", "0 seconds")
        finding = ask("long transactions")

    assert finding.level == Level.WARN
    assert f"pid {pid} " in finding.found


def test_a_session_that_is_idle_within_a_transaction_is_noticed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_session() as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]

        assert ask("idle transactions").level == Level.OK
        monkeypatch.setattr(doctor, "LONG_IDLE", "0 seconds")
        finding = ask("idle transactions")

    assert finding.level == Level.WARN
    assert f"pid {pid} " in finding.found


def test_a_disk_of_this_host_that_is_nearly_full_is_noticed(
    ask: Ask, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "watch the disk of its host" in ask("disk").found

    monkeypatch.setattr(doctor, "data_dir", lambda: postgres.data_dir.parent)
    assert ask("disk").level == Level.OK
    monkeypatch.setattr(doctor, "LEAST_FREE_DISK", 1.0)
    assert ask("disk").level == Level.WARN


# --- The broker ---


def test_a_broker_that_answers_is_well_and_told_by_its_version(ask: Ask) -> None:
    assert ask("broker").found.startswith("Valkey 9")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"])
def test_a_broker_that_is_down_fails(ask: Ask, settings: Settings, url: str) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, BROKER_URL=url)

    finding = ask("broker")

    assert finding.level == Level.FAIL
    assert "BROKER_URL" in finding.advice


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_takes_calls_and_never_answers_fails_soon(
    ask: Ask, settings: Settings, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}//"
        settings.ENV = msgspec.structs.replace(settings.ENV, BROKER_URL=url)
        began = time.monotonic()
        finding = ask("broker")

    assert finding.level == Level.FAIL
    assert time.monotonic() - began < 10


@pytest.fixture
def valkey_memory(valkey: Valkey) -> Iterator[Callable[..., None]]:
    with Redis.from_url(valkey.url) as redis:
        yield lambda limit, policy: redis.config_set("maxmemory", limit, "maxmemory-policy", policy)
        redis.config_set("maxmemory", 0, "maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("limit", "policy", "level", "word"),
    [
        ("1gb", "noeviction", Level.OK, "answers"),
        ("1gb", "allkeys-lru", Level.WARN, "allkeys-lru"),
        ("1mb", "noeviction", Level.WARN, "90%"),
    ],
)
def test_a_broker_that_would_throw_bells_away_or_is_full_is_noticed(
    ask: Ask, valkey_memory: Callable[..., None], limit: str, policy: str, level: Level, word: str
) -> None:
    valkey_memory(limit, policy)

    finding = ask("broker")

    assert finding.level == level
    assert word in finding.found


def test_a_cache_that_is_down_is_noticed_and_one_that_is_not_there_is_well(ask: Ask, settings: Settings) -> None:
    assert ask("cache").found == "It answers, and merges bells."

    settings.CACHES = {"default": {"LOCATION": "redis://127.0.0.1:1/0"}}
    assert ask("cache").level == Level.WARN
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    assert ask("cache").level == Level.OK


# --- The processes ---


def test_a_queue_that_nobody_serves_fails(ask: Ask) -> None:
    all_alive()
    assert ask("workers").level == Level.OK

    Worker.objects.filter(name="io@here").update(ended_at=Now())

    finding = ask("workers")
    assert finding.level == Level.FAIL
    assert finding.found == "Nobody serves io. Processes alive: default 1, io 0, control 1."


def test_a_worker_that_died_of_late_is_noticed(ask: Ask) -> None:
    make_worker(lost=True, ended_at=timezone.now() - 2 * AN_HOUR)
    assert ask("lost workers").level == Level.OK

    make_worker(lost=True, ended_at=timezone.now(), pid=77)

    assert ask("lost workers").level == Level.WARN
    assert "io@here [77]" in ask("lost workers").found


@pytest.fixture
def listening_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a Celery worker that listens to the broker, in a thread of this process."""
    with start_worker(current_app._get_current_object(), perform_ping_check=False, shutdown_timeout=60) as worker:
        yield worker.hostname


def test_a_worker_that_does_not_hear_the_broker_is_noticed(ask: Ask, listening_worker: str) -> None:
    make_worker(name=listening_worker)
    assert ask("bells").found == "1 workers answer over the broker."

    make_worker(name="deaf@there")

    finding = ask("bells")
    assert finding.level == Level.WARN
    assert finding.found == "Alive, but not heard over the broker: deaf@there."


def test_a_beat_that_is_not_there_fails(ask: Ask) -> None:
    assert ask("beat").found == "It has never run here."

    tick = PeriodicTask.objects.get_or_create(name="tick", task="orchestrator.tick", interval=an_interval())[0]
    assert ask("beat").level == Level.OK
    PeriodicTask.objects.update(last_run_at=timezone.now() - AN_HOUR)
    assert ask("beat").level == Level.FAIL
    Upkeep.objects.create(part="tick", ran_at=timezone.now())
    assert ask("beat").level == Level.OK
    PeriodicTask.objects.filter(id=tick.id).update(enabled=False)
    assert ask("beat").found == "The tick is switched off in Beat's admin."


def an_interval() -> Any:
    return IntervalSchedule.objects.create(every=1, period="seconds")


def test_a_tick_that_has_stopped_fails(ask: Ask) -> None:
    assert ask("tick").found == "There was no tick yet."

    Upkeep.objects.create(part="tick", ran_at=timezone.now())
    assert ask("tick").level == Level.OK
    Upkeep.objects.update(ran_at=timezone.now() - AN_HOUR)
    assert ask("tick").level == Level.FAIL


# --- The jobs ---


def long_ready(**columns: Any) -> Job:
    then = timezone.now() - AN_HOUR
    job = make_job(run_at=then, rank=then, **columns)
    Job.objects.filter(id=job.id).update(updated_at=then)
    return job


def test_ready_jobs_that_idle_workers_leave_alone_fail(ask: Ask) -> None:
    all_alive()
    make_job()
    assert ask("waiting jobs").level == Level.OK

    long_ready(kind="demo.other")

    finding = ask("waiting jobs")
    assert finding.level == Level.FAIL
    assert "demo.other for 60 min" in finding.found


def test_ready_jobs_of_busy_workers_are_only_told(ask: Ask) -> None:
    all_alive()
    long_ready()
    make_job(Status.RUNNING, worker=Worker.objects.get(name="io@here"))

    finding = ask("waiting jobs")

    assert finding.level == Level.WARN
    assert "The workers are busy" in finding.found


def test_every_kind_is_looked_at_once_however_many_jobs_wait(ask: Ask) -> None:
    all_alive()
    for name in ("a.b", "c.d", "e.f"):
        for _ in range(3):
            long_ready(kind=name)

    assert ask("waiting jobs").found.count("for 60 min") == 3


def test_a_kind_that_no_worker_knows_fails(ask: Ask) -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    make_job()
    assert ask("unknown kinds").level == Level.OK

    make_job(kind="gone.away")

    finding = ask("unknown kinds")
    assert finding.level == Level.FAIL
    assert "gone.away" in finding.found


def test_a_kind_that_only_workers_know_is_noticed(ask: Ask) -> None:
    Kind.objects.create(name="newer.kind", queue="io")
    make_job(kind="newer.kind")

    assert ask("unknown kinds").level == Level.WARN


def test_a_queue_that_is_not_configured_fails(ask: Ask) -> None:
    Kind.objects.create(name="demo.slices", queue="gpu")
    make_job(queue="gpu")

    finding = ask("unknown kinds")

    assert finding.level == Level.FAIL
    assert "demo.slices (gpu)" in finding.found


def test_a_paused_kind_is_noticed_once_jobs_wait_for_it(ask: Ask) -> None:
    Kind.objects.create(name="demo.slices", queue="io", paused_at=timezone.now())
    assert ask("paused kinds").level == Level.OK

    all_alive()
    long_ready()

    assert ask("paused kinds").level == Level.WARN
    assert ask("waiting jobs").level == Level.OK


def test_a_job_that_is_due_and_not_made_ready_fails(ask: Ask) -> None:
    make_job(ready=False, run_at=timezone.now() + AN_HOUR)
    assert ask("due jobs").level == Level.OK

    job = make_job(ready=False, run_at=timezone.now() - AN_HOUR)

    assert ask("due jobs").level == Level.FAIL
    assert str(job.id) in ask("due jobs").found


def test_an_attempt_past_its_deadline_fails(ask: Ask) -> None:
    worker = make_worker()
    make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() + AN_HOUR)
    assert ask("overdue attempts").level == Level.OK

    make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() - AN_HOUR)

    assert ask("overdue attempts").level == Level.FAIL


def test_a_job_whose_worker_has_ended_fails(ask: Ask) -> None:
    make_job(Status.RUNNING, worker=make_worker())
    assert ask("orphaned jobs").level == Level.OK

    job = make_job(Status.RUNNING, worker=make_worker(ended_at=timezone.now() - AN_HOUR))

    assert str(job.id) in ask("orphaned jobs").found


def test_a_job_whose_worker_has_no_row_fails(ask: Ask) -> None:
    job = make_job(Status.RUNNING, worker_id=4711)

    assert str(job.id) in ask("orphaned jobs").found


def test_a_pipeline_that_unwinds_and_waits_for_nothing_fails(ask: Ask) -> None:
    then = timezone.now() - AN_HOUR
    parent = make_job(Status.RUNNING, unwinding=True, unfinished_dependencies=1, updated_at=then)
    child = make_job(Status.RUNNING, parent=parent, worker=make_worker())
    assert ask("unwinding pipelines").level == Level.OK

    Job.objects.filter(id=child.id).update(status="FAILED", worker=None, finished_at=Now())

    assert str(parent.id) in ask("unwinding pipelines").found


def test_a_counter_that_is_wrong_fails(ask: Ask) -> None:
    parent = make_job(unfinished_dependencies=2)
    first = make_job(parent=parent, name="first")
    second = make_job(parent=parent, name="second", unfinished_dependencies=1)
    Dependency.objects.create(job=second, depends_on=first)
    assert ask("pipeline counts").level == Level.OK

    Job.objects.filter(id=first.id).update(status="COMPLETED", ready=False, finished_at=Now())

    finding = ask("pipeline counts")
    assert finding.level == Level.FAIL
    assert str(parent.id) in finding.found
    assert str(second.id) in finding.found


# --- The command ---


def told(*options: str) -> tuple[int, str]:
    """The exit code and the output."""
    out = StringIO()
    try:
        call_command("doctor", *options, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces all checks by some that find what they are told, or raise it."""

    def replace(**findings: Any) -> None:
        monkeypatch.setattr(diagnosis, "_checks", {})
        monkeypatch.setattr(diagnosis, "autodiscover_modules", lambda _: None)
        needs: tuple[str, ...] = ()
        for name, finding in findings.items():
            diagnosis.check(name, needs=needs)(lambda finding=finding: found(finding))
            needs = (name,)

    return replace


def found(finding: Any) -> Finding:
    if isinstance(finding, Exception):
        raise finding
    return finding


def test_warnings_exit_with_0(only: Callable[..., None]) -> None:
    only(first=diagnosis.ok("Fine."), second=diagnosis.warn("Odd.", "Look."))

    code, output = told()

    assert code == 0
    assert output.splitlines() == [
        "✓ first                 Fine.",
        "! second                Odd.",
        "                        → Look.",
        "",
        "1 to look at, 1 well.",
    ]


def test_a_failure_exits_with_1_and_what_needs_it_is_not_asked(only: Callable[..., None]) -> None:
    only(first=diagnosis.fail("Gone.", "Start it."), second=diagnosis.ok("Fine."), third=diagnosis.ok("Fine."))

    code, output = told()

    assert code == 1
    assert output.splitlines()[-1] == "1 failed, 2 not looked at because of that."


def test_a_check_that_raises_has_failed(only: Callable[..., None]) -> None:
    only(first=ValueError("no such\nthing"))

    code, output = told("--json")

    assert code == 1
    [first] = json.loads(output)["checks"]
    assert (first["level"], first["found"]) == ("fail", "ValueError: no such thing")


def test_programs_are_told_in_json(only: Callable[..., None]) -> None:
    only(first=diagnosis.warn("Odd.", "Look."), second=diagnosis.ok("Fine."))

    code, output = told("--json")

    report = json.loads(output)
    assert (code, report["ok"]) == (0, True)
    assert [{key: value for key, value in check.items() if key != "seconds"} for check in report["checks"]] == [
        {"name": "first", "level": "warn", "found": "Odd.", "advice": "Look."},
        {"name": "second", "level": "ok", "found": "Fine.", "advice": ""},
    ]


def test_a_check_that_hangs_is_not_waited_for(only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "CHECK_SECONDS", 0.2)
    hanging = threading.Event()
    only(first=diagnosis.ok("Fine."))
    diagnosis.check("second", needs=())(lambda: diagnosis.ok(str(hanging.wait(60))))

    began = time.monotonic()
    code, output = told()
    took = time.monotonic() - began

    hanging.set()
    assert code == 1
    assert took < 10
    assert "✗ second                No answer within 0.2 s." in output


def test_with_the_database_and_the_broker_down_it_says_so_and_what_to_do(
    mortal_postgres: Postgres, valkey: Valkey
) -> None:
    mortal_postgres.kill()
    valkey.kill()
    connection.close()

    code, output = told()

    assert code == 1
    assert [line[2:10].strip() for line in output.splitlines() if line.startswith("✗")] == ["database", "broker"]
    assert "mend DATABASE_URL" in output
    assert "mend BROKER_URL" in output


def test_a_database_that_hangs_does_not_hang_the_doctor(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "CHECK_SECONDS", 6)
    connection.close()
    assert postgres.pid
    os.kill(postgres.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        code, output = told()
        took = time.monotonic() - began
    finally:
        os.kill(postgres.pid, signal.SIGCONT)

    assert code == 1
    assert "✗ database" in output
    assert took < 20
