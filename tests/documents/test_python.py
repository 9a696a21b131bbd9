"""The documents' Python runs as it stands, and does what the text around it says."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator import kinds
from orchestrator.models import Job
from orchestrator.submission import submit
from orchestrator.testing import drain, fake_job
from tests.documents.reader import ALL, KINDS, OPERATIONS, README, ROOT, TESTING
from tests.documents.test_snippets import PAGES
from tests.system.test_start import own_settings, start

PYTHON = [block for page in (README, KINDS, TESTING, OPERATIONS) for block in page.blocks("python")]
JOBS = [block for block in PYTHON if block.startswith("# accounts/jobs.py")]
CONFTEST = [block for block in PYTHON if block.startswith("# conftest.py")]
TESTS = [block for block in PYTHON if block.startswith("# accounts/tests.py")]
ELSEWHERE = {f"docs/{name}.md" for name in ("chaos", *PAGES)}
COMMITS = "@pytest.mark.django_db(transaction=True)\n"
TEST_NAMES = [
    pytest.param(name, marks=pytest.mark.django_db(transaction=bool(marker)))
    for marker, name in re.findall(rf"^({re.escape(COMMITS)})?def (test_\w+)", "\n".join(TESTS), re.MULTILINE)
]
SETTINGS = [block for block in PYTHON if block.startswith("# accounts/settings.py")]
SIGN_UP = [block for block in PYTHON if block.startswith("# wherever users sign up")]


@pytest.fixture
def accounts() -> Iterator[ModuleType]:
    """The README's accounts/jobs.py, as a Django app's would be imported."""
    module = ModuleType("accounts.jobs")
    sys.modules |= {"accounts": ModuleType("accounts"), "accounts.jobs": module}
    known = {kind.name for kind in kinds.all_kinds()}
    exec("\n".join(JOBS), vars(module))
    yield module
    for name in {kind.name for kind in kinds.all_kinds()} - known:
        kinds.forget_kind(name)
    del sys.modules["accounts"], sys.modules["accounts.jobs"]


def sign_up() -> dict[str, Any]:
    """Runs the lines that submit, and answers their variables."""
    variables: dict[str, Any] = {}
    exec(SIGN_UP[0], variables)
    return variables


def ended(job: Job) -> Job:
    drain()
    return Job.objects.get(id=job.id)


def users(*names: str) -> list[int]:
    return [User.objects.create_user(name, email=f"{name}@example.org").id for name in names]


def test_every_python_block_is_run_here() -> None:
    assert len(SIGN_UP) == 1
    # That of docs/chaos.md is run by tests/chaos/test_document.py, those of the other pages by test_snippets.py.
    assert len(JOBS) + len(SIGN_UP) + len(TESTS) + len(CONFTEST) + len(SETTINGS) == sum(
        len(page.blocks("python")) for page in ALL if page.name not in ELSEWHERE
    )


def test_the_example_of_a_settings_module_is_used(tmp_path: Path) -> None:
    own = own_settings(tmp_path, SETTINGS[0], app="accounts")
    show = "from django.conf import settings; print(settings.EMAIL_HOST, settings.DEFAULT_FROM_EMAIL)"

    ended = start(sys.executable, "manage.py", "shell", "-v", "0", "-c", show, EMAIL_HOST="mail.example.org", **own)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "mail.example.org accounts@example.org\n"


def test_a_kind_takes_ten_lines() -> None:
    declaration = JOBS[0].partition("import RunningJob\n")[2]

    assert len([line for line in declaration.splitlines() if line]) <= 10


def test_the_example_is_submitted_and_run(
    accounts: ModuleType, transactional_db: None, mailoutbox: list[EmailMessage]
) -> None:
    job = ended(sign_up()["submitted"])

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
    job = fake_job(accounts.welcome, {"user_id": id})

    assert accounts.welcome(job, accounts.Welcome(user_id=id)) == {"sent_to": "ada@example.org"}


def test_the_example_of_steps_works_and_reports_its_progress(accounts: ModuleType, transactional_db: None) -> None:
    ids = users(*(f"User{n}" for n in range(25)))

    job = ended(submit("accounts.tidy_usernames", ids))

    assert (job.result, job.progress_done, job.progress_total) == ({"users": 25}, 25, 25)
    assert User.objects.filter(username__startswith="user").count() == 25


def test_the_example_of_steps_goes_on_after_the_last_step(accounts: ModuleType, transactional_db: None) -> None:
    ids = users(*(f"User{n}" for n in range(25)))
    job = submit("accounts.tidy_usernames", ids)
    Job.objects.filter(id=job.id).update(progress_done=20, progress_total=25)

    ended(job)

    assert User.objects.filter(username__startswith="user").count() == 5


def test_the_example_of_a_batch_works_on_all_its_jobs_at_once(accounts: ModuleType, transactional_db: None) -> None:
    ids = users("ada", "grace", "linus")
    first, second = submit("accounts.deactivate", ids[0]), submit("accounts.deactivate", ids[1])

    assert [ended(job).status for job in (first, second)] == ["COMPLETED", "COMPLETED"]
    assert User.objects.get(is_active=True).username == "linus"


@pytest.mark.django_db
def test_the_example_of_an_async_handler_looks_each_minute_for_half_an_hour(accounts: ModuleType) -> None:
    [id] = users("ada")
    job, waits_in_vain = (fake_job(accounts.await_first_login, id) for _ in range(2))
    User.objects.filter(id=id).update(last_login=Now())

    assert (job.run(), job.slept) == ({"logged_in": True}, [])

    User.objects.filter(id=id).update(last_login=None)
    assert (waits_in_vain.run(), waits_in_vain.seconds) == ({"logged_in": False}, 30 * 60)


@pytest.mark.django_db(transaction=True)
def test_a_job_adds_children_and_goes_on_when_they_have_ended(accounts: ModuleType) -> None:
    users("ada", "grace")
    User.objects.create_user("nobody", email="not an address", last_login=timezone.now())

    job = ended(submit("accounts.remind_sleepers"))

    assert (job.status, job.result) == ("COMPLETED", {"reminded": 2, "failed": 0})


def test_the_example_of_a_pipeline_gathers_what_its_children_did(
    accounts: ModuleType, transactional_db: None, mailoutbox: list[EmailMessage]
) -> None:
    job = ended(submit("accounts.welcome_all", users("ada", "grace")))

    assert job.result == {"sent_to": ["ada@example.org", "grace@example.org"]}
    assert len(mailoutbox) == 2


def test_the_example_of_a_failure_submits_another_job(accounts: ModuleType, transactional_db: None) -> None:
    [id] = users("ada")
    User.objects.filter(id=id).update(email="no address\n")

    job = ended(submit("accounts.invite", {"user_id": id}, owner="grace"))

    assert (job.status, job.attempt) == ("FAILED", 2)
    assert not User.objects.get(id=id).is_active
    assert Job.objects.get(kind="accounts.deactivate").owner == "grace"


def test_the_line_for_the_fixtures_is_that_of_these_tests() -> None:
    [line] = CONFTEST[0].splitlines()[1:]

    assert line in (ROOT / "tests" / "conftest.py").read_text().splitlines()


@pytest.mark.parametrize("name", TEST_NAMES)
def test_the_example_of_a_test_passes(accounts: ModuleType, request: pytest.FixtureRequest, name: str) -> None:
    variables: dict[str, Any] = {}
    exec("\n".join(TESTS), variables)
    example = variables[name]

    example(**{fixture: request.getfixturevalue(fixture) for fixture in inspect.signature(example).parameters})
