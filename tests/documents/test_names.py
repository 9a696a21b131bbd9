"""What the documents name exists: links, settings, commands, endpoints."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.management import get_commands
from django.urls import ResolverMatch, is_valid_path, resolve

from config.environment import Environment
from config.environment_variables import RENAMED
from config.queues import OLD_SIZES
from tests.documents.reader import ALL, API, OPERATIONS, PIPELINES, README, ROOT, Document, parsed

by_name = pytest.mark.parametrize("document", ALL, ids=lambda document: document.name)
OLD_NAMES = (*RENAMED, *OLD_SIZES.values())
# Names that look like settings and are docker-compose.yml's own, Django's, OpenTelemetry's, Sentry's, or a test's.
OTHER_NAMES = {
    "BUILD_TARGET",
    "COMPOSE_PROFILES",
    "DJANGO_SETTINGS_MODULE",
    "INSTALLED_APPS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "SENTRY_ENVIRONMENT",
    "SENTRY_RELEASE",
    "SCHEMATHESIS_SEED",
    "SCHEMATHESIS_SECONDS",
}
ALTERNATIVES = Document(ROOT / "docs" / "alternatives.md")


@by_name
def test_every_link_leads_somewhere(document: Document) -> None:
    pages = {page.path: page for page in ALL}
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.text):
        file, _, anchor = link.partition("#")
        target = (document.path.parent / file).resolve() if file else document.path
        assert target.exists(), link
        assert not anchor or anchor in pages[target].anchors(), link


@pytest.mark.parametrize(
    "document", [page for page in ALL if "decisions" not in page.name], ids=lambda page: page.name
)
def test_every_setting_exists(document: Document) -> None:
    names = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", document.text))

    known = {*Environment.__struct_fields__, *OTHER_NAMES, *(OLD_NAMES if document.name == "CHANGELOG.md" else ())}
    assert {name.removesuffix("_FILE") for name in names} - known == set()


@by_name
def test_every_make_target_and_every_command_exists(document: Document) -> None:
    targets = set(re.findall(r"`(?:[A-Z_]+=\S+ )?make ([a-z-]+)", document.text))
    commands = set(re.findall(r"manage\.py ([a-z_-]*[a-z])", document.text))

    assert targets - set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) == set()
    assert commands - get_commands().keys() == set()


def route(path: str) -> ResolverMatch:
    """What serves the path, which works with and without its last slash."""
    path = re.sub(r"\{\w+\}", "x", path)
    return resolve(path if is_valid_path(path) else f"{path}/")


def test_every_path_of_the_table_is_served_for_its_methods() -> None:
    assert len(API.rows()) > 20
    for path, methods in API.rows():
        view: Any = route(path).func
        for method in methods:
            assert hasattr(view.view_class, method.lower()), (path, method)


def test_every_path_of_the_table_has_a_curl_line_for_each_of_its_methods() -> None:
    commands = [exchange.command for page in (README, API, PIPELINES, OPERATIONS) for exchange in page.exchanges()]
    asked = [parsed(command) for command in commands if command.startswith("curl ")]
    shown = {(route(re.sub(r"^localhost:8000([^?]*).*", r"\1", each.url)).route, each.method) for each in asked}

    wanted = {(route(path).route, method) for path, methods in API.rows() for method in methods}
    assert wanted - shown == set()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def compared(document: Document) -> list[list[str]]:
    """The rows of the table that compares Muster with others."""
    return [cells(line) for line in document.text.splitlines() if line.startswith("|") and len(cells(line)) == 10]


def test_each_cell_about_an_alternative_has_its_source() -> None:
    _, _, *rows = compared(ALTERNATIVES)

    assert len(rows) >= 10
    for topic, _, *others in rows:
        for cell in others:
            assert cell == "–" or re.fullmatch(r"\[[^]]+\]\(https://[^)]+\)", cell), (topic, cell)


def test_the_readme_compares_as_the_page_with_the_sources_does() -> None:
    with_sources = [[re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", cell) for cell in row] for row in compared(ALTERNATIVES)]
    told = compared(README)

    assert len(told) >= 10
    assert [row for row in told if row not in with_sources] == []


def test_the_picture_of_the_demo_shows_a_finished_job_and_needs_nothing_from_elsewhere() -> None:
    picture = (ROOT / "docs" / "demo.svg").read_text()

    assert "COMPLETED" in picture
    assert "first_batch" in picture
    assert "password&#160;…" in picture
    assert "Logs&#160;&#160;&#160;&#160;data/logs" in picture
    assert not re.findall(r"""(?:href=|src=|url\()["']?https?:""", picture)
