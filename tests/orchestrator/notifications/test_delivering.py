"""Messages are sent in order by job, signed, and to nowhere that is not allowed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.core import mail
from django.db.models.functions import Now
from pytest_django import Settings

from orchestrator import kinds
from orchestrator.models import Delivery, Job, Notification
from orchestrator.notifications import addresses, delivering, digests, services
from orchestrator.notifications.delivering import BeingSent
from orchestrator.notifications.sending import NotSent
from orchestrator.submission import cancel, submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.notifications.conftest import Notify
from tests.orchestrator.notifications.receiver import Receiver
from tests.orchestrator.workbench import DeclareKind, run

pytestmark = pytest.mark.django_db

DELIVERED, GAVE_UP, PENDING = Delivery.State.DELIVERED, Delivery.State.GAVE_UP, Delivery.State.PENDING


@pytest.fixture
def ended(kind: DeclareKind) -> Any:
    """Ends a job of which notifications tell; returns its id."""
    made = kind()

    def end(**options: Any) -> UUID:
        return cancel(submit(made, **options).id).id

    return end


def send(delivery: Delivery) -> int:
    sent: int = async_to_sync(delivering.send_in_order)(delivery.id)
    return sent


def test_a_message_is_verified_by_the_package_that_receivers_use(
    notify: Notify, receiver: Receiver, ended: Any
) -> None:
    notification = notify()
    job = ended(owner="ada")

    send(Delivery.objects.get())

    [event] = receiver.verified(notification.secret)
    assert (event["type"], event["data"]["job_id"], event["data"]["owner"]) == ("job.cancelled", str(job), "ada")
    delivery = Delivery.objects.get()
    assert receiver.accepted[0][0]["webhook-id"] == f"msg_{delivery.message_id.hex}"
    assert (delivery.state, delivery.attempts, delivery.response_status) == (DELIVERED, 1, 204)


def test_the_old_secret_of_a_renewed_one_verifies_for_a_day(notify: Notify, receiver: Receiver, ended: Any) -> None:
    notification = notify()
    new = services.renew_secret(notification.id)
    ended()
    send(Delivery.objects.get())

    assert receiver.verified(notification.secret) == receiver.verified(new)

    Notification.objects.update(old_secret_until=Now())
    services.send_again(Delivery.objects.get().id)
    send(Delivery.objects.get())
    assert "," in receiver.received[1][0]["webhook-signature"]
    assert " " not in receiver.received[1][0]["webhook-signature"]


def test_messages_about_a_job_arrive_in_order_whichever_job_sends_them(
    notify: Notify, receiver: Receiver, ended: Any
) -> None:
    notification = notify()
    ended()
    first = Delivery.objects.get()
    second = Delivery.objects.create(
        notification_id=first.notification_id, job_id=first.job_id, type="job.completed", data={}
    )
    receiver.status = 503
    with pytest.raises(NotSent, match="503"):
        send(first)

    receiver.status = 204
    assert send(second) == 2

    assert [event["type"] for event in receiver.verified(notification.secret)] == ["job.cancelled", "job.completed"]
    assert send(first) == 0


def test_a_message_that_is_given_up_lets_later_ones_pass(notify: Notify, receiver: Receiver, ended: Any) -> None:
    notify()
    ended()
    first = Delivery.objects.get()
    second = Delivery.objects.create(
        notification_id=first.notification_id, job_id=first.job_id, type="job.completed", data={}
    )
    sending = Job.objects.get(kind="notifications.deliver")

    cancel(sending.id)

    first.refresh_from_db()
    assert (first.state, first.error) == (GAVE_UP, "It was cancelled.")
    assert send(second) == 1


def test_two_attempts_do_not_send_about_one_job_at_once(notify: Notify, ended: Any) -> None:
    notify()
    ended()
    Delivery.objects.update(sending_until=Now() + timedelta(seconds=10))

    with pytest.raises(BeingSent):
        send(Delivery.objects.get())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"status": 500, "body": b"broken"}, "answered 500"),
        ({"status": 302, "headers": {"Location": "/elsewhere"}}, "redirects are not followed"),
        ({"status": 200, "body": b"x" * 100_000}, "."),
    ],
    ids=["an error", "a redirect", "too long an answer"],
)
def test_what_is_not_accepted_is_tried_again(
    notify: Notify, receiver: Receiver, ended: Any, answer: Any, why: str
) -> None:
    notify()
    ended()
    vars(receiver).update(answer)

    with pytest.raises(NotSent, match=why):
        send(Delivery.objects.get())

    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.sending_until) == (PENDING, 1, None)
    assert len(receiver.received) == 1
    assert delivery.response == ("broken" if answer["status"] == 500 else "")


def test_a_receiver_that_is_gone_is_told_nothing_more(notify: Notify, receiver: Receiver, ended: Any) -> None:
    notify()
    ended()
    receiver.status = 410
    with pytest.raises(NotSent):
        send(Delivery.objects.get())

    assert not Notification.objects.get().enabled
    send(Delivery.objects.get())
    assert Delivery.objects.get().state == GAVE_UP
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1",
     "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "192.0.0.192", "192.88.99.1", "fec0::1",
     "3fff::1", "::10.0.0.1", "::ffff:0:a00:1", "64:ff9b:1::a00:1", "64:ff9b::c000:c0", "2001:0:a00:1::",
     "fe80::1%eth0"],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(addresses.AddressRefused, match="not a public address"):
        addresses.require_allowed("example.org", address)


def test_a_public_address_is_allowed_and_a_private_one_in_a_network_that_is(settings: Settings) -> None:
    addresses.require_allowed("example.org", "93.184.216.34")
    settings.ENV = msgspec.structs.replace(settings.ENV, WEBHOOK_PRIVATE_NETWORKS="10.1.0.0/16")

    addresses.require_allowed("hooks", "10.1.2.3")
    with pytest.raises(addresses.AddressRefused):
        addresses.require_allowed("hooks", "10.2.0.1")


def test_a_name_that_leads_to_a_private_address_when_it_is_sent_is_refused(
    notify: Notify, receiver: Receiver, ended: Any, settings: Settings
) -> None:
    """As one does whose owner has changed it since (DNS rebinding): what was looked up is what is connected to."""
    notify(target=receiver.url.replace("127.0.0.1", "localhost").replace("http:", "https:"))
    ended()
    settings.ENV = msgspec.structs.replace(settings.ENV, WEBHOOK_PRIVATE_NETWORKS="")

    with pytest.raises(NotSent, match=r"localhost is at .*, which is not a public address"):
        send(Delivery.objects.get())

    assert receiver.received == []


def test_a_digest_is_one_message_and_later_ones_wait(notify: Notify, receiver: Receiver, ended: Any) -> None:
    notification = notify(via="slack", digest_seconds=60)
    for _ in range(3):
        ended()

    digests.submit_digests()
    [first] = Job.objects.filter(kind="notifications.digest")
    assert async_to_sync(delivering.send_digest)(notification.id, first.id) == 3
    ended()
    digests.submit_digests()

    assert Job.objects.filter(kind="notifications.digest").count() == 1
    [text] = receiver.texts()
    assert text.startswith("3 jobs ended: 3 cancelled:\n")
    assert Delivery.objects.filter(state=DELIVERED).count() == 3


def test_a_digest_that_was_not_accepted_is_sent_again_as_it_was(
    notify: Notify, receiver: Receiver, ended: Any
) -> None:
    notification = notify(digest_seconds=1)
    ended()
    digests.submit_digests()
    [job] = Job.objects.filter(kind="notifications.digest")
    receiver.status = 500
    with pytest.raises(NotSent):
        async_to_sync(delivering.send_digest)(notification.id, job.id)
    ended()

    receiver.status = 200
    async_to_sync(delivering.send_digest)(notification.id, job.id)

    assert receiver.received[0][1] == receiver.received[1][1]
    assert receiver.received[0][0]["webhook-id"] == receiver.received[1][0]["webhook-id"]
    [event] = receiver.verified(notification.secret)
    assert event["type"] == "jobs.ended"
    assert Delivery.objects.filter(state=PENDING).count() == 1


def test_mail_is_sent_by_djangos_settings(notify: Notify, ended: Any, settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, PUBLIC_URL="https://muster.example.org")
    notification = notify(via="mail", target="ada@example.org, bob@example.org", digest_seconds=60)
    job = ended()
    digests.submit_digests()

    async_to_sync(delivering.send_digest)(notification.id, Job.objects.get(kind="notifications.digest").id)

    [sent] = mail.outbox
    assert sent.to == ["ada@example.org", "bob@example.org"]
    assert sent.subject.endswith(f"{job} cancelled")
    assert f"https://muster.example.org/jobs/{job}" in sent.body


def test_old_deliveries_are_forgotten_but_not_pending_ones(notify: Notify, ended: Any) -> None:
    notify()
    ended()
    ended()
    Delivery.objects.update(created_at=Now() - timedelta(days=31))
    sent = Delivery.objects.order_by("id").first()
    Delivery.objects.filter(id=sent.id).update(state=DELIVERED)  # type: ignore[union-attr]

    digests.deliveries()

    assert Delivery.objects.get().state == PENDING


@pytest.mark.django_db(transaction=True)
def test_a_worker_sends_what_another_has_ended(
    notify: Notify, receiver: Receiver, worker: WorkerProcess, kind: DeclareKind
) -> None:
    notification = notify()
    made = kind()
    job = submit(made)
    run(made, worker)

    run(kinds.kind_named("notifications.deliver"), worker)
    worker.async_jobs.wait_until_idle(20)

    assert receiver.verified(notification.secret)[0]["data"]["job_id"] == str(job.id)
    assert Job.objects.get(kind="notifications.deliver").status == "COMPLETED"
