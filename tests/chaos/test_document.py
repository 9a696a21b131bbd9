"""The commands and the sample in docs/chaos.md."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import __main__, faults

BASE_DIR = Path(__file__).resolve().parents[2]
DOCUMENT = (BASE_DIR / "docs" / "chaos.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_every_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "ARGS"):  # What `make test` was given is not meant for this make.
        monkeypatch.delenv(name, raising=False)
    shown = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=BASE_DIR, capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", "")
    [arguments] = re.findall(r"-m tests\.chaos (.*)", shown)
    monkeypatch.setattr(sys, "argv", ["chaos", *shlex.split(arguments)])

    options = __main__.arguments()

    asked = dict(re.findall(r"([A-Z]+)=(\w+)", command))
    assert options.seconds == float(asked.get("SECONDS", 300))
    assert options.broker == asked.get("BROKER", "valkey")
    assert str(options.seed) == asked.get("SEED", str(options.seed))


def test_the_sample_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FAULTS", {})
    [sample] = blocks("python")

    exec(sample, vars(faults).copy())

    assert faults.FAULTS["beat_hangs"].touches == "beat"
