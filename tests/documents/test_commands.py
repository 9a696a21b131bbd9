"""What the documents say to type before there is a stack, or to look after it, does what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from knox.models import AuthToken

from config.local.ports import free_port
from tests import servers
from tests.documents.reader import README, ROOT, Document

CONTRIBUTING, SECURITY = Document(ROOT / "CONTRIBUTING.md"), Document(ROOT / "SECURITY.md")
MAKEFILE = (ROOT / "Makefile").read_text()
PORTS = ("WEB_PORT", "FLOWER_PORT", "POSTGRES_PORT", "VALKEY_PORT")


@pytest.mark.slow
def test_make_demo_runs_the_main_jobs_to_their_end() -> None:
    assert README.blocks("sh")[0].splitlines()[-1] == "make demo"
    assert re.search(r"^demo: .*\n\t@\$\(BIN\)/python manage.py demo$", MAKEFILE, re.MULTILINE)
    folder = servers.new_folder("demo")
    environment = {name: str(free_port()) for name in PORTS} | {"DATA_DIR": str(folder / "data")}
    environment |= {"PATH": os.environ["PATH"], "HOME": str(folder)}

    said = subprocess.run(
        [sys.executable, "manage.py", "demo", "--picture", str(folder / "demo.svg")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )

    assert said.returncode == 0, said.stdout + said.stderr
    assert "aggregated_sum" in said.stdout
    assert said.stdout.count('"status": "COMPLETED"') == 2
    assert "aggregated_sum" in (folder / "demo.svg").read_text()


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("git")), reason="There is no make, or no git.")
def test_make_hooks_installs_hooks_that_run_the_checks_and_the_tests(tmp_path: Path) -> None:
    assert "make hooks" in CONTRIBUTING.blocks("sh")[0].splitlines()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "misc", tmp_path / "misc")

    subprocess.run(["make", "hooks"], cwd=tmp_path, check=True, capture_output=True)

    for hook, target in {"pre-commit": "check", "pre-push": "test"}.items():
        installed = tmp_path / ".git" / "hooks" / hook
        assert os.access(installed, os.X_OK)
        assert f"make {target}" in installed.read_text()


def test_the_checks_and_the_tests_are_what_ci_runs() -> None:
    named = {line.removeprefix("make ") for line in CONTRIBUTING.blocks("sh")[0].splitlines()}
    ci = (ROOT / ".ci" / "run").read_text()

    assert named == {"hooks", "demo", "check", "test"}
    assert {target for target in named if re.search(rf"^make {target} ", ci, re.MULTILINE)} == {"check", "test"}


@pytest.mark.django_db
def test_the_token_of_the_page_on_security_can_be_made() -> None:
    [line] = re.findall(r"`manage\.py (token USERNAME [^`]+)`", SECURITY.text)
    out = StringIO()

    call_command(*shlex.split(line.replace("USERNAME", "ada")), "--create", stdout=out, stderr=StringIO())

    token = AuthToken.objects.get()
    assert out.getvalue().startswith(token.token_key)
    assert round((token.expiry - token.created) / timedelta(days=1), 3) == 7
