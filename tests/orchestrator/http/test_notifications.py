"""/notifications: who is told of the ends of jobs, and what was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from access.models import AuditEntry
from orchestrator.models import Delivery, Job, Notification
from orchestrator.submission import cancel, submit
from tests.api import Api, pointers
from tests.factories import make_user

pytestmark = pytest.mark.django_db

HOOK = {"name": "hook", "via": "webhook", "target": "https://example.org/hook?token=zq9token"}
SLACK = {"name": "ops", "via": "slack", "target": "https://hooks.slack.com/services/T0/B0/zq9token"}
UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"


def create(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post("/notifications", HOOK | fields)
    assert response.status_code == 201, response.content
    return dict(response.json())


def test_a_secret_is_shown_once_and_what_is_secret_of_a_target_never(api: Api) -> None:
    created = create(api)
    slack = create(api, **SLACK)

    assert created["secret"].startswith("whsec_")
    assert (slack["secret"], slack["digest_seconds"]) == ("", 60)
    shown = api.get(created["links"]["self"]).content + api.get("/notifications").content
    shown += Client().get("/notifications").content + b"".join(
        str([entry.before, entry.after]).encode() for entry in AuditEntry.objects.all()
    )
    assert b"zq9token" not in shown
    assert created["secret"].encode() not in shown
    assert Notification.objects.get(id=created["id"]).target.endswith("zq9token")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"target": "http://example.org/"}, "/target"),
        ({"target": "ftp://example.org/"}, "/target"),
        ({"target": "https://user:password@example.org/"}, "/target"),
        ({"target": "https://example.org/#part"}, "/target"),
        ({"target": "https://[::1/"}, "/target"),
        ({"target": "https://example.org:99999/"}, "/target"),
        ({"target": "example.org"}, "/target"),
        ({"via": "mail", "target": "no address"}, "/target"),
        ({"via": "mail", "target": "a@example.org", "digest_seconds": 0}, "/digest_seconds"),
        ({"via": "pigeon"}, "/via"),
        ({"kind": "demo.slice"}, "/kind"),
        ({"statuses": []}, "/statuses"),
        ({"statuses": ["RUNNING"]}, "/statuses/0"),
        ({"digest_seconds": 100_000}, "/digest_seconds"),
        ({"automatic": "yes"}, "/automatic"),
        ({"colour": "red"}, "/colour"),
    ],
)
def test_what_could_not_work_is_refused(api: Api, fields: dict[str, Any], pointer: str) -> None:
    response = api.post("/notifications", HOOK | fields)

    assert (response.status_code, pointers(response)) == (400, [pointer])
    assert not Notification.objects.exists()


def test_a_notification_can_be_changed_and_deleted(api: Api) -> None:
    path = create(api)["links"]["self"]

    changed = api.send("PATCH", path, b'{"statuses": ["FAILED"], "enabled": false}').json()

    assert (changed["statuses"], changed["enabled"], changed["name"]) == (["FAILED"], False, "hook")
    assert api.send("PATCH", path, b'{"owner": "bob"}').status_code == 400
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404


def test_a_job_names_a_notification_that_its_submitter_sees(
    asks_for_tokens: None, as_user: Callable[..., Api]
) -> None:
    ada, bob = as_user("ada"), as_user("bob")
    id = create(ada, automatic=False)["id"]

    accepted = ada.post("/jobs", {"notify": [id]})
    refused = bob.post("/jobs", {"notify": [id]})

    assert accepted.status_code == 202
    assert [str(each) for each in Job.objects.get().notify or []] == [id]
    assert (refused.status_code, pointers(refused)) == (400, ["/notify/0"])


def test_users_are_told_of_their_own_jobs_and_others_by_permission(
    asks_for_tokens: None, as_user: Callable[..., Api]
) -> None:
    ada, bob = as_user("ada"), as_user("bob", permissions=["add_notification", "view_job"])

    assert create(ada)["owner"] == "ada"
    assert ada.post("/notifications", HOOK | {"owner": "bob"}).status_code == 403
    assert ada.post("/notifications", HOOK | {"owner": ""}).status_code == 403
    assert create(bob, owner="ada")["owner"] == "ada"
    assert create(bob, owner="")["owner"] == ""
    assert pointers(bob.post("/notifications", HOOK | {"owner": "nobody"})) == ["/owner"]
    assert len(ada.get("/notifications").json()["results"]) == 2


def test_mail_goes_to_ones_own_address_unless_one_may_do_more(
    asks_for_tokens: None, as_user: Callable[..., Api]
) -> None:
    ada = as_user("ada", email="ada@example.org")
    bob = as_user("bob", permissions=["add_notification"])

    assert create(ada, via="mail", target="Ada@example.org")["digest_seconds"] == 60
    refused = ada.post("/notifications", HOOK | {"via": "mail", "target": "bob@example.org"})
    assert refused.status_code == 403
    assert "address of your own account" in refused.json()["detail"]
    assert create(bob, via="mail", target="ada@example.org, bob@example.org")


def test_the_log_tells_what_was_sent_and_what_was_given_up_can_be_sent_again(api: Api) -> None:
    links = create(api)["links"]
    cancel(submit("demo.slices").id)
    cancel(Job.objects.get(kind="notifications.deliver").id)

    [logged] = api.get(f"{links['deliveries']}?state=GAVE_UP").json()["results"]
    again = f"{links['deliveries']}/{logged['id']}/send-again"

    assert (logged["type"], logged["error"]) == ("job.cancelled", "It was cancelled.")
    assert api.post(again).json()["message_id"] == logged["message_id"]
    assert api.post(again).status_code == 409
    assert Job.objects.filter(kind="notifications.deliver").count() == 2
    assert api.post(f"{links['deliveries']}/999/send-again").status_code == 404


def test_a_test_message_and_a_new_secret_can_be_asked_for(api: Api) -> None:
    created = create(api)
    slack = create(api, **SLACK)

    assert api.post(created["links"]["test"]).json()["type"] == "test"
    assert api.post(slack["links"]["test"]).status_code == 202
    assert api.post(f"{created['links']['self']}/secret").json()["secret"] not in ("", created["secret"])
    assert api.post(f"{slack['links']['self']}/secret").status_code == 400
    assert Delivery.objects.count() == 2


def test_the_admin_makes_changes_and_tests_notifications(client: Client) -> None:
    client.force_login(make_user("root", is_staff=True, is_superuser=True))
    form = {"name": "hook", "via": "webhook", "new_target": "https://example.org/?t=zq9token", "owner": "", "kind": "",
            "statuses": ["FAILED"], "automatic": "on", "digest_seconds": "0", "enabled": "on"}  # fmt: skip

    page = client.post("/admin/orchestrator/notification/add/", form, follow=True)
    row = Notification.objects.get()
    assert f"SECRET {row.secret}" in page.content.decode()
    own_page = f"/admin/orchestrator/notification/{row.pk}/change/"
    refused = client.post(own_page, form | {"new_target": "", "kind": "x.y"})
    assert "There is no kind" in refused.content.decode()
    client.post(own_page, form | {"new_target": "", "name": "renamed"})
    selected = {"_selected_action": [str(row.pk)]}
    client.post("/admin/orchestrator/notification/", selected | {"action": "send_test"})

    pages = [
        client.get(path).content.decode()
        for path in (
            "/admin/orchestrator/notification/",
            own_page,
            f"/admin/orchestrator/delivery/?notification_id={row.pk}",
            f"/admin/orchestrator/delivery/{Delivery.objects.get().pk}/change/",
        )
    ]
    assert "renamed" in pages[0]
    assert not any(row.secret in page or "zq9token" in page for page in pages)
