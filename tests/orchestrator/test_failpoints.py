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


def test_a_file_of_its_name_makes_one_process_die_there_once(
    point: Failpoint, tmp_path: Path, kills: list[tuple[int, int]]
) -> None:
    (tmp_path / "a-point-of-this-test").touch()

    point()
    point()

    assert kills == [(os.getpid(), signal.SIGKILL)]


def test_nobody_dies_for_another_points_file(point: Failpoint, tmp_path: Path, kills: list[tuple[int, int]]) -> None:
    (tmp_path / "another-point").touch()

    point()

    assert not kills


def test_without_the_setting_there_is_nothing_to_look_for(kills: list[tuple[int, int]]) -> None:
    point = Failpoint("a-point-of-this-test")
    NAMES.remove("a-point-of-this-test")

    point()

    assert (point._ticket, kills) == (None, [])
