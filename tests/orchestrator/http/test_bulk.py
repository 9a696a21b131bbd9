"""POST /jobs/bulk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator.models import Dependency, Job
from tests.api import Api, pointers

pytestmark = pytest.mark.django_db

SLICES: dict[str, Any] = {"kind": "demo.slices", "payload": {"slices": 2}}
PIPELINE = {"kind": "orchestration.two_batches"}


def bulk(api: Api, *jobs: Any, **headers: str) -> Any:
    return api.post("/jobs/bulk", {"jobs": jobs}, **headers)


def test_jobs_of_several_kinds_are_accepted_in_order(api: Api) -> None:
    response = bulk(api, SLICES | {"priority": 1}, {}, PIPELINE | {"owner": "ada"})

    assert (response.status_code, response.json()["accepted"]) == (202, 3)
    first, second, third = [Job.objects.get(id=each["job_id"]) for each in response.json()["jobs"]]
    assert (first.payload["slices"], first.priority, first.ready) == (2, 1, True)
    assert (second.kind, second.payload["slices"], third.owner) == ("demo.slices", 5, "ada")
    assert response.json()["jobs"][2]["link"] == f"/jobs/{third.id}"


def test_a_pipeline_among_them_has_its_children(api: Api) -> None:
    bulk(api, PIPELINE, PIPELINE)

    assert Job.objects.filter(parent=None, unfinished_dependencies=12).count() == 2
    assert Job.objects.exclude(parent=None).count() == 24
    assert Dependency.objects.count() == 2 * 15


def test_the_notifications_that_jobs_name_are_looked_up_at_once(api: Api) -> None:
    hook = {"name": "a", "via": "webhook", "target": "https://example.org/hook"}
    known, unknown = api.post("/notifications", hook).json()["id"], str(uuid4())

    with CaptureQueriesContext(connection) as sent:
        refused = bulk(api, *[SLICES | {"notify": [known]}] * 20, SLICES | {"notify": [known, unknown]})
    lookups = [each["sql"] for each in sent if "orchestrator_notification" in each["sql"]]
    accepted = bulk(api, SLICES | {"notify": [known]}, SLICES)

    assert (refused.status_code, pointers(refused)) == (400, ["/jobs/20/notify/1"])
    assert len(lookups) == 1
    assert [[str(id) for id in job.notify or []] for job in Job.objects.order_by("id")] == [[known], []]
    assert accepted.status_code == 202


def test_one_bad_job_refuses_all_and_every_error_has_its_place(api: Api) -> None:
    response = bulk(
        api,
        SLICES,
        {"kind": "demo.slices", "payload": {"slices": "two"}},
        {"kind": "demo.slice"},
        {"priority": 10, "more": 1},
        {"kind": "scheduler.add"},
        7,
    )

    assert response.status_code == 400
    assert set(pointers(response)) == {
        "/jobs/1/payload/slices", "/jobs/2/kind", "/jobs/3/priority", "/jobs/3/more", "/jobs/4/kind", "/jobs/5",
    }  # fmt: skip
    assert not Job.objects.exists()


@pytest.mark.parametrize("body", [[], {}, {"jobs": {}}, {"jobs": []}, {"jobs": [{}], "all": True}])
def test_what_is_no_list_of_jobs_is_refused(api: Api, body: Any) -> None:
    assert api.post("/jobs/bulk", body).status_code == 400


def test_more_than_ten_thousand_are_refused(api: Api) -> None:
    response = bulk(api, *[{}] * 10_001)

    assert (response.status_code, pointers(response)) == (400, ["/jobs"])


def test_many_errors_are_cut_short(api: Api) -> None:
    response = bulk(api, *[{"priority": 10}] * 1_001)

    assert len(pointers(response)) == 1_001
    assert response.json()["errors"][-1]["code"] == "and_more"


def test_children_count_toward_what_one_request_may_write(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.submission.MAX_ROWS_AT_ONCE", 20)

    response = bulk(api, PIPELINE, PIPELINE)

    assert (response.status_code, pointers(response)) == (400, ["/jobs/1"])
    assert not Job.objects.exists()


def test_the_cap_on_unfinished_jobs_counts_all_of_them(api: Api) -> None:
    allowed = bulk(api, *[PIPELINE | {"owner": "ada"}] * 3)
    refused = bulk(api, PIPELINE | {"owner": "grace"}, *[PIPELINE | {"owner": "lin"}] * 4)

    assert (allowed.status_code, refused.status_code) == (202, 429)
    assert not Job.objects.filter(owner__in=["lin", "grace"]).exists()


def test_a_key_makes_it_once(api: Api) -> None:
    first = bulk(api, SLICES, SLICES, Idempotency_Key="k")
    second = bulk(api, SLICES, SLICES, Idempotency_Key="k")

    assert second.json() == first.json()
    assert Job.objects.count() == 2
    assert bulk(api, SLICES, Idempotency_Key="k").status_code == 422


def test_who_may_not_submit_for_others_is_refused(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    ada = as_user("ada")

    assert bulk(ada, SLICES, SLICES | {"owner": "grace"}).status_code == 403
    assert bulk(ada, SLICES, SLICES | {"owner": "ada"}).status_code == 202
    assert set(Job.objects.values_list("owner", flat=True)) == {"ada"}
