"""The environment of `manage.py up`, which every program beside it finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.environment import Environment
from config.local import environment
from config.settings import BASE_DIR
from tests import servers


@pytest.fixture
def folder() -> Path:
    return servers.new_folder("environment")


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> pytest.MonkeyPatch:
    """A shell that has set nothing but the data folder."""
    for name in Environment.__struct_fields__:
        # Set first, so that what the code under test sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATA_DIR", str(folder))
    return monkeypatch


def test_a_command_beside_up_finds_its_environment(no_settings: pytest.MonkeyPatch) -> None:
    environment.set_environment("up")
    environment.write_environment()
    expected = {name: os.environ[name] for name in ("SECRET_KEY", "DATABASE_URL", "BROKER_URL", "REQUIRE_AUTH")}
    for name in expected:
        no_settings.delenv(name)

    environment.set_environment("shell")

    assert {name: os.environ[name] for name in expected} == expected
    assert (environment.data_dir() / "env").stat().st_mode & 0o777 == 0o600


def test_a_command_beside_up_knows_the_same_kinds_and_settings(no_settings: pytest.MonkeyPatch) -> None:
    own_code = {
        "EXTRA_APPS": "shop",
        "QUEUES": "default:prefork:2,io:threads:32,shop:prefork:1",
        "DJANGO_SETTINGS_MODULE": "shop.settings",
    }
    for name, value in own_code.items():
        no_settings.setenv(name, value)
    environment.set_environment("up")
    environment.write_environment()
    for name in ("SECRET_KEY", "DATABASE_URL", *own_code):
        no_settings.delenv(name)

    environment.set_environment("shell")

    assert {name: os.environ[name] for name in own_code} == own_code


@pytest.mark.parametrize(
    "program",
    [
        ("-m", "celery", "-A", "config", "report"),
        ("-c", "from config import app; print(app.conf.broker_url)"),
        ("-c", "import config.wsgi; from django.conf import settings; print(settings.ENV.BROKER_URL)"),
        ("-c", "from config.__main__ import without_django; print(without_django().conf.broker_url)"),
        ("-c", "from config import healthcheck; print(healthcheck.ENV.BROKER_URL)"),
    ],
    ids=["celery", "python -m config", "wsgi", "flower", "healthcheck"],
)
def test_every_program_beside_up_finds_its_environment(
    no_settings: pytest.MonkeyPatch, folder: Path, program: tuple[str, ...]
) -> None:
    environment.set_environment("up")
    environment.write_environment()
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

    ran = subprocess.run(
        [sys.executable, *program],
        cwd=BASE_DIR,
        env=inherited | {"DATA_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ran.returncode == 0, ran.stderr
    # Celery's report hides where the broker is.
    assert os.environ["BROKER_URL"] in ran.stdout or "broker_url: 'redis://" in ran.stdout


def test_an_explicit_environment_is_left_alone(no_settings: pytest.MonkeyPatch) -> None:
    environment.set_environment("up")
    environment.write_environment()
    for name in ("SECRET_KEY", "BROKER_URL"):
        no_settings.delenv(name)
    no_settings.setenv("DATABASE_URL", "postgresql://production/muster")

    environment.set_environment("shell")

    assert os.environ["DATABASE_URL"] == "postgresql://production/muster"
    assert "SECRET_KEY" not in os.environ


def test_the_data_folder_is_in_the_projects_own(no_settings: pytest.MonkeyPatch) -> None:
    no_settings.delenv("DATA_DIR")

    assert environment.data_dir() == BASE_DIR / "data"


def test_the_defaults_that_are_needed_before_the_settings_are_the_settings_own() -> None:
    documented = Environment(SECRET_KEY="x" * 32)

    for name in ("DATA_DIR", "POSTGRES_PORT", "VALKEY_PORT"):
        assert environment.DEFAULTS[name] == str(getattr(documented, name))
