"""Clients that others' generators make of the OpenAPI document: they compile, and run the main flows."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import HERE, run
from tests.clients.service import service

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

FLOWS = """
import sys
from muster_client import Client
from muster_client.api.jobs import cancel_job, job, submit_job
from muster_client.api.tasks import add, add_many, list_tasks
from muster_client.models import NewDemoSlicesJob, NumbersToAdd, OperationToAdd

client = Client(base_url=sys.argv[1])
submitted = submit_job.sync(client=client, body=NewDemoSlicesJob(priority=0))
seen = job.sync(client=client, job_id=submitted.job_id)
gone = cancel_job.sync(client=client, job_id=submitted.job_id)
task = add.sync(client=client, body=OperationToAdd(operation="1.5+2"))
batch = add_many.sync(client=client, body=[NumbersToAdd(a=1, b=2), OperationToAdd(operation="3+4")])
tasks = list_tasks.sync(client=client, limit=3)
print([str(seen.status), str(gone.status), str(task.status), batch.accepted, len(tasks.results)])
"""
EXPECTED = ["CREATED", "CANCELLED", "PENDING", 2, 3]


@pytest.fixture
def address() -> Iterator[str]:
    with service() as address:
        yield address


def test_a_python_client_compiles_and_runs_the_main_flows(
    address: str, document_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(sys.executable).with_name("openapi-python-client")
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)  # It formats with ruff.
    options: list[str | Path] = [
        "--path",
        document_file,
        "--meta",
        "none",
        "--output-path",
        tmp_path / "muster_client",
        "--fail-on-warning",
    ]

    types = dict.fromkeys(("application/x-ndjson", "text/csv"), "application/octet-stream")
    (tmp_path / "config.yaml").write_text(
        json.dumps({"content_type_overrides": types})
    )  # It knows JSON and forms only.

    run(program, "generate", "--config", tmp_path / "config.yaml", *options, folder=tmp_path)
    run(sys.executable, "-m", "compileall", "-q", tmp_path / "muster_client")

    assert eval(run(sys.executable, "-c", FLOWS, address, folder=tmp_path)) == EXPECTED


def test_a_typescript_client_compiles_and_runs_the_main_flows(
    address: str, document_file: Path, programs: Path, tmp_path: Path
) -> None:
    shutil.copy(HERE / "flows.ts", tmp_path)
    (tmp_path / "node_modules").symlink_to(programs.parent)

    run(
        programs / "openapi-typescript",
        document_file,
        "--default-non-nullable",
        "false",
        "--output",
        tmp_path / "muster.d.ts",
    )
    options = ["--strict", "--target", "es2022", "--module", "commonjs", "--types", "node", "--skipLibCheck"]
    run(programs / "tsc", *options, tmp_path / "flows.ts", folder=tmp_path)

    assert json.loads(run("node", "flows.js", address, folder=tmp_path)) == EXPECTED
