"""docs/states.md is drawn from the code."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from orchestrator.management.commands import draw_states


def test_the_page_in_the_repository_is_what_the_code_says() -> None:
    call_command("draw_states", check=True)


def test_a_stale_page_fails_the_check_and_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "states.md"
    page.write_text("as it was")
    monkeypatch.setattr(draw_states, "DOCUMENT", page)

    with pytest.raises(CommandError, match="draw_states"):
        call_command("draw_states", check=True)

    assert page.read_text() == "as it was"


def test_drawing_makes_the_page_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_states, "DOCUMENT", tmp_path / "states.md")

    call_command("draw_states")

    call_command("draw_states", check=True)


def test_the_page_shows_every_move_as_a_line_of_the_table_and_an_arrow() -> None:
    page = draw_states.page()

    assert "| FAILED | CREATED | retried on request |" in page
    assert "    RUNNING --> COMPLETED: its handler returned" in page
