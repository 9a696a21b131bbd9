"""The documents' Python runs as it stands, and does what the text around it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.db import transaction

from orchestrator import engine, kinds
from orchestrator.models import Job
from orchestrator.submission import submit
from orchestrator.workers import WorkerProcess
from tests.documents.reader import ALL, KINDS, README

PATIENCE_SECONDS = 30

PYTHON = README.blocks("python") + KINDS.blocks("python")
JOBS = [block for block in PYTHON if block.startswith("# accounts/jobs.py")]
SIGN_UP = [block for block in PYTHON if block.startswith("# wherever users sign up")]


@pytest.fixture
def accounts() -> Iterator[ModuleType]:
    """The README's accounts/jobs.py, as a Django app's would be imported."""
    module = ModuleType("accounts.jobs")
    sys.modules |= {"accounts": ModuleType("accounts"), "accounts.jobs": module}
    known = set(kinds._kinds)
    exec("\n".join(JOBS), vars(module))
    yield module
    for name in set(kinds._kinds) - known:
        del kinds._kinds[name]
    del sys.modules["accounts"], sys.modules["accounts.jobs"]


@pytest.fixture
def worker(transactional_db: None) -> Iterator[WorkerProcess]:
    process = WorkerProcess("reader@here", ["default", "io"]).start()
    assert process.registered.wait(PATIENCE_SECONDS)
    yield process
    process.end()


def sign_up() -> dict[str, Any]:
    """Runs the lines that submit, and answers their variables."""
    variables: dict[str, Any] = {}
    exec(SIGN_UP[0], variables)
    return variables


def run_all(worker: WorkerProcess) -> None:
    """Runs jobs until none is ready."""
    while any(run_one(kind, worker) for kind in kinds.all_kinds()):
        pass


def run_one(kind: kinds.Kind, worker: WorkerProcess) -> bool:
    run_next = engine.run_batch if kind.execution == "transactional" else engine.run_leased
    return run_next(kind, worker, "the-bell")


def ended(job: Job, worker: WorkerProcess) -> Job:
    run_all(worker)
    return Job.objects.get(id=job.id)


def users(*names: str) -> list[int]:
    return [User.objects.create_user(name, email=f"{name}@example.org").id for name in names]


def test_every_python_block_is_run_here() -> None:
    assert len(SIGN_UP) == 1
    # That of docs/chaos.md is run by tests/chaos/test_document.py.
    assert len(JOBS) + len(SIGN_UP) == sum(len(page.blocks("python")) for page in ALL if page.name != "docs/chaos.md")


def test_a_kind_takes_ten_lines() -> None:
    declaration = JOBS[0].partition("import RunningJob\n")[2]

    assert len([line for line in declaration.splitlines() if line]) <= 10


def test_the_example_is_submitted_and_run(
    accounts: ModuleType, worker: WorkerProcess, mailoutbox: list[EmailMessage]
) -> None:
    job = ended(sign_up()["submitted"], worker)

    assert (job.status, job.owner, job.result) == ("COMPLETED", "grace", {"sent_to": "grace@example.org"})
    assert [mail.extra_headers["Message-ID"] for mail in mailoutbox] == [f"<{job.id}@example.org>"]


def test_the_example_submits_nothing_when_its_transaction_is_rolled_back(
    accounts: ModuleType, transactional_db: None
) -> None:
    with transaction.atomic():
        sign_up()
        transaction.set_rollback(True)

    assert not User.objects.exists()
    assert not Job.objects.exists()


def test_the_kind_can_be_called_as_the_function_it_is(
    accounts: ModuleType, db: None, mailoutbox: list[EmailMessage]
) -> None:
    [id] = users("ada")
    job = type("Running", (), {"idempotency_key": "1"})()

    assert accounts.welcome(job, accounts.Welcome(user_id=id)) == {"sent_to": "ada@example.org"}


def test_the_example_of_steps_works_and_tells_its_progress(accounts: ModuleType, worker: WorkerProcess) -> None:
    ids = users(*(f"User{n}" for n in range(25)))

    job = ended(submit("accounts.tidy_usernames", ids), worker)

    assert (job.result, job.progress_done, job.progress_total) == ({"users": 25}, 25, 25)
    assert User.objects.filter(username__startswith="user").count() == 25


def test_the_example_of_steps_goes_on_after_the_last_step(accounts: ModuleType, worker: WorkerProcess) -> None:
    ids = users(*(f"User{n}" for n in range(25)))
    job = submit("accounts.tidy_usernames", ids)
    Job.objects.filter(id=job.id).update(progress_done=20, progress_total=25)

    ended(job, worker)

    assert User.objects.filter(username__startswith="user").count() == 5


def test_the_example_of_a_batch_works_on_all_its_jobs_at_once(accounts: ModuleType, worker: WorkerProcess) -> None:
    ids = users("ada", "grace", "linus")
    first, second = submit("accounts.deactivate", ids[0]), submit("accounts.deactivate", ids[1])

    assert [ended(job, worker).status for job in (first, second)] == ["COMPLETED", "COMPLETED"]
    assert User.objects.get(is_active=True).username == "linus"


def test_the_example_of_a_pipeline_gathers_what_its_children_did(
    accounts: ModuleType, worker: WorkerProcess, mailoutbox: list[EmailMessage]
) -> None:
    job = ended(submit("accounts.welcome_all", users("ada", "grace")), worker)

    assert job.result == {"sent_to": ["ada@example.org", "grace@example.org"]}
    assert len(mailoutbox) == 2
