"""The containers for real: `make compose-test` builds the image, runs docker-compose.yml and hurts it.

A project of its own, on ports of its own, gone afterwards. It needs a container engine on Linux and the right to kill
the containers' processes, and is no part of `make test`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from config.local.ports import free_port
from tests.system.stack import BASE_DIR, until

COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
PROJECT = "muster-compose-test"
PROCESSES = ("web", "worker-default", "worker-io", "worker-others", "control", "beat", "flower")
SERVERS = ("postgres", "valkey")
PATIENCE_SECONDS = 600
pytestmark = pytest.mark.timeout(1_800)


class Project:
    """The running compose project. Each call of compose has the settings of the last one, and those that it adds."""

    def __init__(self) -> None:
        self.ports = {"WEB_PORT": str(free_port()), "FLOWER_PORT": str(free_port())}
        self.settings = {"ORCHESTRATION_STEP_SECONDS": "0.5", "HEARTBEAT_SECONDS": "2", "LEASE_SECONDS": "6"}
        # All but what asks for a token does without.
        self.settings |= {
            "REQUIRE_AUTH": "false",
            "ALLOW_UNAUTHENTICATED": "true",
            "FLOWER_BASIC_AUTH": "muster:shown",
        }
        self.url = f"http://127.0.0.1:{self.ports['WEB_PORT']}"
        self.flower_url = f"http://127.0.0.1:{self.ports['FLOWER_PORT']}"
        self.engine = "docker" if works("docker", "ps") else "podman"

    def compose(self, *words: str, **settings: str) -> str:
        self.settings |= settings
        return self.output(*COMPOSE, "-p", PROJECT, "-f", str(BASE_DIR / "docker-compose.yml"), *words)

    def up(self, *words: str, **settings: str) -> None:
        """Returns once all is well."""
        self.compose("up", "-d", *words, **settings)
        self.wait_until_ready()

    def output(self, *command: str) -> str:
        environment = os.environ | self.ports | self.settings
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ended.returncode == 0, f"{shlex.join(command)}\n{ended.stdout[-5_000:]}\n{ended.stderr[-5_000:]}"
        return ended.stdout

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What the engine knows of the service's containers that run, by their numbers."""
        labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
        filters = [word for name, value in labels.items() for word in ("--filter", f"label={name}={value}")]
        ids = self.output(self.engine, "ps", "--quiet", "--no-trunc", *filters).split()
        found = json.loads(self.output(self.engine, "inspect", *ids)) if ids else []
        return sorted(found, key=lambda container: str(container["Name"]))

    def container(self, service: str) -> dict[str, Any]:
        [container] = self.containers(service)
        return container

    def is_healthy(self, service: str) -> bool:
        return bool(self.container(service)["State"]["Health"]["Status"] == "healthy")

    def kill(self, service: str) -> None:
        """SIGKILL from outside, as the system would when memory is short, and waits until it runs again."""
        before = self.container(service)["State"]["Pid"]
        os.kill(before, signal.SIGKILL)
        until(
            lambda: any(one["State"]["Pid"] not in (0, before) for one in self.containers(service)), PATIENCE_SECONDS
        )

    def wait_until_ready(self) -> None:
        until(lambda: self.readiness().get("status") == "ready", PATIENCE_SECONDS)

    def readiness(self) -> dict[str, Any]:
        try:
            return dict(requests.get(f"{self.url}/api/health/ready/", timeout=10).json())
        except requests.RequestException:
            return {}

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        answer = requests.post(self.url + path, json=body, timeout=30)
        assert answer.status_code in (201, 202), answer.text
        return dict(answer.json())

    def get(self, path: str) -> dict[str, Any]:
        answer = requests.get(self.url + path, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def some_work(self) -> list[str]:
        """Submits pipelines and jobs of a few seconds for both workers; answers their ids."""
        slices = [self.post("/jobs", {"kind": "demo.slices", "payload": {"slices": 8}}) for _ in range(10)]
        pipelines = [self.post(f"/orchestrate/user-{number}-{os.urandom(4).hex()}") for number in range(5)]
        return [job["job_id"] for job in slices + pipelines]

    def until_completed(self, job_ids: list[str]) -> list[dict[str, Any]]:
        """The jobs once each has run to its end: with an error of its own, none could ever be so."""
        return [until(partial(self._completed, job_id), PATIENCE_SECONDS) for job_id in job_ids]

    def _completed(self, job_id: str) -> dict[str, Any] | None:
        try:
            job = self.get(f"/jobs/{job_id}?wait=5")
        except (requests.RequestException, AssertionError):
            return None
        assert job["status"] not in ("FAILED", "CANCELLED"), job
        return job if job["status"] == "COMPLETED" else None


def works(*command: str) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    if not works(*COMPOSE, "version"):
        pytest.exit(
            f"`{shlex.join(COMPOSE)}` does not work here: install Docker with Compose, or name another that does: "
            'make compose-test COMPOSE="podman-compose"',
            returncode=1,
        )
    project = Project()
    project.compose("down", "-v")
    try:
        project.up("--build")
        yield project
    finally:
        project.compose("--profile", "rabbitmq", "down", "-v")


@pytest.fixture(autouse=True)
def all_is_well(project: Project) -> None:
    project.wait_until_ready()


def test_every_container_becomes_healthy(project: Project) -> None:
    for service in (*PROCESSES, *SERVERS):
        until(partial(project.is_healthy, service), PATIENCE_SECONDS)


@pytest.mark.parametrize("service", PROCESSES)
def test_a_process_runs_confined_and_is_its_containers_first(project: Project, service: str) -> None:
    container = project.container(service)

    status = project.output(project.engine, "exec", container["Id"], "cat", "/proc/1/status")
    command = project.output(project.engine, "exec", container["Id"], "cat", "/proc/1/cmdline")

    assert "Uid:\t10001\t" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["HostConfig"]["Memory"] > 0
    assert "granian" in command or "\0-m\0config" in command
    assert not command.startswith(("sh\0", "/bin/sh\0", "bash\0"))


def test_nothing_listens_beyond_this_machine(project: Project) -> None:
    for service in (*PROCESSES, *SERVERS):
        ports = project.container(service)["HostConfig"]["PortBindings"] or {}
        addresses = [binding["HostIp"] for bindings in ports.values() for binding in bindings or ()]
        assert addresses == (["127.0.0.1"] if service in ("web", "flower") else [])


def test_no_secret_is_in_the_environment_of_a_container(project: Project) -> None:
    key = project.compose("exec", "-T", "web", "cat", "/secrets/secret_key").strip()
    password = project.compose("exec", "-T", "postgres", "cat", "/secrets/postgres_password").strip()

    assert len(key) >= 50
    for service in (*PROCESSES, *SERVERS):
        described = json.dumps(project.container(service))
        assert key not in described
        assert password not in described


def test_the_deployment_checks_are_clean_within_the_image(project: Project) -> None:
    production = ("-e", "REQUIRE_AUTH=true", "-e", "ALLOW_UNAUTHENTICATED=false", "-e", "SECURE_COOKIES=true")

    said = project.compose(
        *("exec", "-T", *production, "web", "python", "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    )

    assert "no issues" in said


def test_an_orchestration_runs_to_its_result(project: Project) -> None:
    started = project.post("/orchestrate/ada")

    project.until_completed([started["job_id"]])

    answer = requests.get(project.url + started["status_url"], timeout=10).json()
    assert answer["status"] == "COMPLETED"
    assert set(answer["result"]) == {"first_batch", "second_batch"}


def test_a_batch_of_tasks_is_added_up(project: Project) -> None:
    example = json.loads((BASE_DIR / "create_tasks_in_batch_example.json").read_text())

    accepted = project.post("/tasks/batch-request/", example)

    ids = [task["id"] for task in accepted["tasks"]]
    until(lambda: all(project.get(f"/tasks/{id}/")["status"] == "SUCCESS" for id in ids), PATIENCE_SECONDS)


def test_a_schedule_runs_as_often_as_it_says(project: Project) -> None:
    schedule = project.post("/task-schedules/", {"operation": "1+2", "interval": 2, "schedule_x_times": 3})

    tasks = until(
        lambda: (
            len(found := project.get(f"/tasks/?schedule={schedule['id']}&status=SUCCESS")["results"]) >= 3 and found
        ),
        PATIENCE_SECONDS,
    )

    assert [task["result"] for task in tasks] == [3, 3, 3]


def test_records_are_ingested(project: Project) -> None:
    script = ("python3", str(BASE_DIR / "misc" / "test_api.py"), project.url)

    said = project.output(*script)

    assert "996 stored, 4 not" in said


@pytest.mark.parametrize("path", ["/swagger/", "/api/docs/", "/admin/login/"])
def test_a_page_has_its_static_files_without_debug(project: Project, path: str) -> None:
    page = requests.get(project.url + path, timeout=30)

    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert page.status_code == 200
    assert files
    for file in files:
        answer = requests.get(project.url + file, timeout=30)
        assert (answer.status_code, bool(answer.content)) == (200, True), file


def test_flower_shows_the_workers(project: Project) -> None:
    def shown() -> str:
        return requests.get(project.flower_url, auth=("muster", "shown"), timeout=30).text

    assert requests.get(project.flower_url, timeout=30).status_code == 401
    page = until(lambda: "io@" in (text := shown()) and text, 60)

    assert all(worker in page for worker in ("default@", "io@", "control@"))


def test_worker_io_can_be_scaled(project: Project) -> None:
    project.up("--scale", "worker-io=3")
    until(lambda: project.readiness()["checks"]["workers"]["queues"]["io"] == 3, PATIENCE_SECONDS)

    jobs = [project.post("/jobs", {"kind": "demo.slices", "payload": {"slices": 10}})["job_id"] for _ in range(90)]

    until(lambda: len({job["worker"] for job in project.get("/jobs?status=RUNNING&limit=200")["results"]}) == 3, 60)
    project.until_completed(jobs)
    project.up("--scale", "worker-io=1")
    # Docker Compose has stopped the others; podman-compose only starts what is missing.
    for extra in project.containers("worker-io")[1:]:
        project.output(project.engine, "rm", "--force", extra["Id"])


def test_queues_without_a_container_of_their_own_are_served(project: Project) -> None:
    project.compose("down")  # podman-compose replaces no container for a setting of the shell.
    project.up(QUEUES="default:prefork:2,io:threads:32,gpu:prefork:1,mail:threads:4")

    until(lambda: served(project) == {"default": 2, "io": 1, "gpu": 1, "mail": 1, "control": 1}, PATIENCE_SECONDS)
    until(partial(project.is_healthy, "worker-others"), PATIENCE_SECONDS)

    project.compose("down")
    project.up(QUEUES="default:prefork:2,io:threads:32")
    until(lambda: served(project) == {"default": 2, "io": 1, "control": 1}, PATIENCE_SECONDS)


def served(project: Project) -> dict[str, int]:
    """How many processes each queue has."""
    return dict(project.readiness().get("checks", {}).get("workers", {}).get("queues", {}))


@pytest.mark.parametrize("service", [*PROCESSES, *SERVERS])
def test_a_killed_container_comes_back_and_nothing_is_lost(project: Project, service: str) -> None:
    jobs = project.some_work()
    until(lambda: project.get("/jobs?status=RUNNING&kind=demo.slices")["results"], PATIENCE_SECONDS)

    project.kill(service)

    ended = project.until_completed(jobs)
    assert len(ended) == len(jobs)
    assert all(job["result"] for job in ended)


@pytest.mark.parametrize("server", SERVERS)
def test_a_restarted_server_loses_nothing(project: Project, server: str) -> None:
    jobs = project.some_work()

    project.compose("restart", server)

    project.until_completed(jobs)


def test_an_upgrade_in_place_uses_up_no_attempt(project: Project) -> None:
    before = {service: project.container(service)["Id"] for service in PROCESSES}
    long_ones = [project.post("/jobs", {"kind": "demo.slices", "payload": {"slices": 30}}) for _ in range(10)]
    jobs = [job["job_id"] for job in long_ones] + project.some_work()
    declared = {job_id: project.get(f"/jobs/{job_id}")["max_attempts"] for job_id in jobs}
    until(lambda: project.get("/jobs?status=RUNNING&kind=demo.slices")["results"], PATIENCE_SECONDS)

    project.up("--build", IMAGE_TAG="next")

    assert all(project.container(service)["Id"] != before[service] for service in PROCESSES)
    for job in project.until_completed(jobs):
        # podman-compose replaces the database together with the workers, so that some cannot hand back their jobs.
        assert {attempt["outcome"] for attempt in job["attempts"]} <= {"INTERRUPTED", "UNAVAILABLE"}, job
        # An attempt that is not charged raises the most that there may be.
        assert job["max_attempts"] == declared[job["job_id"]] + len(job["attempts"]), job


def test_down_and_up_keep_the_data(project: Project) -> None:
    jobs = project.some_work()
    finished = project.until_completed(jobs)[0]

    project.compose("down")
    project.up()

    assert project.get(f"/jobs/{finished['job_id']}") == finished


def test_rabbitmq_is_the_broker_by_its_profile(project: Project) -> None:
    project.compose("down")  # podman-compose replaces no container for a setting of the shell.
    project.up(COMPOSE_PROFILES="rabbitmq", BROKER_URL="amqp://guest:guest@rabbitmq:5672//")

    project.until_completed(project.some_work())

    until(lambda: re.search(r"^default\s+1$", queues_of_rabbitmq(project), re.MULTILINE), PATIENCE_SECONDS)


def queues_of_rabbitmq(project: Project) -> str:
    """Each queue with the number of its consumers, a line each."""
    return project.compose("exec", "-T", "rabbitmq", "rabbitmqctl", "-q", "list_queues", "name", "consumers")


def test_all_that_the_document_says_works_in_its_order(project: Project, tmp_path: Path) -> None:
    """The tests that run in the container are those of CONTAINER_TESTS; all of them take as long as `make test`."""
    kept = project.until_completed(project.some_work())[0]
    document = (BASE_DIR / "docs" / "compose.md").read_text()
    words = shlex.join((*COMPOSE, "-p", PROJECT, "-f", str(BASE_DIR / "docker-compose.yml")))
    tests = os.environ.get("CONTAINER_TESTS", "tests/orchestrator/test_states.py tests/orchestrator/http/test_jobs.py")

    for block in re.findall(r"^```sh\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        command = block.replace("docker compose", words).replace("localhost:8000", project.url)
        said = project.output(
            "bash", "-ec", f"cd {tmp_path}\n{command.replace('web pytest', f'-T web pytest -q {tests}')}"
        )
        if "web pytest" in block:
            assert re.search(r"\d+ passed", said)
        elif "down" not in block:
            project.wait_until_ready()
    project.up()

    assert project.get(f"/jobs/{kept['job_id']}") == kept
