"""What a person sees who starts Muster with a wrong or missing setting: one sentence, from whichever program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.local.ports import free_port
from config.settings import BASE_DIR

KEY = "only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz"
RIGHT = {"SECRET_KEY": KEY, "DATABASE_URL": "postgresql://nobody:hush@127.0.0.1:1/none", "DATA_DIR": "/nonexistent"}
BIN = Path(sys.executable).parent
# Celery's own program, and the one that the Procfile names.
CELERY, OURS = (str(BIN / "celery"), "-q", "-A", "config"), (sys.executable, "-m", "config")

REFUSED = [
    ({"SECRET_KEY": None}, "SECRET_KEY is not set."),
    ({"SECRET_KEY": "hush"}, "SECRET_KEY is not valid: Expected 32 characters or more."),
    ({"SECRET_KEY": None, "SECRET_KEY_FILE": "/nonexistent/key"}, "SECRET_KEY_FILE must name a file"),
    ({"DATABASE_URL": "hush"}, "DATABASE_URL must look like postgresql://user:password@host:port/name;"),
    ({"DATABASE_URL": "postgresql://u:hush@host:port/name"}, "DATABASE_URL must look like"),
    ({"DATABASE_URL": "mysql://u:hush@host/name"}, "DATABASE_URL must look like postgresql://"),
    ({"DATABASE_URL": "postgresql://u:hush@host"}, "DATABASE_URL names no database"),
    ({"BROKER_URL": "memcached://u:hush@host"}, "BROKER_URL must look like redis://host:port/0"),
    ({"CACHE_URL": "amqp://u:hush@host"}, "CACHE_URL must look like redis://host:port/1"),
    ({"DEBUG": "maybe"}, "DEBUG 'maybe' is not valid: Expected true or false."),
    ({"LEASE_SECONDS": "soon"}, "LEASE_SECONDS 'soon' is not valid: Expected a number."),
    ({"LEASE_SECONDS": "0"}, "LEASE_SECONDS '0' is not valid: Expected a number > 0"),
    ({"LEASE_SECONDS": "6"}, "LEASE_SECONDS must be at least twice HEARTBEAT_SECONDS"),
    ({"WEB_THREADS": "4.5"}, "WEB_THREADS '4.5' is not valid: Expected a whole number."),
    ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL 'LOUD' is not valid"),
    ({"REQUIRE_AUTH": "false"}, "Set REQUIRE_AUTH=true, or ALLOW_UNAUTHENTICATED=true"),
    ({"ALLOWED_HOSTS": " , "}, "ALLOWED_HOSTS is empty"),
    ({"QUEUES": ""}, "QUEUES '' is not valid: declare 1 to 100 queues as name:pool:size"),
    ({"QUEUES": "default:prefork:2"}, "names the queue 'io', which is not in QUEUES: default."),
    ({"EXTRA_APPS": "tests.kinds,nowhere.at_all"}, "EXTRA_APPS names 'nowhere.at_all', which cannot be imported"),
]


def start(*command: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {name: value for name, value in (inherited | RIGHT | settings).items() if value is not None}
    return subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_an_invalid_setting_is_reported_in_one_sentence(settings: dict[str, str | None], sentence: str) -> None:
    ended = start(sys.executable, "manage.py", "check", **settings)

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: ")
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "hush" not in ended.stderr


@pytest.mark.parametrize(
    "command", [*((*CELERY, name) for name in ("worker", "beat", "flower")), (*OURS, "worker"), (*OURS, "beat")]
)
def test_celery_reports_an_invalid_setting_in_one_sentence(command: tuple[str, ...]) -> None:
    ended = start(*command, QUEUES="default:prefork:2")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: The kind ")
    assert len(ended.stderr.splitlines()) == 1


def test_flower_reports_an_invalid_setting_in_one_sentence() -> None:
    ended = start(*OURS, "flower", BROKER_URL="memcached://u:hush@host")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: BROKER_URL must look like redis://host:port/0")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", [CELERY, OURS])
def test_celery_refuses_an_unknown_queue(program: tuple[str, ...]) -> None:
    ended = start(*program, "worker", "-Q", "nowhere")

    assert ended.returncode == 1
    assert (
        "Muster does not start: -Q names 'nowhere', which is none of its queues: default, io, control.\n"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("program", [CELERY, OURS])
def test_a_worker_is_refused_queues_of_different_pools(program: tuple[str, ...]) -> None:
    ended = start(*program, "worker", "-Q", "io,default")

    assert ended.returncode == 1
    assert "Muster does not start: -Q has to name queues of one pool, not default (prefork), io (threads)." in (
        ended.stderr
    )
    assert "Traceback" not in ended.stderr


def test_a_worker_is_refused_another_pool_than_its_queue_declares() -> None:
    ended = start(*CELERY, "worker", "-Q", "default", "-P", "threads")

    assert ended.returncode == 1
    assert "Muster does not start: QUEUES declares default with the pool prefork, so leave out -P." in ended.stderr


def test_settings_of_pools_from_the_release_before_work_with_a_warning() -> None:
    script = "from config.settings import QUEUES; print(QUEUES['default'].size, QUEUES['io'].size)"

    ended = start(sys.executable, "-c", script, WORKER_PROCESSES="3", WORKER_THREADS="5")

    assert (ended.returncode, ended.stdout) == (0, "3 5\n")
    assert "set QUEUES=default:prefork:3,io:threads:5 instead" in ended.stderr


@pytest.mark.slow
def test_the_web_server_exits_with_the_sentence_instead_of_respawning_forever() -> None:
    command = (str(BIN / "granian"), "--interface", "wsgi", "--port", str(free_port()), "--respawn-failed-workers")

    ended = start(
        *command, "--respawn-interval", "0.5", "--log-level", "error", "config.wsgi:application", SECRET_KEY=""
    )

    assert ended.returncode == 1
    assert "Muster does not start: SECRET_KEY is not valid" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def own_settings(folder: Path, code: str, app: str = "shop") -> dict[str, str]:
    """The environment with which a settings module of one's own is found."""
    (folder / app).mkdir()
    (folder / app / "__init__.py").touch()
    (folder / app / "settings.py").write_text(code)
    return {"PYTHONPATH": str(folder), "DJANGO_SETTINGS_MODULE": f"{app}.settings"}


@pytest.mark.parametrize("program", ["manage.py", "wsgi", "worker"])
def test_every_program_uses_a_settings_module_of_ones_own(tmp_path: Path, program: str) -> None:
    own = own_settings(tmp_path, "from config.settings import *\n\nEMAIL_HOST = 'mail.example.org'\n")
    show = "from django.conf import settings; print(settings.EMAIL_HOST, settings.ENV.DATA_DIR)"
    command = {
        "manage.py": ("manage.py", "shell", "-v", "0", "-c", show),
        "wsgi": ("-c", f"import config.wsgi; {show}"),
        "worker": ("-c", f"import config; config.app; {show}"),
    }

    ended = start(sys.executable, *command[program], **own)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "mail.example.org /nonexistent\n"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("EMAIL_HOST = 'mail.example.org'", "must begin with `from config.settings import *`."),
        ("import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere' (/"),
        ("EMAIL_PORT = int('many')", "shop/settings.py, line 1)"),
        ("EMAIL_HOST = ", "cannot be imported: SyntaxError: invalid syntax (settings.py, line 1)"),
        ("from config.settings import *; RETENTION_DAYS = 3", "set the variable RETENTION_DAYS instead."),
        ("from config.settings import *; DEBUG = True", "set the variable DEBUG instead."),
    ],
)
def test_a_settings_module_that_is_of_no_use_is_refused_in_one_sentence(
    tmp_path: Path, code: str, sentence: str
) -> None:
    ended = start(sys.executable, "manage.py", "check", **own_settings(tmp_path, code))

    assert ended.returncode == 1
    assert ended.stderr.startswith("Muster does not start: ")
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_settings_module_that_does_not_exist_is_refused_in_one_sentence() -> None:
    ended = start(sys.executable, "manage.py", "check", DJANGO_SETTINGS_MODULE="nowhere.settings")

    assert ended.returncode == 1
    assert ended.stderr == (
        "Muster does not start: DJANGO_SETTINGS_MODULE names 'nowhere.settings', which cannot be imported: "
        "ModuleNotFoundError: No module named 'nowhere'\n"
    )


def test_a_secret_can_be_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")

    ended = start(sys.executable, "manage.py", "check", SECRET_KEY=None, SECRET_KEY_FILE=str(tmp_path / "key"))

    assert ended.returncode == 0, ended.stderr


def test_a_variable_wins_over_a_file() -> None:
    ended = start(sys.executable, "manage.py", "check", SECRET_KEY_FILE="/nonexistent")

    assert ended.returncode == 0, ended.stderr


def test_the_old_name_of_a_setting_works_with_a_warning() -> None:
    ended = start(sys.executable, "manage.py", "check", REQUIRE_AUTH="false", ALLOW_ANYONE="true")

    assert ended.returncode == 0, ended.stderr
    assert "FutureWarning: The setting ALLOW_ANYONE is now ALLOW_UNAUTHENTICATED" in ended.stderr


def test_missing_static_files_cause_no_warning() -> None:
    ended = start(sys.executable, "-c", "import config.wsgi")

    assert ended.returncode == 0
    assert ended.stderr == ""
