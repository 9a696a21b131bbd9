"""/kinds/{kind}: a kind's limits, and what a job that waits for one says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from access.models import AuditEntry
from orchestrator.models import Job, RateStart
from orchestrator.models import Kind as KindRow
from orchestrator.queue import kind_limits
from orchestrator.states import Status
from orchestrator.submission import submit
from tests.api import Api, Response, pointers
from tests.factories import make_job, make_worker_row

pytestmark = pytest.mark.django_db

DEMO = "demo.slices"


@pytest.fixture(autouse=True)
def demo_kind(db: None) -> None:
    """What a worker would have reported."""
    kind_limits.forget()
    KindRow.objects.create(name=DEMO, queue="io")


def patch(api: Api, body: Any, kind: str = DEMO) -> Response:
    kind_limits.forget()
    return api.send("PATCH", f"/kinds/{kind}", msgspec.json.encode(body))


def test_limits_are_set_and_taken_back(api: Api) -> None:
    changed = patch(api, {"max_running": 5, "rate": "10/m", "burst": 2})
    assert changed.status_code == 200
    assert changed.json()["limits"]["max_running"] == 5
    assert changed.json()["changed_limits"] == ["max_running", "rate", "burst"]

    restored = patch(api, {"max_running": None, "rate": None, "burst": None})

    assert set(restored.json()["limits"].values()) == {None}
    assert api.get(f"/kinds/{DEMO}").json() == restored.json()
    assert [entry.action for entry in AuditEntry.objects.order_by("id")] == ["kind.limit", "kind.limit"]


def test_a_kind_is_paused_and_resumed_together_with_its_limits(api: Api) -> None:
    assert patch(api, {"paused": True, "max_running": 1}).json()["paused_at"]
    assert patch(api, {"paused": False}).json()["paused_at"] is None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"max_running": 0}, "/max_running"),
        ({"max_running": "many"}, "/max_running"),
        ({"max_running_per_key": 1}, "/max_running_per_key"),
        ({"rate": "10 a minute"}, "/rate"),
        ({"rate": "10/m", "burst": 11}, "/burst"),
        ({"rate": "10/m", "rate_per": "key"}, "/rate_per"),
        ({"rate_per": "day"}, "/rate_per"),
        ({"paused": 1}, "/paused"),
        ({"most": 1}, "/most"),
    ],
)
def test_what_cannot_be_kept_is_refused_as_a_whole(api: Api, body: dict[str, Any], pointer: str) -> None:
    response = patch(api, body | {"max_unfinished_per_owner": 7})

    assert (response.status_code, pointers(response)) == (400, [pointer])
    assert KindRow.objects.get(name=DEMO).limits == {}


def test_an_unknown_kind_is_not_found(api: Api) -> None:
    assert patch(api, {"max_running": 1}, kind="no.kind").status_code == 404
    assert api.get("/kinds/no.kind").status_code == 404


@pytest.mark.usefixtures("asks_for_tokens")
@pytest.mark.parametrize(
    ("permission", "body", "status"),
    [
        ("limit_kind", {"max_running": 1}, 200),
        ("pause_kind", {"max_running": 1}, 403),
        ("limit_kind", {"paused": True}, 403),
        ("pause_kind", {"paused": True}, 200),
    ],
)
def test_pausing_and_limiting_are_permitted_apart(
    as_user: Callable[..., Api], permission: str, body: dict[str, Any], status: int
) -> None:
    assert patch(as_user(permissions=[permission]), body).status_code == status


def test_a_job_says_which_limit_it_waits_for(api: Api) -> None:
    patch(api, {"max_running": 1})
    running = make_job(Status.RUNNING, worker=make_worker_row(), limited=True)
    waiting = make_job(kind=running.kind)
    free = make_job(kind="test.other")

    shown = api.get(f"/jobs/{waiting.id}").json()

    assert shown["waiting_for"] == "max_running"
    assert shown["limit"] == {"name": "max_running", "of": None, "expected_seconds": None}
    assert api.get(f"/jobs/{free.id}").json()["waiting_for"] == "worker"


def test_a_job_says_how_long_its_rate_makes_it_wait(api: Api) -> None:
    patch(api, {"rate": "1/h", "rate_per": "owner"})
    job = make_job(ready=False, blocked_by="rate_per_owner:ada", owner="ada")
    RateStart.objects.create(kind=DEMO, lane="rate_per_owner:ada", started_at=job.created_at)

    limit = api.get(f"/jobs/{job.id}").json()["limit"]

    assert (limit["name"], limit["of"]) == ("rate", "ada")
    assert 3_500 < limit["expected_seconds"] <= 3_600


def test_a_bad_concurrency_key_is_refused_at_submission(kind: Any) -> None:
    keyed = kind(key=lambda payload: payload.get("customer"), max_running_per_key=1)
    assert submit(keyed, {"customer": 7}).limit_key == "7"
    assert submit(keyed).limit_key is None

    for bad in ([1], 1.5, "x" * 201):
        with pytest.raises(ValueError, match=r"must be a string, an integer or a UUID"):
            submit(keyed, {"customer": bad})
    assert Job.objects.count() == 2
