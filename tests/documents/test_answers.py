"""Every line that the documents type into a shell is answered as they show."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.environment import Environment
from tests import servers
from tests.documents.reader import API, OPERATIONS, PIPELINES, README, Document, Reader
from tests.system.stack import Stack


class StackOfTheReadme(Stack):
    """As `make up` starts it, on ports of its own."""

    def environment(self) -> dict[str, str]:
        of_other_tests = set(Environment.__struct_fields__) - self.ports.keys() - {"DATA_DIR"} - self.settings.keys()
        return {name: value for name, value in super().environment().items() if name not in of_other_tests}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with StackOfTheReadme(servers.new_folder("documents") / "data") as stack:
        yield stack


def beside(stack: Stack, folder: Path) -> dict[str, str]:
    """The environment of a shell beside the stack, with a folder for backups."""
    lines = (stack.data_dir / "env").read_text().splitlines()
    given = dict(shlex.split(line)[0].split("=", 1) for line in lines)
    return given | {"HOME": str(folder), "BACKUPS": str(folder), "PATH": os.environ["PATH"]}


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> Reader:
    return Reader(f"localhost:{stack.ports['WEB_PORT']}", beside(stack, tmp_path))


# In this order, since the documents share one stack and each takes it as those before it leave it.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", [README, API, PIPELINES, OPERATIONS], ids=lambda document: document.name)
def test_every_line_is_answered_as_shown(reader: Reader, document: Document) -> None:
    assert document.exchanges()

    for exchange in document.exchanges():
        reader.follow(exchange)


@pytest.mark.slow
def test_a_shell_beside_the_stack_takes_over_its_environment(stack: Stack) -> None:
    [line] = [block for block in OPERATIONS.blocks("sh") if "data/env" in block]

    said = subprocess.run(
        ["bash", "-ec", f"{line}\nenv"], cwd=stack.data_dir.parent, env={}, capture_output=True, text=True, check=True
    )

    assert (stack.data_dir / "env").read_text().count("\n") > 3
    assert f":{stack.ports['POSTGRES_PORT']}/" in said.stdout
    assert "DATABASE_URL=" in said.stdout


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {"a": 1}),
        ({"a": 1}, {}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "…": "…"}, {"b": 2}),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"a": [1, 2, "…"]}, {"a": [1]}),
        ({"status": "RUNNING"}, {"status": "CREATED"}),
        ({"at": "2026-11-21T23:48:40.236219Z"}, {"at": "2026-11-21 23:48:40"}),
        ({"aggregated_sum": 1}, {"aggregated_sum": "1"}),
    ],
)
def test_a_wrong_sample_is_noticed(shown: Any, got: Any) -> None:
    assert list(Reader("").body_differences(shown, got, ""))


@pytest.mark.parametrize(
    ("shown", "got", "fits"),
    [
        ("one\ntwo\n", "one\ntwo\n", True),
        ("one\n…\nfour\n", "one\ntwo\nthree\nfour\n", True),
        ("one … three\n", "one 2 three\n", True),
        ("", "", True),
        ("one\n", "one\ntwo\n", False),
        ("one\n…\nfour\n", "one\nfour\nfive\n", False),
        ("one … three\n", "one 2 four\n", False),
        ("", "one\n", False),
        ("one\n", "", False),
    ],
)
def test_a_wrong_text_is_noticed(shown: str, got: str, fits: bool) -> None:
    assert bool(list(Reader("").text_differences(shown, got))) is not fits


def test_a_command_that_fails_is_noticed() -> None:
    assert list(Reader("", {"PATH": os.environ["PATH"]}).shell_differences("false", ""))


def test_an_id_once_given_stays_the_same() -> None:
    reader, id = Reader(""), "01a20083-14a6-7ce3-b7e5-efcdaaa1830"

    assert not list(reader.body_differences({"a": f"{id}1", "b": f"{id}2"}, {"a": f"{id}8", "b": f"{id}9"}, ""))
    assert list(reader.body_differences({"a": f"{id}1"}, {"a": f"{id}9"}, ""))
    assert not list(reader.body_differences({"a": f"see /jobs/{id}1"}, {"a": f"see /jobs/{id}8"}, ""))
