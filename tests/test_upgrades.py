"""docs/upgrades.md: its commands are run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import call_command

NOTES = (Path(__file__).parents[1] / "docs/upgrades.md").read_text()
COMMANDS = re.findall(r"^\$ .venv/bin/python manage\.py (.+)$", NOTES, re.MULTILINE)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_upgrade_notes_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    call_command(*shlex.split(command))

    assert "No migrations to apply" in capsys.readouterr().out


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 1
