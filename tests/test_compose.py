"""The compose file, the image, .env.example and the locked requirements agree with the code; nothing is started."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from config.celery import app
from config.settings import BASE_DIR, Environment
from misc import install

COMPOSE = (BASE_DIR / "docker-compose.yml").read_text()
EXAMPLE = (BASE_DIR / ".env.example").read_text()
PROCFILE = dict(line.split(": ", 1) for line in (BASE_DIR / "Procfile").read_text().splitlines())
SETTINGS = set(Environment.__struct_fields__)
# What is said to compose itself, and to the database's image.
OTHERS = {"IMAGE_TAG", "BUILD_TARGET", "COMPOSE_PROFILES", "POSTGRES_PASSWORD"}
# What `manage.py up` or tests alone read, and what the file itself fixes, or says by arguments and ports.
FIXED = {"FAILPOINTS", "DATA_DIR", "POSTGRES_PORT", "VALKEY_PORT", "WEB_PORT", "SHUTDOWN_GRACE_SECONDS"}
FIXED |= {"SECRET_KEY", "DATABASE_URL"}
# What is right for a container and wrong for `manage.py up`, and the other way round.
OWN_WAYS = ("exec", "nice", "--host", "--port", "0.0.0.0", "127.0.0.1", "8000", "$WEB_PORT")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE)


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def explained() -> dict[str, str]:
    """The variables of .env.example with their values; each follows a line that explains it."""
    found = re.findall(r"^# \S.*\n#([A-Z_]+)=(.*)$|^#([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    return {name or other: value or other_value for name, value, other, other_value in found}


def test_every_variable_is_explained_and_does_something(services: dict[str, Any]) -> None:
    interpolated = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))
    passed_on = {
        name for service in services.values() for name, value in service.get("environment", {}).items() if not value
    }

    assert interpolated | passed_on | {"COMPOSE_PROFILES"} == explained().keys()
    assert explained().keys() - OTHERS <= SETTINGS


def test_every_setting_can_be_set(services: dict[str, Any]) -> None:
    assert SETTINGS - FIXED <= services["web"]["environment"].keys()


def test_every_process_has_the_same_settings(services: dict[str, Any]) -> None:
    environments = [services[name]["environment"] for name in (*PROCFILE, "migrate")]

    assert all(environment == environments[0] for environment in environments)


def test_the_defaults_that_are_shown_are_those_in_force() -> None:
    interpolated = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    defaults = {
        field: str(default).lower() if isinstance(default, bool) else f"{default}"
        for field, default in zip(
            Environment.__struct_fields__[-len(Environment.__struct_defaults__) :],
            Environment.__struct_defaults__,
            strict=True,
        )
    }

    for name, shown in explained().items():
        in_force = interpolated.get(name, defaults.get(name, ""))
        if name not in ("SECRET_KEY", "POSTGRES_PASSWORD", "DATABASE_URL"):
            assert shown == in_force, name


def test_nothing_in_the_example_is_set() -> None:
    assert all(line.startswith("#") for line in EXAMPLE.splitlines() if line)


@pytest.mark.parametrize("name", PROCFILE)
def test_a_process_has_the_flags_of_the_procfile(services: dict[str, Any], name: str) -> None:
    here = services[name]["command"]
    there = shlex.split(PROCFILE[name])

    assert significant(here) == significant(there)


def significant(command: list[str]) -> list[str]:
    """The command's words without those that differ on purpose; `${NAME:-2}` and `$NAME` are the same."""
    words = [re.sub(r"\$\{(\w+):-\w*\}", r"$\1", word) for word in command]
    return [
        re.sub(r"^(--address|--port)=.*", r"\1", word) for word in words if word not in (*OWN_WAYS, "--port", "--host")
    ]


def test_the_images_own_command_is_the_web_services(services: dict[str, Any]) -> None:
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    [command] = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    [check] = re.findall(r"^    CMD (\[.*\])$", dockerfile, re.MULTILINE)

    assert yaml.safe_load(command) == services["web"]["command"]
    assert ["CMD", *yaml.safe_load(check)] == services["web"]["healthcheck"]["test"]


def test_a_stopped_worker_has_time_to_hand_back_its_jobs(services: dict[str, Any]) -> None:
    for name in PROCFILE:
        grace = services[name]["environment"]["SHUTDOWN_GRACE_SECONDS"]
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= grace + 10


def test_every_container_is_bounded_and_confined(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["mem_limit"]
        assert service["restart"]
        assert service["logging"]["options"]["max-size"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges"]
        assert "healthcheck" in service
        assert "container_name" not in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_workers_serve_every_queue(services: dict[str, Any]) -> None:
    served = {
        command[command.index("-Q") + 1]
        for service in services.values()
        if "-Q" in (command := service.get("command", []))
    }

    assert served == {queue.name for queue in app.conf.task_queues}


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_what_is_wanted_is_what_is_locked(name: str) -> None:
    wanted = [line.split(" #")[0].strip() for line in (BASE_DIR / f"{name}.in").read_text().splitlines()]
    wanted = [re.sub(r"\[.*\]", "", line).lower() for line in wanted if line and not line.startswith(("#", "-r"))]

    entries = install.entries_of(f"{name}.txt")

    assert wanted
    assert not set(wanted) - {entry.split(" ")[0] for entry in entries}
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_locks_agree_and_name_no_index() -> None:
    runtime, development = (install.entries_of(name) for name in ("requirements.txt", "requirements-dev.txt"))

    assert set(runtime) < set(development)
    assert not re.search(r"://|--index|--find-links", "".join(development))


def test_what_up_installs_is_complete() -> None:
    names = {entry.split("==")[0] for entry in install.pinned("up")}
    required = {
        requirement.name.lower()
        for name in names
        for requirement in map(Requirement, installed_requirements(name))
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }

    assert {re.sub(r"[-_.]+", "-", name) for name in required} <= names


def installed_requirements(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # For another Python or system than this one.
