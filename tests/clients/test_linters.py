"""The OpenAPI document in the eyes of other people's linters. What of their rules is off, their files say why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.clients.conftest import HERE, run
from tests.documented import document

pytestmark = pytest.mark.timeout(600)


def test_openapi_spec_validator_finds_nothing() -> None:
    assert not list(OpenAPIV31SpecValidator(document()).iter_errors())


def test_redocly_finds_nothing(programs: Path, document_file: Path) -> None:
    said = run(programs / "redocly", "lint", document_file, "--config", HERE / "redocly.yaml", "--format", "json")

    assert json.loads(said[said.index("{") : said.rindex("}") + 1])["problems"] == []


def test_spectral_finds_nothing(programs: Path, document_file: Path) -> None:
    ruleset = HERE / "spectral.yaml"

    said = run(programs / "spectral", "lint", document_file, "--ruleset", ruleset, "--fail-severity", "warn")

    assert "No results" in said


def test_the_lock_names_no_registry() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]

    assert not [name for name, package in packages.items() if "resolved" in package]
