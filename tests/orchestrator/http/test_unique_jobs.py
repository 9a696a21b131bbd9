"""`unique` in POST /jobs: the job that there is, what is refused, and whose jobs may be seen or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import kinds
from orchestrator.jobs import Slices, slices
from orchestrator.models import Job
from orchestrator.submission import Unique
from tests.api import Api, pointers

pytestmark = pytest.mark.django_db

SLICES: dict[str, Any] = {"kind": "demo.slices", "payload": {"slices": 2}}


@pytest.fixture
def declare_slices() -> Iterator[Callable[..., None]]:
    """Declares the demo kind otherwise, for one test."""

    def declare(unique: Unique | bool = False) -> None:
        kinds.job("demo.slices", queue="io", payload=Slices, unique=unique)(slices.handler)

    yield declare
    declare()


def test_the_job_that_there_is_comes_with_200_and_duplicate(api: Api) -> None:
    body = SLICES | {"unique": {"key": "nightly"}}

    first, second = api.post("/jobs", body), api.post("/jobs", body)

    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json() == first.json() | {"duplicate": True}
    assert second["Location"] == first["Location"]


def test_every_field_of_unique_takes_effect(api: Api) -> None:
    unique = {"fields": ["slices"], "for_seconds": 60, "on_conflict": "postpone", "wait_seconds": 5}
    body = SLICES | {"unique": unique | {"max_wait_seconds": 20}}

    first = api.post("/jobs", body).json()
    job = Job.objects.get(id=api.post("/jobs", body).json()["job_id"])

    assert str(job.id) == first["job_id"]
    assert job.unique_until
    assert (job.unique_until - job.created_at).total_seconds() == pytest.approx(60)
    assert 0 < (job.run_at - job.created_at).total_seconds() < 20


def test_a_replaced_payload_is_checked_as_any(api: Api) -> None:
    unique = {"unique": {"key": "a", "on_conflict": "replace"}}
    api.post("/jobs", SLICES | unique)

    refused = api.post("/jobs", {"payload": {"slices": 0}} | unique)
    replaced = api.post("/jobs", {"payload": {"slices": 3}} | unique)

    assert pointers(refused) == ["/payload/slices"]
    assert (replaced.status_code, Job.objects.get().payload["slices"]) == (200, 3)


def test_refusing_is_a_409_that_names_the_job(api: Api) -> None:
    body = SLICES | {"unique": {"key": "a", "on_conflict": "refuse"}}
    first = api.post("/jobs", body).json()

    refused = api.post("/jobs", body)

    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:muster:problem:not-unique"
    assert first["job_id"] in refused.json()["detail"]


@pytest.mark.parametrize(
    ("unique", "pointer"),
    [
        ({"key": 1}, "/unique/key"),
        ({"key": "a", "fields": ["slices"]}, "/unique/fields"),
        ({"fields": ["nothing"]}, "/unique/fields"),
        ({"fields": [1]}, "/unique/fields/0"),
        ({"for_seconds": "60"}, "/unique/for_seconds"),
        ({"on_conflict": "ignore"}, "/unique/on_conflict"),
        ({"on_conflict": "postpone"}, "/unique/wait_seconds"),
        ({"across_owners": True}, "/unique/across_owners"),
        ("nightly", "/unique"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_where_it_stands(unique: Any, pointer: str, api: Api) -> None:
    refused = api.post("/jobs", SLICES | {"unique": unique})

    assert (refused.status_code, pointers(refused)) == (400, [pointer])


def test_a_kind_that_declares_it_relies_on_it(declare_slices: Callable[..., None], api: Api) -> None:
    declare_slices(Unique(for_seconds=60))

    refused = api.post("/jobs", SLICES | {"unique": {"key": "mine"}})
    [shown] = [each for each in api.get("/kinds").json()["results"] if each["name"] == "demo.slices"]

    assert pointers(refused) == ["/unique"]
    assert [api.post("/jobs", SLICES).status_code for _ in range(2)] == [202, 200]
    assert (shown["unique"]["for_seconds"], shown["unique"]["fields"]) == (60, None)


def test_an_idempotency_key_repeats_the_answer_of_a_duplicate(api: Api) -> None:
    body = SLICES | {"unique": {"key": "a"}}
    api.post("/jobs", body)

    answers = [api.post("/jobs", body, Idempotency_Key="k") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


def test_users_do_not_share_keys(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    body = SLICES | {"unique": {"key": "a"}}

    assert [as_user(name).post("/jobs", body).status_code for name in ("ada", "bob")] == [202, 202]


def test_a_job_shared_by_all_owners_is_shown_to_those_who_may_see_it(
    declare_slices: Callable[..., None], as_user: Callable[..., Api], asks_for_tokens: None
) -> None:
    declare_slices(Unique(across_owners=True))
    as_user("ada").post("/jobs", SLICES)

    unseen = as_user("bob").post("/jobs", SLICES)
    seen = as_user("grace", group="viewers").post("/jobs", SLICES)

    assert (unseen.status_code, seen.status_code) == (409, 200)
    assert str(Job.objects.get().id) not in unseen.content.decode()


def test_nobody_replaces_anothers_payload_who_may_not_change_jobs(
    declare_slices: Callable[..., None], as_user: Callable[..., Api], asks_for_tokens: None
) -> None:
    declare_slices(Unique(fields=["slices"], across_owners=True, on_conflict="replace"))
    body = SLICES["payload"] | {"seconds_per_slice": 2}
    as_user("ada").post("/jobs", SLICES)

    refused = as_user("bob").post("/jobs", SLICES | {"payload": body})
    also_refused = as_user("grace", group="operators").post("/jobs", SLICES | {"payload": body})
    allowed = as_user("root", is_superuser=True).post("/jobs", SLICES | {"payload": body})

    assert [response.status_code for response in (refused, also_refused, allowed)] == [409, 403, 200]
    assert Job.objects.get().payload["seconds_per_slice"] == 2


def test_of_many_of_several_kinds_those_that_there_are_come_as_duplicates(api: Api) -> None:
    unique = SLICES | {"unique": {"key": "a"}}
    there = api.post("/jobs", unique).json()["job_id"]

    answer = api.post("/jobs/bulk", {"jobs": [unique, SLICES, {"kind": "orchestration.two_batches"}] * 2}).json()

    assert [job["duplicate"] for job in answer["jobs"]] == [True, False, False] * 2
    assert answer["jobs"][0]["job_id"] == answer["jobs"][3]["job_id"] == there
    assert (answer["accepted"], Job.objects.filter(parent=None).count()) == (4, 5)


def test_many_may_be_debounced_apart_and_refused_together(api: Api) -> None:
    def debounced(key: str) -> dict[str, Any]:
        return SLICES | {"unique": {"key": key, "on_conflict": "postpone", "wait_seconds": 9}}

    refusing = SLICES | {"unique": {"key": "b", "on_conflict": "refuse"}}

    accepted = api.post("/jobs/bulk", {"jobs": [debounced("a"), debounced("b"), debounced("a")]})
    refused = api.post("/jobs/bulk", {"jobs": [SLICES, debounced("a"), refusing]})

    assert [job["duplicate"] for job in accepted.json()["jobs"]] == [False, False, True]
    assert refused.status_code == 409
    assert Job.objects.count() == 2


def test_one_of_many_that_cannot_be_unique_so_is_pointed_at(api: Api) -> None:
    refused = api.post("/jobs/bulk", {"jobs": [SLICES, SLICES | {"unique": {"fields": ["nothing"]}}]})

    assert pointers(refused) == ["/jobs/1/unique/fields"]
