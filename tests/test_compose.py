"""The compose file, the image, .env.example and the locked requirements agree with the code; nothing is started."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from config.celery import app
from config.environment import Environment
from config.environment_variables import RENAMED
from config.local.processes import commands
from config.queues import OLD_SIZES
from config.settings import BASE_DIR
from misc import install

COMPOSE = (BASE_DIR / "docker-compose.yml").read_text()
EXAMPLE = (BASE_DIR / ".env.example").read_text()
PROCFILE = commands(("default", "io"))
WORKERS = ("worker-default", "worker-io", "worker-others")
OLD_NAMES = RENAMED.keys() | OLD_SIZES.values()
SETTINGS = set(Environment.__struct_fields__)
# What is said to compose itself, to the database's image, and to Django.
OTHERS = {"IMAGE_TAG", "BUILD_TARGET", "COMPOSE_PROFILES", "POSTGRES_PASSWORD", "DJANGO_SETTINGS_MODULE"}
# What OpenTelemetry's packages read.
OTHERS |= {f"OTEL_{name}" for name in ("EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_HEADERS", "SERVICE_NAME")}
OTHERS |= {f"OTEL_{name}" for name in ("RESOURCE_ATTRIBUTES", "TRACES_SAMPLER", "TRACES_SAMPLER_ARG")}
# What `manage.py up` or tests alone read, and what the file itself fixes, or says by arguments and ports.
FIXED = {"FAILPOINTS", "DATA_DIR", "POSTGRES_PORT", "VALKEY_PORT", "WEB_PORT", "SHUTDOWN_GRACE_SECONDS"}
FIXED |= {"SECRET_KEY", "DATABASE_URL", "FLOWER_BASIC_AUTH"}
# What Flower has besides, and what it does not have.
FLOWERS_OWN = {"FLOWER_BASIC_AUTH_FILE", "DATABASE_URL_FILE"}
# What is right for a container and wrong for `manage.py up`, and the other way round.
OWN_WAYS = ("exec", "nice -n 19", "--host", "--port", "0.0.0.0", "127.0.0.1", "8000", "$WEB_PORT")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return dict(compose["services"])


def explained() -> dict[str, str]:
    """The variables of .env.example with their values; each follows a line that explains it."""
    found = re.findall(r"^# \S.*\n#([A-Z_]+)=(.*)$|^#([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    return {name or other: value or other_value for name, value, other, other_value in found}


def test_every_variable_is_explained_and_does_something(services: dict[str, Any]) -> None:
    interpolated = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))
    passed_on = {
        name
        for service in services.values()
        for name, value in service.get("environment", {}).items()
        if not value and not name.endswith("_FILE")
    }

    assert interpolated | passed_on - OLD_NAMES | {"COMPOSE_PROFILES"} == explained().keys()
    assert explained().keys() - OTHERS <= SETTINGS


def test_every_setting_can_be_set(services: dict[str, Any]) -> None:
    assert SETTINGS - FIXED <= services["web"]["environment"].keys()


def test_a_renamed_setting_can_still_be_set_by_its_old_name(services: dict[str, Any]) -> None:
    assert OLD_NAMES <= services["web"]["environment"].keys()


def test_every_process_has_the_same_settings(services: dict[str, Any]) -> None:
    environments = [
        {name: value for name, value in services[service]["environment"].items() if name not in FLOWERS_OWN}
        for service in (*PROCFILE, "migrate")
    ]

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
        if name not in ("SECRET_KEY", "POSTGRES_PASSWORD", "DATABASE_URL", "BROKER_URL"):
            assert shown == in_force, name


def test_nothing_in_the_example_is_set() -> None:
    assert all(line.startswith("#") for line in EXAMPLE.splitlines() if line)


@pytest.mark.parametrize("name", PROCFILE)
def test_a_process_has_the_flags_of_the_procfile(services: dict[str, Any], name: str) -> None:
    here = services[name]["command"]
    there = shlex.split(PROCFILE[name].replace("nice -n 19", "'nice -n 19'"))

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


def test_each_container_has_its_own_secrets_alone(services: dict[str, Any]) -> None:
    """Those of the application, of migrations, of Flower and of each server are volumes of their own."""
    mounted = {
        name: {volume.split(":")[0] for volume in service.get("volumes", []) if "_secrets" in volume}
        for name, service in services.items()
    }

    assert len(mounted.pop("secrets")) == 6
    assert {name: volumes for name, volumes in mounted.items() if volumes} == {
        **{key: {"app_secrets"} for key in ("web", *WORKERS, "control", "beat")},
        "roles": {"roles_secrets"},
        "migrate": {"migrate_secrets"},
        "flower": {"flower_secrets"},
        "postgres": {"postgres_secrets"},
        "valkey": {"valkey_secrets"},
    }
    for name, service in services.items():
        secret_volumes = [volume for volume in service.get("volumes", []) if "_secrets" in volume]
        assert name == "secrets" or all(volume.endswith(":ro") for volume in secret_volumes)


def test_the_servers_are_in_networks_without_a_way_out(compose: dict[str, Any], services: dict[str, Any]) -> None:
    assert compose["networks"] == {"front": None, "db": {"internal": True}, "broker": {"internal": True}}
    assert services["postgres"]["networks"] == ["db"]
    assert services["valkey"]["networks"] == services["rabbitmq"]["networks"] == ["broker"]
    assert services["flower"]["networks"] == ["front", "broker"]
    assert {name for name in (*PROCFILE, *WORKERS) if "front" in services[name]["networks"]} == {
        "web",
        "flower",
        *WORKERS,
    }


def test_it_requires_tokens_and_has_no_tests_by_default(services: dict[str, Any]) -> None:
    for name in PROCFILE:
        assert services[name]["build"]["target"] == "${BUILD_TARGET:-runtime}"
        # Passed on if given; the settings' own defaults ask for tokens.
        assert (
            services[name]["environment"]["REQUIRE_AUTH"]
            is services[name]["environment"]["ALLOW_UNAUTHENTICATED"]
            is None
        )


def test_workers_serve_every_queue(services: dict[str, Any]) -> None:
    served = {
        command[command.index("-Q") + 1]
        for service in services.values()
        if "-Q" in (command := service.get("command", []))
    }

    assert served == {queue.name for queue in app.conf.task_queues}
    assert services["worker-others"]["command"][3:] == ["default", "io"]
    assert services["worker-others"]["healthcheck"]["test"][5:] == ["default", "io"]


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_requirements_are_the_locked_ones(name: str) -> None:
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


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of requirements of one's own, beside Muster's."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(BASE_DIR / name, tmp_path)
    monkeypatch.setattr(install, "ROOT", tmp_path)
    return tmp_path / "requirements-extra.txt"


@pytest.mark.parametrize("group", ["up", "dev"])
def test_requirements_of_ones_own_are_installed_besides(extra: Path, group: str) -> None:
    ours = install.pinned(group)
    shared = install.entries_of("requirements.txt")[0]
    extra.write_text(f"# by make lock\nshopping==1.0 \\\n    --hash=sha256:{'0' * 64}\n{shared}\n")

    assert install.pinned(group) == [*ours, f"shopping==1.0 --hash=sha256:{'0' * 64}"]


def test_requirements_of_ones_own_that_contradict_those_of_muster_are_refused(extra: Path) -> None:
    extra.write_text(f"django==1.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(SystemExit, match=r"requirements-extra.txt has django==1\.0, and Muster needs django==\d"):
        install.pinned("up")


def test_the_image_has_the_apps_and_the_requirements_of_ones_own(services: dict[str, Any]) -> None:
    dockerfile = (BASE_DIR / "Dockerfile").read_text()

    assert all(services[name]["build"]["args"] == {"EXTRA_APPS": "${EXTRA_APPS:-}"} for name in PROCFILE)
    assert "-r requirements-extra.txt" in dockerfile
    assert "COPY --from=extra-apps /extra-apps ./" in dockerfile


def installed_requirements(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # For another Python or system than this one.


def test_the_tests_of_running_containers_can_be_collected() -> None:
    """They need an engine to run, and run without Django's settings."""
    ran = subprocess.run(
        ["make", "-o", ".venv/dev.stamp", "compose-test", "ARGS=--collect-only -q", "COMPOSE=true"],
        cwd=BASE_DIR,
        env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "tests/compose/scenario.py::" in ran.stdout
