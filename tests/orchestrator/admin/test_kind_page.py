"""The page of a kind: its figures, how it is declared, and pausing it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator.models import Backlog, HeldBack, Kind, Rollup
from orchestrator.rollups.durations import BUCKETS
from tests.factories import staff_with

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()

NAME = "demo.slices"


@pytest.fixture(autouse=True)
def known(db: None) -> Kind:
    return Kind.objects.create(name=NAME, queue="io", description="Works in slices.")


def address(action: str = "change") -> str:
    return reverse(f"admin:orchestrator_kind_{action}", args=[NAME])


def page(client: Client) -> str:
    return client.get(address()).content.decode()


def act(client: Client, action: str) -> Any:
    return client.post(address(action), {"_form_submitted": "True"})


def rolled_up(kind: str = NAME, **columns: Any) -> None:
    ran = [0] * BUCKETS
    ran[21] = 5
    now = timezone.now().replace(second=0, microsecond=0)
    for span, begins_at in (("minute", now - timedelta(minutes=2)), ("hour", now.replace(minute=0))):
        given = {"completed": 5, "failed": 0, "cancelled": 0, "errors": 0, "waits": ran, "runs": ran} | columns
        Rollup.objects.create(span=span, begins_at=begins_at, kind=kind, **given)


def test_a_kind_shows_its_own_figures_and_how_it_is_declared(admin_client: Client) -> None:
    rolled_up(failed=2, last_error="ValueError: 503", last_failure_at=timezone.now(), first_failure_at=timezone.now())
    rolled_up("another.kind", completed=70)
    now = timezone.now()
    Backlog.objects.create(
        kind=NAME, waiting=17, running=3, counted_at=now, oldest_since=now - timedelta(minutes=4, seconds=5)
    )

    shown = page(admin_client)

    assert "7 in the last hour" in shown
    assert "oldest for <time" in shown
    assert "4 min</time>" in shown
    assert "ValueError: 503" in shown
    assert "Works in slices." in shown
    assert "at most 3" in shown


def test_a_kind_of_which_nothing_has_run_says_so(admin_client: Client) -> None:
    shown = page(admin_client)

    assert shown.count("No job ended in this time.") == 2
    assert "No job completed in this time." in shown


def test_a_kind_is_paused_and_resumed_on_its_page(admin_client: Client) -> None:
    assert "/resume_this/" not in page(admin_client)
    answer = act(admin_client, "pause_this")
    assert answer["HX-Redirect"] == address()
    assert Kind.objects.get().paused_at

    assert "/pause_this/" not in page(admin_client)
    act(admin_client, "resume_this")
    assert Kind.objects.get().paused_at is None


def change_limits(client: Client, **form: str) -> dict[str, Any]:
    path = reverse("admin:orchestrator_kind_change_limits_of_this", args=[Kind.objects.get().name])
    client.post(path, {"_form_submitted": "True"} | form)
    return dict(Kind.objects.get().limits)


def test_limits_are_changed_on_its_page(admin_client: Client) -> None:
    assert change_limits(admin_client, max_running="5", rate="10/m") == {"max_running": 5, "rate": "10/m"}
    assert "5 (set here)" in page(admin_client)
    assert change_limits(admin_client, max_running="unlimited") == {"max_running": None}
    assert change_limits(admin_client, max_running="none", rate="1/m") == {"max_running": None}
    assert change_limits(staff_with("view_kind"), max_running="1") == {"max_running": None}


def test_what_its_limits_hold_back_is_on_its_page(admin_client: Client) -> None:
    Kind.objects.filter(name=NAME).update(declared_limits={"max_running_per_key": 1})
    HeldBack.objects.create(kind=NAME, limit="max_running_per_key", jobs=41, oldest_since=timezone.now())

    shown = page(admin_client)

    assert "max_running_per_key = 1" in shown
    assert f"?kind={NAME}&amp;waiting_for=max_running_per_key" in shown


def test_whoever_may_only_look_is_offered_no_button() -> None:
    client = staff_with("view_kind")

    assert "/pause_this/" not in page(client)
    assert "/change_limits_of_this/" not in page(client)
    assert act(client, "pause_this").status_code == 403
    assert Kind.objects.get().paused_at is None


def test_the_list_shows_how_long_jobs_typically_take_by_the_hour(admin_client: Client) -> None:
    rolled_up()

    shown = admin_client.get(reverse("admin:orchestrator_kind_changelist")).content.decode()

    assert "Typical run time, last day by the hour: median 1.2 s to 1.2 s" in shown
