"""The pages of what is set for owners."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from access.models import AuditEntry
from orchestrator.models import OwnerShare
from orchestrator.queue import owners
from tests.factories import staff_with

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()

LIST = reverse("admin:orchestrator_ownershare_changelist")
ADD = reverse("admin:orchestrator_ownershare_add")


@pytest.fixture(autouse=True)
def known(db: None) -> OwnerShare:
    owners.set_slot_share("ada", 0.25)
    owners.pause_owner("")
    return OwnerShare.objects.get(owner="ada")


def page_of(share: OwnerShare, action: str = "change") -> str:
    return reverse(f"admin:orchestrator_ownershare_{action}", args=[share.pk])


def act(client: Client, action: str, *shares: OwnerShare) -> Any:
    return client.post(LIST, {"action": action, "_selected_action": [share.pk for share in shares]}, follow=True)


def actions() -> list[str]:
    return list(AuditEntry.objects.filter(action__startswith="owner").order_by("id").values_list("action", flat=True))


def test_owners_are_listed_with_their_shares_and_state(admin_client: Client) -> None:
    shown = admin_client.get(LIST).content.decode()

    assert all(word in shown for word in ("ada", "0.25", "no owner", "PAUSED", "ACTIVE"))


def test_owners_are_found_by_their_names(admin_client: Client) -> None:
    owners.set_weight("ben", 2)

    shown = admin_client.get(LIST, {"q": "be"}).content.decode()

    assert ">ben<" in shown
    assert ">ada<" not in shown


def test_a_weight_is_changed_and_the_name_stays(admin_client: Client, known: OwnerShare) -> None:
    changed = admin_client.post(page_of(known), {"owner": "ben", "weight": "2.5", "slot_share": ""})

    known.refresh_from_db()
    assert changed.status_code == 302
    assert (known.owner, known.weight, known.slot_share) == ("ada", 2.5, None)
    assert actions()[-1] == "owner.change"


@pytest.mark.parametrize("given", [{"weight": "0"}, {"weight": "101"}, {"weight": "1", "slot_share": "1.5"}])
def test_a_share_out_of_bounds_is_refused_on_the_page(
    admin_client: Client, known: OwnerShare, given: dict[str, str]
) -> None:
    refused = admin_client.post(page_of(known), given)

    known.refresh_from_db()
    assert refused.status_code == 200
    assert "Ensure this value is" in refused.content.decode()
    assert (known.weight, known.slot_share) == (1.0, 0.25)


def test_an_owner_is_added_and_forgotten(admin_client: Client) -> None:
    admin_client.post(ADD, {"owner": "ben", "weight": "2", "slot_share": "0.5"})
    added = OwnerShare.objects.get(owner="ben")
    assert (added.weight, added.slot_share) == (2.0, 0.5)

    admin_client.post(page_of(added, "delete"), {"post": "yes"})

    assert not OwnerShare.objects.filter(owner="ben").exists()
    assert actions()[-2:] == ["owner.change", "owner.forget"]


def test_selected_owners_are_paused_and_resumed(admin_client: Client, known: OwnerShare) -> None:
    assert "Paused ada." in act(admin_client, "pause_selected", known).content.decode()
    known.refresh_from_db()
    assert known.paused_at is not None

    act(admin_client, "resume_selected", known)
    known.refresh_from_db()
    assert known.paused_at is None
    assert actions()[-2:] == ["owner.pause", "owner.resume"]


@pytest.mark.parametrize(("permission", "is_paused"), [("view_ownershare", False), ("pause_ownershare", True)])
def test_who_may_not_pause_owners_is_not_offered_to(known: OwnerShare, permission: str, is_paused: bool) -> None:
    client = staff_with("view_ownershare", permission)

    act(client, "pause_selected", known)

    known.refresh_from_db()
    assert (known.paused_at is not None) == is_paused
    assert ("pause_selected" in client.get(LIST).content.decode()) == is_paused


def test_who_may_only_look_changes_nothing(known: OwnerShare) -> None:
    client = staff_with("view_ownershare")

    assert client.get(page_of(known)).status_code == 200
    assert client.post(page_of(known), {"weight": "2"}).status_code == 403
    assert client.get(ADD).status_code == 403


def test_who_may_not_even_look_is_refused() -> None:
    assert staff_with("view_job").get(LIST).status_code == 403
