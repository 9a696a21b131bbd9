"""The programs that read the OpenAPI document, and the document as a file."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documented import document

HERE = Path(__file__).parent
INSTALL_SECONDS = 300


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the programs that package-lock.json names, installed if that has changed."""
    if not shutil.which("npm"):
        pytest.skip("There is no npm: apt-get install nodejs npm")
    folder, lock = HERE / "node_modules", HERE / "package-lock.json"
    installed = folder / "installed-lock.json"
    with (HERE / ".install.lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_bytes() != lock.read_bytes():
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", seconds=INSTALL_SECONDS)
            shutil.copy(lock, installed)
    return folder / ".bin"


@pytest.fixture(scope="session")
def document_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_text(json.dumps(document(), indent=1))
    return file


def run(*command: str | Path, seconds: float = 120, folder: Path = HERE) -> str:
    """What the command says; fails the test where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
