"""The short Python examples of the pages on limits, fairness, notifications and metrics run as they are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from orchestrator import kinds
from orchestrator.kinds import job, kind_named
from orchestrator.metrics import registry
from orchestrator.models import OwnerShare
from orchestrator.running import RunningJob
from tests.documents.reader import ROOT, Document

PAGES = ("limits", "fairness", "notifications", "observability")
[LIMITS], [FAIRNESS], [NOTIFICATIONS], [METRICS] = (
    Document(ROOT / "docs" / f"{name}.md").blocks("python") for name in PAGES
)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Charge(msgspec.Struct):
    customer_id: str


def test_a_kind_declares_its_limits() -> None:
    exec(LIMITS, {"job": job, "RunningJob": RunningJob, "Charge": Charge})
    try:
        assert kind_named("billing.charge").limits is not None
    finally:
        kinds.forget_kind("billing.charge")


@pytest.mark.django_db
def test_owners_are_given_weights_and_shares_and_paused() -> None:
    exec(FAIRNESS, {})

    shares = {share.owner: (share.weight, share.slot_share) for share in OwnerShare.objects.all()}
    assert (shares["ada"][0], shares["nightly"][1]) == (2, 0.25)
    assert not OwnerShare.objects.filter(paused_at__isnull=False).exists()


def test_a_receiver_verifies_what_it_was_sent() -> None:
    sent_at, body = datetime.now(UTC), json.dumps({"type": "job.completed"})
    signature = Webhook(SECRET).sign("msg_1", sent_at, body)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": signature,
    }
    variables: dict[str, Any] = {"request": SimpleNamespace(body=body, headers=headers)}

    exec(NOTIFICATIONS.replace("whsec_…", SECRET), variables)

    assert variables["event"] == {"type": "job.completed"}


def test_an_app_adds_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: dict[str, Any] = {}
    monkeypatch.setattr(registry, "source", lambda function: function)

    exec(METRICS, variables)

    [metric] = variables["invoices"]()
    assert [(sample.name, sample.value) for sample in metric.samples] == [("billing_invoices_open", 3)]
