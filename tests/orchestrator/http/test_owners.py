"""GET and PATCH /owners/{username}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from access.models import AuditEntry
from orchestrator.models import OwnerShare
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.runner import run_next
from tests.api import Api
from tests.orchestrator.workbench import DeclareKind

pytestmark = pytest.mark.django_db
AsUser = Callable[..., Api]


def patch(api: Api, body: Any, owner: str = "ada") -> Any:
    return api.send("PATCH", f"/owners/{owner}", msgspec.json.encode(body))


def test_an_owner_for_whom_nothing_is_set_has_the_weight_one(api: Api) -> None:
    assert api.get("/owners/ada").json() == {"owner": "ada", "weight": 1.0, "slot_share": None, "paused_at": None}


def test_a_paused_owners_jobs_wait_until_it_is_resumed(api: Api, kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits, owner="ada")

    assert patch(api, {"paused": True}).json()["paused_at"] is not None
    assert not run_next(waits, worker)
    assert api.get(f"/jobs/{job.id}").json()["waiting_for"] == "paused_owner"

    assert patch(api, {"paused": False}).json()["paused_at"] is None
    assert run_next(waits, worker)


def test_what_is_left_out_stays(api: Api) -> None:
    patch(api, {"weight": 2, "slot_share": 0.25})
    patch(api, {"paused": True})

    changed = patch(api, {"slot_share": None}).json()

    assert (changed["weight"], changed["slot_share"]) == (2.0, None)
    assert changed["paused_at"]
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        "owner.change",
        "owner.pause",
        "owner.change",
    ]


@pytest.mark.parametrize(
    ("owner", "body", "pointer"),
    [
        ("ada", {"weight": 0}, "/weight"),
        ("ada", {"weight": None}, "/weight"),
        ("ada", {"slot_share": 1.1}, "/slot_share"),
        ("ada", {"pause": True}, "/pause"),
        ("a%20b", {"paused": True}, None),
    ],
)
def test_what_cannot_be_is_refused(api: Api, owner: str, body: Any, pointer: str | None) -> None:
    refused = patch(api, body, owner)

    assert refused.status_code == 400
    assert pointer is None or refused.json()["errors"][0]["pointer"] == pointer
    assert not OwnerShare.objects.exists()


@pytest.mark.usefixtures("asks_for_tokens")
@pytest.mark.parametrize(
    ("permission", "body", "status"),
    [
        ("change_ownershare", {"weight": 2}, 200),
        ("pause_ownershare", {"weight": 2}, 403),
        ("pause_ownershare", {"paused": True}, 200),
        ("view_ownershare", {"paused": True}, 403),
    ],
)
def test_pausing_and_changing_are_permitted_apart(
    as_user: AsUser, permission: str, body: dict[str, Any], status: int
) -> None:
    assert patch(as_user(permissions=[permission]), body).status_code == status


@pytest.mark.usefixtures("asks_for_tokens")
def test_users_see_their_own_share_and_operators_everybodys(as_user: AsUser) -> None:
    ada, operator = as_user("ada"), as_user("op", group="operators")

    assert [ada.get(f"/owners/{name}").status_code for name in ("ada", "ben")] == [200, 403]
    assert [operator.get(f"/owners/{name}").status_code for name in ("ada", "ben")] == [200, 200]
    assert patch(ada, {"paused": False}).status_code == 403
