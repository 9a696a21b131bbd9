"""The README says what is so: its Python runs, its curl lines are answered as it shows, and what it names exists."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import requests
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.db import transaction
from django.urls import resolve

from config.settings import Environment
from orchestrator import engine, kinds
from orchestrator.models import Job
from orchestrator.submission import submit
from orchestrator.workers import WorkerProcess
from tests.system.stack import Stack

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

# How long a line that only looks is asked again until it is answered as shown: "five seconds later".
PATIENCE_SECONDS = 30

ELISION = "…"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Numbers that chance or the moment decides.
BY_CHANCE = {"aggregated_sum", "age_seconds", "done"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


# --- The Python ---

JOBS = [block for block in blocks("python") if block.startswith("# accounts/jobs.py")]
SIGN_UP = [block for block in blocks("python") if block.startswith("# wherever users sign up")]


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
    assert len(JOBS) + len(SIGN_UP) == len(blocks("python"))


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


# --- The curl lines ---

# What a line uploads, by the name it has there.
FILES = dict(zip(["students.csv"], blocks("csv"), strict=True))


class Exchange(NamedTuple):
    """A curl line of the README and the answer shown below it."""

    command: str
    answer: str


def exchanges() -> list[Exchange]:
    prompts = [re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] for block in blocks("console")]
    return [Exchange(*part.partition("\n")[::2]) for parts in prompts for part in parts]


def parsed(command: str) -> Namespace:
    """What the line asks for, as far as the README uses curl; any other option is an error."""
    curl = ArgumentParser()
    curl.add_argument("url")
    curl.add_argument("-i", dest="shows_headers", action="store_true")
    curl.add_argument("-X", dest="method")
    curl.add_argument("-H", dest="headers", action="append", default=[])
    curl.add_argument("--json", dest="body")
    curl.add_argument("-T", dest="file")
    program, *arguments = shlex.split(command)
    assert program == "curl", command
    asked = curl.parse_args(arguments)
    asked.method = asked.method or ("POST" if asked.body else "GET")
    return asked


class Reader:
    """Someone who follows the README line by line, with the ids they are given in place of those shown."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ids: dict[str, str] = {}

    def follow(self, exchange: Exchange) -> None:
        """Fails where the answer is another than shown. What only looks may be asked again for a while."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        asked = parsed(self.as_given(exchange.command))
        while differences := self.differences(asked, exchange.answer):
            may_change = asked.method == "GET" and time.monotonic() < deadline
            assert may_change, "\n".join((exchange.command, *differences))
            time.sleep(0.1)

    def differences(self, asked: Namespace, shown: str) -> list[str]:
        headers = dict(header.split(": ", 1) for header in asked.headers)
        if asked.body:
            headers["Content-Type"] = "application/json"
        sent = FILES[asked.file] if asked.file else asked.body
        answer = requests.request(asked.method, f"http://{asked.url}", headers=headers, data=sent, timeout=60)
        head, body = shown.split("\n\n", 1) if asked.shows_headers else ("HTTP/1.1 200 OK", shown)
        known = dict(self.ids)
        found = list(self.body_differences(json.loads(body), answer.json(), ""))
        found += self.head_differences(head, answer)
        if found:
            self.ids = known
        return found

    def head_differences(self, shown: str, answer: requests.Response) -> Iterator[str]:
        status, *headers = shown.splitlines()
        if status != f"HTTP/1.1 {answer.status_code} {answer.reason}":
            yield f"shown {status!r}, got {answer.status_code} {answer.reason}: {answer.text}"
        for header in headers:
            name, _, value = header.partition(": ")
            if self.as_given(value) != answer.headers.get(name):
                yield f"shown {header!r}, got {answer.headers.get(name)!r}"

    def body_differences(self, shown: Any, got: Any, path: str) -> Iterator[str]:
        if isinstance(shown, dict) and isinstance(got, dict):
            yield from self.object_differences(shown, got, path)
        elif isinstance(shown, list) and isinstance(got, list):
            yield from self.array_differences(shown, got, path)
        elif type(shown) is not type(got) or not self.fits(path.rpartition("/")[2], shown, got):
            yield f"{path}: shown {shown!r}, got {got!r}"

    def object_differences(self, shown: dict[str, Any], got: dict[str, Any], path: str) -> Iterator[str]:
        is_whole = ELISION not in shown
        if missing := shown.keys() - got.keys() - {ELISION}:
            yield f"{path}: without {sorted(missing)}"
        if is_whole and (more := got.keys() - shown.keys()):
            yield f"{path}: shown without {sorted(more)}"
        for name in (name for name in shown if name in got):
            yield from self.body_differences(shown[name], got[name], f"{path}/{name}")

    def array_differences(self, shown: list[Any], got: list[Any], path: str) -> Iterator[str]:
        is_whole = shown[-1:] != [ELISION]
        wanted = shown if is_whole else shown[:-1]
        if len(got) < len(wanted) or (is_whole and len(got) != len(wanted)):
            yield f"{path}: shown {len(wanted)}, got {len(got)}"
        for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
            yield from self.body_differences(one, other, f"{path}/{index}")

    def fits(self, name: str, shown: Any, got: Any) -> bool:
        """Whether two values of the same type are the same, but for ids, times and chance."""
        if not isinstance(shown, str):
            return name in BY_CHANCE or bool(shown == got)
        if TIME.fullmatch(shown):
            return bool(TIME.fullmatch(got))
        if ID.fullmatch(shown) and ID.fullmatch(got):
            return self.ids.setdefault(shown, got) == got
        if name == "message":
            return re.sub(r"\d+", "1", shown) == re.sub(r"\d+", "1", got)
        return self.as_given(shown) == got

    def as_given(self, text: str) -> str:
        """The README's text with this reader's address and ids in it."""
        text = text.replace("localhost:8000", self.address)
        return ID.sub(lambda id: self.ids.get(id[0], id[0]), text)


class StackOfTheReadme(Stack):
    """As `make up` starts it, on ports of its own."""

    def environment(self) -> dict[str, str]:
        of_other_tests = set(Environment.__struct_fields__) - self.ports.keys() - {"DATA_DIR"}
        return {name: value for name, value in super().environment().items() if name not in of_other_tests}


@pytest.mark.slow
def test_every_curl_line_is_answered_as_shown(tmp_path: Path) -> None:
    stack = StackOfTheReadme(tmp_path / "data")
    try:
        stack.wait_until_ready()
        reader = Reader(f"localhost:{stack.ports['WEB_PORT']}")

        for exchange in exchanges():
            reader.follow(exchange)
    finally:
        stack.stop()


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {"a": 1}),
        ({"a": 1}, {}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "…": "…"}, {"b": 2}),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"a": [1, 2, "…"]}, {"a": [1]}),
        ({"status": "RUNNING"}, {"status": "CREATED"}),
        ({"at": "2026-11-21T23:48:40.236219Z"}, {"at": "2026-11-21 23:48:40"}),
        ({"aggregated_sum": 1}, {"aggregated_sum": "1"}),
    ],
)
def test_a_wrong_sample_is_noticed(shown: Any, got: Any) -> None:
    assert list(Reader("").body_differences(shown, got, ""))


def test_an_id_once_given_stays_the_same() -> None:
    reader, id = Reader(""), "01a20083-14a6-7ce3-b7e5-efcdaaa1830"

    assert not list(reader.body_differences({"a": f"{id}1", "b": f"{id}2"}, {"a": f"{id}8", "b": f"{id}9"}, ""))
    assert list(reader.body_differences({"a": f"{id}1"}, {"a": f"{id}9"}, ""))
    assert not list(reader.body_differences({"a": f"see /jobs/{id}1"}, {"a": f"see /jobs/{id}8"}, ""))


# --- What it names ---


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_setting_exists() -> None:
    names = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", README))

    assert names
    assert names - set(Environment.__struct_fields__) == set()


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"make ([a-z]+)`", README)) | {"demo"}

    assert targets - set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) == set()


def test_every_path_of_the_table_is_served_for_its_methods() -> None:
    rows = re.findall(r"^\| (`/[^|]*) \| ([A-Z, ]+) \|", README, re.MULTILINE)
    served = [
        (path, method)
        for paths, methods in rows
        for path in re.findall(r"`([^`]+)`", paths)
        for method in methods.split(", ")
    ]

    assert len(served) > 10
    for path, method in served:
        view = resolve(re.sub(r"\{\w+\}", "x", path)).func
        assert hasattr(view.view_class, method.lower()), (path, method)
