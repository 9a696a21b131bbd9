"""What a person sees who starts Muster with a wrong or missing setting: one sentence, from whichever program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.embedded import free_port
from config.settings import BASE_DIR

KEY = "only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz"
RIGHT = {"SECRET_KEY": KEY, "DATABASE_URL": "postgresql://nobody:hush@127.0.0.1:1/none", "DATA_DIR": "/nonexistent"}
BIN = Path(sys.executable).parent
# Celery's own program, and the one that the Procfile names.
CELERY, OURS = (str(BIN / "celery"), "-q", "-A", "config"), (sys.executable, "-m", "config")

REFUSED = [
    ({"SECRET_KEY": None}, "SECRET_KEY is not set."),
    ({"SECRET_KEY": "hush"}, "SECRET_KEY does not fit: Expected 32 characters or more."),
    ({"SECRET_KEY": None, "SECRET_KEY_FILE": "/nonexistent/key"}, "SECRET_KEY_FILE must name a file"),
    ({"DATABASE_URL": "hush"}, "DATABASE_URL must look like postgresql://user:password@host:port/name;"),
    ({"DATABASE_URL": "postgresql://u:hush@host:port/name"}, "DATABASE_URL must look like"),
    ({"DATABASE_URL": "mysql://u:hush@host/name"}, "DATABASE_URL must look like postgresql://"),
    ({"DATABASE_URL": "postgresql://u:hush@host"}, "DATABASE_URL names no database"),
    ({"BROKER_URL": "memcached://u:hush@host"}, "BROKER_URL must look like redis://host:port/0"),
    ({"CACHE_URL": "amqp://u:hush@host"}, "CACHE_URL must look like redis://host:port/1"),
    ({"DEBUG": "maybe"}, "DEBUG 'maybe' does not fit: Expected true or false."),
    ({"LEASE_SECONDS": "soon"}, "LEASE_SECONDS 'soon' does not fit: Expected a number."),
    ({"LEASE_SECONDS": "0"}, "LEASE_SECONDS '0' does not fit: Expected a number > 0"),
    ({"LEASE_SECONDS": "6"}, "LEASE_SECONDS must be at least twice HEARTBEAT_SECONDS"),
    ({"WORKER_THREADS": "1.5"}, "WORKER_THREADS '1.5' does not fit: Expected a whole number."),
    ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL 'LOUD' does not fit"),
    ({"REQUIRE_AUTH": "false"}, "Set REQUIRE_AUTH=true, or ALLOW_ANYONE=true"),
    ({"ALLOWED_HOSTS": " , "}, "ALLOWED_HOSTS is empty"),
    ({"QUEUES": ""}, "QUEUES '' does not fit: name one queue or more"),
    ({"QUEUES": "default,io,control"}, "control is Muster's own"),
    ({"QUEUES": "default"}, "names the queue 'io', which QUEUES leaves out"),
    ({"EXTRA_APPS": "tests.kinds,nowhere.at_all"}, "EXTRA_APPS names 'nowhere.at_all', which cannot be imported"),
]


def start(*command: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {name: value for name, value in (inherited | RIGHT | settings).items() if value is not None}
    return subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_a_wrong_setting_is_told_in_one_sentence(settings: dict[str, str | None], sentence: str) -> None:
    ended = start(sys.executable, "manage.py", "check", **settings)

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: ")
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "hush" not in ended.stderr


@pytest.mark.parametrize(
    "command", [*((*CELERY, name) for name in ("worker", "beat", "flower")), (*OURS, "worker"), (*OURS, "beat")]
)
def test_celery_refuses_in_one_sentence(command: tuple[str, ...]) -> None:
    ended = start(*command, QUEUES="default")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: The kind ")
    assert len(ended.stderr.splitlines()) == 1


def test_flower_which_knows_no_kinds_refuses_a_wrong_setting_in_one_sentence() -> None:
    ended = start(*OURS, "flower", BROKER_URL="memcached://u:hush@host")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: BROKER_URL must look like redis://host:port/0")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", [CELERY, OURS])
def test_celery_refuses_a_queue_that_is_none_of_the_queues(program: tuple[str, ...]) -> None:
    ended = start(*program, "worker", "-Q", "nowhere")

    assert ended.returncode == 1
    assert (
        "Muster does not start: -Q names 'nowhere', which is none of its queues: default, io, control.\n"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_web_server_ends_with_the_sentence_instead_of_trying_for_ever() -> None:
    command = (str(BIN / "granian"), "--interface", "wsgi", "--port", str(free_port()), "--respawn-failed-workers")

    ended = start(
        *command, "--respawn-interval", "0.5", "--log-level", "error", "config.wsgi:application", SECRET_KEY=""
    )

    assert ended.returncode == 1
    assert "Muster does not start: SECRET_KEY does not fit" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")

    ended = start(sys.executable, "manage.py", "check", SECRET_KEY=None, SECRET_KEY_FILE=str(tmp_path / "key"))

    assert ended.returncode == 0, ended.stderr


def test_what_the_environment_says_itself_comes_before_a_file() -> None:
    ended = start(sys.executable, "manage.py", "check", SECRET_KEY_FILE="/nonexistent")

    assert ended.returncode == 0, ended.stderr


def test_nothing_collected_is_nothing_to_warn_of() -> None:
    ended = start(sys.executable, "-c", "import config.wsgi")

    assert ended.returncode == 0
    assert ended.stderr == ""
