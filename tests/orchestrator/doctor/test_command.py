"""The command `manage.py doctor`: its output, its exit code, and that it never hangs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from config.local.postgres import Postgres
from config.local.valkey import Valkey
from orchestrator.diagnostics import checks
from orchestrator.diagnostics.checks import Check, Finding, fail, ok, warn
from orchestrator.management.commands import doctor

pytestmark = pytest.mark.django_db(transaction=True)


def run(*options: str) -> tuple[int, str]:
    """The exit code and the output."""
    out = StringIO()
    try:
        call_command("doctor", *options, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces all checks by these, each of which needs the one before."""

    def replace(**looks: Callable[[], Finding]) -> None:
        names = list(looks)
        chain = [Check(name, look, tuple(names[:i][-1:])) for i, (name, look) in enumerate(looks.items())]
        monkeypatch.setattr(doctor, "registered_checks", lambda: chain)

    return replace


def passes() -> Finding:
    return ok("Fine.")


def warns() -> Finding:
    return warn("Odd.", "Look.")


def fails() -> Finding:
    return fail("Gone.", "Start it.")


def raises() -> Finding:
    raise ValueError("no such\nthing")


def test_warnings_exit_with_0(only: Callable[..., None]) -> None:
    only(first=passes, second=warns)

    code, output = run()

    assert code == 0
    assert output.splitlines() == [
        "✓ first                 Fine.",
        "! second                Odd.",
        "                        → Look.",
        "",
        "1 with a warning, 1 passed.",
    ]


def test_a_failure_exits_with_1_and_the_checks_that_need_it_are_skipped(only: Callable[..., None]) -> None:
    only(first=fails, second=passes, third=passes)

    code, output = run()

    assert code == 1
    assert output.splitlines()[-1] == "1 failed, 2 skipped."


def test_a_check_that_raises_has_failed(only: Callable[..., None]) -> None:
    only(first=raises)

    code, output = run("--json")

    assert code == 1
    [first] = json.loads(output)["checks"]
    assert (first["level"], first["msg"]) == ("fail", "ValueError: no such thing")


def test_json_has_the_keys_of_djangos_checks(only: Callable[..., None]) -> None:
    only(first=warns, second=passes)

    code, output = run("--json")

    report = json.loads(output)
    assert (code, report["ok"]) == (0, True)
    assert [{key: value for key, value in check.items() if key != "seconds"} for check in report["checks"]] == [
        {"name": "first", "level": "warn", "msg": "Odd.", "hint": "Look."},
        {"name": "second", "level": "ok", "msg": "Fine.", "hint": ""},
    ]


def test_a_check_that_hangs_is_not_waited_for(only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.2)
    hanging = threading.Event()
    only(first=passes, second=lambda: ok(str(hanging.wait(60))))

    began = time.monotonic()
    code, output = run()
    took = time.monotonic() - began

    hanging.set()
    assert code == 1
    assert took < 10
    assert "✗ second                No response within 0.2 s." in output


def test_with_the_database_and_the_broker_down_it_reports_both_with_a_hint(
    mortal_postgres: Postgres, valkey: Valkey
) -> None:
    mortal_postgres.kill()
    valkey.kill()
    connection.close()

    code, output = run()

    assert code == 1
    assert [line[2:10].strip() for line in output.splitlines() if line.startswith("✗")] == ["database", "broker"]
    assert "correct DATABASE_URL" in output
    assert "correct BROKER_URL" in output


def test_a_database_that_hangs_does_not_hang_the_doctor(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 6)
    connection.close()
    assert postgres.pid
    os.kill(postgres.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        code, output = run()
        took = time.monotonic() - began
    finally:
        os.kill(postgres.pid, signal.SIGCONT)

    assert code == 1
    assert "✗ database" in output
    assert took < 20
