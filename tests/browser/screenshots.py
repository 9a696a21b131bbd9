"""`make screenshots`: the pictures of the README and the documents, and with PICTURES=folder every page in four forms.

It runs as a test, on a database of its own, but looks for nothing.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User

from tests.browser import scene
from tests.browser.conftest import DESK, PHONE, Browser

DOCUMENTS = Path(__file__).parents[2] / "docs" / "pictures"
# Enough for text to be sharp, and a picture to be small.
QUALITY = 82
MAX_HEIGHT = 3_000

admin.autodiscover()


@pytest.fixture
def made(operator: User) -> Iterator[dict[str, Any]]:
    yield scene.make()
    scene.forget()


def pages(made: dict[str, Any]) -> dict[str, str]:
    def page(name: str, model: str) -> str:
        return f"/admin/{model}/{made[name].pk}/change/"

    lists = {
        name: f"/admin/{name.replace('-', '/')}/"
        for name in (
            "orchestrator-job", "orchestrator-kind", "orchestrator-worker", "orchestrator-attempt", "scheduler-task",
            "scheduler-taskschedule", "ingestion-ingestion", "ingestion-recorderror", "access-auditentry",
        )
    }  # fmt: skip
    return {
        "first": "/",
        "home": "/admin/",
        **lists,
        "job": page("failed", "orchestrator/job"),
        "running": page("running", "orchestrator/job"),
        "pipeline": page("pipeline", "orchestrator/job"),
        "kind": page("kind", "orchestrator/kind"),
        "schedule": page("schedule", "scheduler/taskschedule"),
        "ingestion": page("ingestion", "ingestion/ingestion"),
        "not-found": "/admin/nowhere/",
        "docs": "/api/docs/",
    }


def save(browser: Browser, file: Path, height: int | None = None) -> None:
    """height: of the part from the top; the whole page if it is not given."""
    width, whole = browser.driver.execute_script(
        "const page = document.getElementById('main') || document.documentElement;"
        "return [innerWidth, Math.max(document.documentElement.scrollHeight, page.scrollHeight)]"
    )
    clip = {"x": 0, "y": 0, "width": width, "height": min(height or whole, MAX_HEIGHT), "scale": 1}
    asked = {"format": "webp", "quality": QUALITY, "clip": clip, "captureBeyondViewport": True}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(base64.b64decode(browser.driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"]))


def test_pictures_of_the_documents(logged_in: Browser, made: dict[str, Any]) -> None:
    for name, height in (("home", 900), ("job", 1_000), ("pipeline", 1_000)):
        logged_in.resize((1_280, height))
        logged_in.open(pages(made)[name])
        save(logged_in, DOCUMENTS / f"{name}.webp", height)


@pytest.mark.skipif("PICTURES" not in os.environ, reason="PICTURES names no folder.")
def test_pictures_of_every_page(logged_in: Browser, made: dict[str, Any]) -> None:
    folder = Path(os.environ["PICTURES"])
    wanted = os.environ.get("ONLY", "").split(",")
    for size, form in ((DESK, "desk"), (PHONE, "phone")):
        logged_in.resize(size)
        for scheme in ("light", "dark"):
            logged_in.prefer(scheme)
            for name, path in pages(made).items():
                if wanted == [""] or name in wanted:
                    scene.keep_alive()
                    logged_in.open(path)
                    save(logged_in, folder / f"{name}-{form}-{scheme}.webp")
