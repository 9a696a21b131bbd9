"""The settings in docs/operations.md are those of the code."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from django.core.management import CommandError, call_command
from msgspec import Meta

from config.environment import Environment
from config.management.commands import draw_settings


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document whose table is stale."""
    path = tmp_path / "operations.md"
    path.write_text(f"Before\n{draw_settings.BEGIN}as it was\n{draw_settings.END}After\n")
    monkeypatch.setattr(draw_settings, "DOCUMENT", path)
    return path


def test_the_table_in_the_repository_is_what_the_code_says() -> None:
    call_command("draw_settings", check=True)


def test_a_stale_table_fails_the_check_and_is_not_touched(page: Path) -> None:
    with pytest.raises(CommandError, match="draw_settings"):
        call_command("draw_settings", check=True)

    assert "as it was" in page.read_text()


def test_drawing_replaces_the_table_and_nothing_else(page: Path) -> None:
    call_command("draw_settings")

    call_command("draw_settings", check=True)
    assert page.read_text().startswith(f"Before\n{draw_settings.BEGIN}\n| setting |")
    assert page.read_text().endswith(f"|\n\n{draw_settings.END}After\n")


def test_every_setting_has_a_row() -> None:
    rows = draw_settings.table().splitlines()[2:]

    assert [row.split("`")[1] for row in rows] == list(Environment.__struct_fields__)


class Some(msgspec.Struct, kw_only=True):
    NAME: Annotated[str, Meta(min_length=3, description="A name.")]
    LEVEL: Annotated[str, Meta(pattern="^(A|B)$", description="A level.")] = "A"
    SHARE: Annotated[float, Meta(gt=0, le=1_000, description="A share.")] = 0.5
    COUNT: Annotated[int, Meta(ge=1, description="A count.")] = 1_000
    IS_ON: Annotated[bool, Meta(description="A switch.")] = False
    NOTE: Annotated[str, Meta(description="A note.")] = ""


def test_types_bounds_and_defaults_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_settings, "Environment", Some)

    assert draw_settings.table().splitlines()[2:] == [
        "| `NAME` | text of at least 3 characters | none, it is required | A name. |",
        r"| `LEVEL` | text like `^(A\|B)$` | `A` | A level. |",
        "| `SHARE` | number, above 0, at most 1,000 | `0.5` | A share. |",
        "| `COUNT` | whole number, at least 1 | `1000` | A count. |",
        "| `IS_ON` | true or false | `false` | A switch. |",
        "| `NOTE` | text | empty | A note. |",
    ]
