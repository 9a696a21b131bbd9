"""`manage.py jobs`, `kinds`, `queues`, `owners` and `workers`."""

from __future__ import annotations

import getpass
import json
import re
from datetime import timedelta
from io import StringIO
from typing import Any, NamedTuple

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from access.models import AuditEntry
from orchestrator.kinds import kind_named
from orchestrator.management import job_tree
from orchestrator.models import HeldBack, Job, PausedQueue
from orchestrator.models import Kind as KindRow
from orchestrator.queue import owners
from orchestrator.states import Status
from orchestrator.steering.selection import BULK_ACTION
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import in_thread
from tests.factories import make_attempt, make_job, make_worker_row
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, again, complete, fail, lease, pipeline, run

pytestmark = pytest.mark.django_db


class Ran(NamedTuple):
    code: Any
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


def manage(*words: object) -> Ran:
    out, err = StringIO(), StringIO()
    code: Any = 0
    try:
        call_command(*map(str, words), stdout=out, stderr=err)
    except SystemExit as ended:
        code = ended.code
    return Ran(code, out.getvalue(), err.getvalue())


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


# Reading


def test_jobs_are_listed_as_a_table_and_as_json() -> None:
    failed = make_job(Status.FAILED, owner="ada", error="ValueError: no\nand more")
    make_job(owner="eve")

    shown = manage("jobs", "list", "--owner", "ada")
    told = manage("jobs", "list", "--status", "FAILED", "--finished-after", "1h", "--json").value["results"]

    assert str(failed.id) in shown.out
    assert "ValueError: no" in shown.out
    assert "eve" not in shown.out
    assert [(each["job_id"], each["owner"]) for each in told] == [(str(failed.id), "ada")]


def test_without_a_filter_the_newest_jobs_are_listed() -> None:
    make_job()
    newest = make_job()

    assert [each["job_id"] for each in manage("jobs", "list", "--limit", 1, "--json").value["results"]] == [
        str(newest.id)
    ]


def test_a_job_is_shown_with_its_children_and_failed_attempts(kind: DeclareKind) -> None:
    job, _ = pipeline(kind(), kind(), {"draw": []})
    make_attempt(job)
    Job.objects.filter(id=job.id).update(attempt=1)

    shown, told = manage("jobs", "show", job.id), manage("jobs", "show", job.id, "--json").value

    assert "draw  CREATED  waits for worker" in shown.out
    assert told["attempts"][0]["error"] == "ValueError: no"
    assert told["children"]["total"] == 1


def test_a_terminal_is_not_controlled_by_what_a_job_says() -> None:
    make_job(Status.FAILED, error="\x1b[2J\x07red")

    assert "\x1b" not in manage("jobs", "list").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "01980c5e-7a00-7000-8000-000000000000"), "No job has this id"),
        (("show", "17"), "'17' is not the id of a job"),
        (("list", "--created-after", "2030-01-31T12:00:00+05:75"), "'2030-01-31T12:00:00+05:75' is not valid"),
        (("list", "--created-after", "yesterday"), "'yesterday' is not valid; give a time with its offset"),
        (("list", "--limit", "0"), "not a number from 1 to 10,000"),
        (("cancel",), "Name at least one of ids, status"),
        (("cancel", "--kind", "demo.slices"), "That would cancel 1 job; --yes does it"),
        (("change", "--kind", "demo.slices"), "Give a priority, a run_at, or both"),
        (("submit", "demo.slice"), "Did you mean 'demo.slices'?"),
        (("submit", "demo.slices", "{slices}"), "The payload is not JSON"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(words: tuple[str, ...], said: str) -> None:
    job = make_job()

    with pytest.raises(CommandError, match=re.escape(said)):
        manage("jobs", *words)

    assert again(job).status == "CREATED"


@pytest.mark.parametrize("command", ["kinds", "queues", "owners", "workers"])
def test_without_an_action_it_lists(command: str) -> None:
    owners.pause_owner("ada")
    make_worker_row()
    KindRow.objects.get_or_create(name="demo.slices", queue="io")

    assert manage(command).out == manage(command, "list").out != ""


@pytest.mark.parametrize("command", ["jobs", "kinds", "queues", "owners", "workers"])
def test_the_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command(command, "--help")

    assert f"  manage.py {command}" in capsys.readouterr().out


# Watching


def test_a_watched_job_that_failed_exits_with_1(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind(max_attempts=1)
    job = submit(waits)
    fail(lease(waits, worker))

    ran = manage("jobs", "watch", job.id)

    assert (ran.code, ran.out) == (1, f"{job_tree.line(job_tree.read(job.id)).plain}\n")
    assert "ValueError: no" in ran.out


def test_a_pipeline_is_watched_until_it_has_ended(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_tree, "LOOK_SECONDS", 0.01)
    parent, step = kind(), kind()
    job, _ = pipeline(parent, step, {"draw": []})
    watching = in_thread(lambda: manage("jobs", "watch", job.id))
    complete(lease(step, worker), {"drawn": 1})
    complete(lease(parent, worker), {"sum": 1})

    ran = watching.result(PATIENCE_SECONDS)

    assert ran.code == 0
    assert f"{parent.name}  COMPLETED  1 of 1 children completed" in ran.out
    assert ran.out.endswith('{\n  "sum": 1\n}\n')


def test_in_a_terminal_the_tree_is_redrawn(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)
    complete(lease(waits, worker))
    terminal = Terminal()

    call_command("jobs", "watch", str(job.id), stdout=terminal)

    assert "COMPLETED" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()


# Acting


def test_a_job_is_submitted() -> None:
    ran = manage("jobs", "submit", "demo.slices", '{"slices": 2}', "--owner", "ada", "--priority", 1, "--run-at", "2h")

    job = Job.objects.get(id=ran.out.strip())
    assert (job.payload["slices"], job.owner, job.priority) == (2, "ada", 1)
    assert timedelta(hours=1) < job.run_at - timezone.now() <= timedelta(hours=2)


def test_all_that_match_are_cancelled_without_a_worker() -> None:
    wanted, other = make_job(owner="ada"), make_job(owner="eve")

    counted = manage("jobs", "cancel", "--owner", "ada", "--dry-run", "--json").value
    result = manage("jobs", "cancel", "--owner", "ada", "--yes", "--json").value

    assert counted == {"action": "cancel", "matched": 1, "exact": True}
    assert (result["matched"], result["cancelled"]) == (1, 1)
    assert (again(wanted).status, again(other).status) == ("CANCELLED", "CREATED")
    entry = AuditEntry.objects.get(object_id=wanted.id)
    assert (entry.actor, entry.via) == (getpass.getuser(), "command")


@pytest.mark.django_db(transaction=True)
def test_the_job_of_an_action_that_a_command_did_completes_with_its_result(worker: WorkerProcess) -> None:
    make_job(owner="ada")
    manage("jobs", "cancel", "--owner", "ada", "--yes")

    run(kind_named(BULK_ACTION), worker)

    assert Job.objects.get(kind=BULK_ACTION).result["cancelled"] == 1  # type: ignore[index]


def test_one_job_that_is_named_needs_no_confirmation() -> None:
    job = make_job(Status.FAILED)

    said = manage("jobs", "retry", job.id).out

    assert said == "1 matched, 1 retried\n"
    assert again(job).status == "CREATED"


def test_places_are_changed() -> None:
    job = make_job(priority=5)

    manage("jobs", "change", "--priority", 5, "--set-priority", 0, "--set-run-at", "2h", "--yes")

    assert (again(job).priority, again(job).ready) == (0, False)


def test_nothing_is_done_where_nothing_matches() -> None:
    assert manage("jobs", "retry", "--status", "FAILED").out == "No job matches that this can be done to.\n"


# Kinds, queues and workers


def test_kinds_are_listed_paused_resumed_and_limited() -> None:
    KindRow.objects.create(name="demo.slices", queue="io")

    manage("kinds", "pause", "demo.slices")
    assert manage("kinds", "list", "--json").value["results"][0]["paused_at"] is not None
    assert manage("kinds", "resume", "demo.slices").out == "demo.slices is resumed.\n"
    limited = manage("kinds", "limit", "demo.slices", "--max-running", 3, "--rate", "10/m", "--json").value["limits"]
    assert limited == {"max_running": 3, "rate": "10/m"}
    assert "max_running 3, rate 10/m" in manage("kinds", "list").out
    HeldBack.objects.create(kind="demo.slices", limit="rate", jobs=7, oldest_since=timezone.now())
    assert "7 by rate" in manage("kinds", "list").out
    assert manage("kinds", "list", "--json").value["results"][0]["held_back"] == {"rate": 7}
    assert manage("kinds", "limit", "demo.slices", "--rate", "declared").out == "max_running 3\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause", "demo.slice"), "There is no kind 'demo.slice'"),
        (("pause", "scheduler.add"), "No worker has reported it yet"),
        (("limit", "demo.slices", "--rate", "10"), "A rate is written like '10/m'"),
        (("limit", "demo.slices", "--max-running", "many"), "max_running is a whole number"),
    ],
)
def test_a_kind_or_a_limit_that_cannot_be_is_refused(words: tuple[str, ...], said: str) -> None:
    KindRow.objects.create(name="demo.slices", queue="io")

    with pytest.raises(CommandError, match=said):
        manage("kinds", *words)


def test_a_kind_whose_queue_is_paused_says_so() -> None:
    KindRow.objects.create(name="demo.slices", queue="io")
    manage("kinds", "pause", "demo.slices")
    manage("queues", "pause", "io")

    assert "It waits for its queue" in manage("kinds", "resume", "demo.slices").out


def test_queues_are_listed_paused_and_resumed() -> None:
    manage("queues", "pause", "io")
    assert [each["name"] for each in manage("queues", "--json").value["results"] if each["paused_at"]] == ["io"]

    manage("queues", "resume", "io")
    assert not PausedQueue.objects.exists()
    assert "threads" in manage("queues").out


@pytest.mark.parametrize(("words", "said"), [(("pause", "oi"), "no queue 'oi'"), (("pause",), "Name the queues")])
def test_a_queue_that_is_not_there_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        manage("queues", *words)


def test_owners_are_listed_paused_resumed_changed_and_forgotten() -> None:
    assert manage("owners", "pause", "ada", "", "--json").value["results"][0]["paused_at"] is not None
    manage("owners", "share", "ada", "--weight", 2, "--slots", 0.25)
    shown = manage("owners", "list").out
    assert ("no owner" in shown, "ada" in shown, "0.25" in shown) == (True, True, True)
    manage("owners", "forget", "")
    manage("owners", "resume", "ada")
    manage("owners", "share", "ada", "--slots", "default")

    assert manage("owners", "list", "--json").value["results"] == [
        {"owner": "ada", "weight": 2.0, "slot_share": None, "paused_at": None}
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause", "a" * 151), "at most 150 characters"),
        (("share", "ada"), "Say what changes"),
        (("share", "ada", "--weight", 0), "0.01 to 100"),
        (("share", "ada", "--slots", "half"), "a number or default"),
    ],
)
def test_what_cannot_be_set_for_an_owner_is_refused(words: tuple[Any, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        manage("owners", *words)


def test_workers_are_listed_with_what_they_run() -> None:
    row = make_worker_row("io", slots=32)
    make_worker_row("default", ended_at=timezone.now(), lost=True)
    make_job(Status.RUNNING, worker=row)

    [alive] = manage("workers", "--json").value["results"]
    shown = manage("workers", "--all").out

    assert (alive["name"], alive["state"], alive["slots"], alive["running"]) == ("io@here", "ALIVE", 32, 1)
    assert "LOST" in shown
