"""Failpoints: where a process can be made to die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest
from django.conf import settings
from django.test.utils import override_settings

from orchestrator.failpoints import NAMES, Failpoint


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


@pytest.fixture
def point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failpoint:
    with override_settings(ENV=msgspec.structs.replace(settings.ENV, FAILPOINTS=str(tmp_path))):
        made = Failpoint("a-point-of-this-test")
    NAMES.remove("a-point-of-this-test")
    return made


def test_a_file_of_its_name_crashes_one_process_there_once(
    point: Failpoint, tmp_path: Path, kills: list[tuple[int, int]]
) -> None:
    (tmp_path / "a-point-of-this-test").touch()

    point()
    point()

    assert kills == [(os.getpid(), signal.SIGKILL)]


def test_a_failpoint_ignores_the_files_of_others(
    point: Failpoint, tmp_path: Path, kills: list[tuple[int, int]]
) -> None:
    (tmp_path / "another-point").touch()

    point()

    assert not kills


def test_without_the_setting_no_file_is_looked_for(kills: list[tuple[int, int]]) -> None:
    point = Failpoint("a-point-of-this-test")
    NAMES.remove("a-point-of-this-test")

    point()

    assert (point.ticket, kills) == (None, [])
