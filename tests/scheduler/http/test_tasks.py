"""/tasks/: what is taken for a task, how it is shown, cancelled and run again, and who sees it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DataError, transaction
from django.db.models.functions import Now
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from orchestrator import submission
from orchestrator.models import Job
from orchestrator.queue import claims
from orchestrator.queue.transitions import priority_step
from orchestrator.states import Status
from orchestrator.submission import cancel
from scheduler.http import examples
from scheduler.http.numbers import read_operand
from scheduler.jobs import add, shown
from scheduler.models import Task, TaskResult
from scheduler.services import tasks
from scheduler.services.schedules import run_now
from scheduler.services.tasks import NewTask, create_task, create_tasks
from tests.api import Api, pointers
from tests.concurrency import waiting
from tests.moves import put
from tests.orchestrator.workbench import PATIENCE_SECONDS, threads
from tests.scheduler.factories import make_schedule, make_task, run_all, run_locked

pytestmark = pytest.mark.django_db
threaded = pytest.mark.django_db(transaction=True)

UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"
LONG = "123456789012345678901234567890"


def added(api: Api, body: bytes) -> Any:
    """What the task of that body comes to."""
    response = api.send("POST", "/tasks/", body)
    assert response.status_code == 202, response.content
    run_all()
    return api.get(f"/tasks/{response.json()['id']}/").json()["result"]


def with_status(status: Status, **columns: Any) -> Task:
    task = make_task()
    finished = {} if status in (Status.CREATED, Status.RUNNING) else {"finished_at": Now()}
    put(Job.objects.filter(id=task.job_id), status=status, ready=False, **finished, **columns)
    return task


# Submitting


def test_two_numbers_are_accepted_as_a_task(api: Api) -> None:
    response = api.post("/tasks/", {"a": 1.5, "b": 2, "priority": 0})

    shown = response.json()
    task = Task.objects.get()
    assert response.status_code == 202
    assert shown["url"] == f"/tasks/{task.id}/"
    assert response["Location"] == f"http://testserver/tasks/{task.id}/"
    assert shown.keys() == examples.TASK.keys()
    assert (shown["a"], shown["b"], shown["operation"], shown["priority"]) == (1.5, 2, None, 0)
    assert (shown["status"], shown["result"], shown["failed_message"]) == ("PENDING", None, None)
    assert shown["job"] == f"/jobs/{task.job_id}"
    assert Job.objects.get(id=task.job_id).priority == 0


@threaded
def test_a_task_and_its_job_are_one_message(api: Api, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    api.post("/tasks/", {"a": 1, "b": 2})

    with django_assert_num_queries(1):
        api.post("/tasks/", {"a": 1.5, "b": 2})

    [first, last] = Task.objects.order_by("id")
    assert (last.a, last.b, last.job.payload["task_id"]) == (Decimal("1.5"), 2, str(last.id))
    assert first.job.ready
    assert last.job.ready


@threaded
@pytest.mark.parametrize("before", [0, 5])
def test_a_task_that_is_not_written_leaves_no_job(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    for _ in range(before):  # So often that it is prepared.
        create_task(NewTask(a=Decimal(1), b=Decimal(2)))
    monkeypatch.setattr(tasks, "INSERT_ONE", tasks.INSERT_ONE.replace("%(a)s", "%(a)s::numeric / 0"))

    with pytest.raises(DataError, match="division by zero"):
        create_task(NewTask(a=Decimal(1), b=Decimal(2)))

    assert Job.objects.count() == Task.objects.count() == before


def test_a_task_alone_is_written_as_among_many() -> None:
    new = NewTask(a=Decimal("1.50"), b=Decimal(-2), operation="1.50+-2", priority=2, owner="ada")
    own = ("id", "created_at", "updated_at")

    create_task(new)
    create_tasks([new])

    alone, among_many = ({**each} for each in Task.objects.order_by("id").values())
    jobs = [Job.objects.filter(id=str(each.pop("job_id"))).values().get() for each in (alone, among_many)]
    assert [each["payload"].pop("task_id") for each in jobs] == [str(alone["id"]), str(among_many["id"])]
    assert {**alone, **dict.fromkeys(own)} == {**among_many, **dict.fromkeys(own)}
    assert {**jobs[0], **dict.fromkeys((*own, "run_at", "rank"))} == {
        **jobs[1],
        **dict.fromkeys((*own, "run_at", "rank")),
    }


@threaded
def test_a_task_that_waits_for_its_time_is_as_complete_when_it_is_prepared() -> None:
    run_at = timezone.now() + timedelta(hours=1)

    created = [create_task(NewTask(a=Decimal("1e-3"), b=Decimal(2), priority=7, run_at=run_at)) for _ in range(5)]

    for task in created:
        job = Job.objects.get(id=task.job_id)
        assert (task.created_at, job.run_at, job.ready) == (Task.objects.get(id=task.id).created_at, run_at, False)
        assert job.rank == run_at + 7 * priority_step()


@pytest.mark.parametrize(
    ("operation", "a", "b"),
    [
        ("1.5+2", "1.5", "2"),
        ("1+2", "1", "2"),
        (" 10 + 0.25\t", "10", "0.25"),
        (f"{LONG}+{LONG}.0123456789", LONG, f"{LONG}.0123456789"),
    ],
)
def test_an_operation_is_read_as_its_two_numbers(api: Api, operation: str, a: str, b: str) -> None:
    response = api.post("/tasks/", {"operation": operation})

    task = Task.objects.get()
    assert response.status_code == 202
    assert response.json()["operation"] == operation.strip()
    assert (task.a, task.b) == (Decimal(a), Decimal(b))


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"a": 1, "b": 2}', 3),
        (b'{"a": 0.1, "b": 0.2}', 0.3),
        (b'{"a": 1.5, "b": 0.5}', 2),
        (b'{"a": "1.5", "b": -3}', -1.5),
        (b'{"a": "-0.0", "b": 0}', 0),
        (b'{"a": 1e3, "b": "1E-3"}', 1000.001),
        (b'{"operation": "1.5+2"}', 3.5),
        (b'{"a": 0.1234567891, "b": 100000000000000000000.0000000001}', "100000000000000000000.1234567892"),
        (f'{{"a": {LONG}.0123456789, "b": "{LONG}.1"}}'.encode(), "246913578024691357802469135780.1123456789"),
        (f'{{"a": {"9" * 30}, "b": {"9" * 30}}}'.encode(), 2 * (10**30 - 1)),
        (b'{"a": 5e-324, "b": 0}', 5e-324),
        (b'{"a": 1, "b": 1e-324}', f"1.{1:0324}"),
        (b'{"operation": "0.12345678901+1"}', 1.12345678901),
    ],
)
def test_the_sum_is_exact(api: Api, body: bytes, result: Any) -> None:
    shown = added(api, body)

    assert (shown, type(shown)) == (result, type(result))


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: abs(number) < 1e30))
def test_every_number_that_a_double_holds_is_taken_and_shown_as_it_is(number: float) -> None:
    operand = read_operand(Decimal(repr(number)))

    assert operand == Decimal(repr(number))
    assert Decimal(str(shown(operand))) == operand


BAD_OPERANDS = [
    "NaN", "Infinity", "-inf", "", " ", "one", "1,5", "1_000", "0x10", "١", "1" * 31, "1" * 400,
    "1e400", "1e-325", "0.1e-324", "--1", "1e99999", True, False, [1], {"n": 1}, 10**30, 10**99, 1e30,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_OPERANDS)
@pytest.mark.parametrize("name", ["a", "b"])
def test_an_invalid_number_is_refused_by_its_name(api: Api, name: str, value: Any) -> None:
    response = api.post("/tasks/", {"a": 1, "b": 2} | {name: value})

    assert response.status_code == 400
    assert pointers(response) == [f"/{name}"]
    assert not Task.objects.exists()


@pytest.mark.parametrize("number", ["1e400", "1e99999999999999999999", "-1E+400", "1e-325", "1" * 99])
def test_a_json_number_out_of_bounds_is_refused_by_its_name(api: Api, number: str) -> None:
    response = api.send("POST", "/tasks/", b'{"a": %s, "b": 2}' % number.encode())

    assert response.status_code == 400
    assert pointers(response) == ["/a"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1" * 400, "01", "1."])
def test_an_invalid_json_number_is_refused(api: Api, number: str) -> None:
    assert api.send("POST", "/tasks/", b'{"a": %s, "b": 2}' % number.encode()).status_code == 400


@pytest.mark.parametrize(
    "operation",
    ["", "1", "1+", "+2", "1+2+3", "-1+2", "1+-2", "1 2", "1.+2", ".5+2", "1,5+2", "1e3+2", "a+b", "1*2",
     "1" * 31 + "+1", 3, True, ["1+2"], " " * 200 + "1+2"],
)  # fmt: skip
def test_an_invalid_operation_is_refused(api: Api, operation: Any) -> None:
    response = api.post("/tasks/", {"operation": operation})

    assert response.status_code == 400
    assert pointers(response) == ["/operation"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["/a", "/b"]),
        ({"a": 1}, ["/b"]),
        ({"a": None, "b": 1}, ["/a"]),
        ({"a": 1, "b": 2, "operation": "1+2"}, ["/operation"]),
        ({"a": 1, "operation": "1+2"}, ["/operation"]),
        ({"a": 1, "b": 2, "c": 3}, ["/c"]),
        ({"a": "x", "b": "y", "priority": 10, "c/d": 1}, ["/c~1d", "/a", "/b", "/priority"]),
        ({"a": 1, "b": 2, "priority": 1.5}, ["/priority"]),
        ({"a": 1, "b": 2, "priority": True}, ["/priority"]),
        ({"a": 1, "b": 2, "priority": -1}, ["/priority"]),
        ({"a": 1, "b": 2, "priority": "5"}, ["/priority"]),
        ([], [""]),
        ("1+2", [""]),
    ],
)
def test_an_invalid_task_is_refused_by_its_fields(api: Api, body: Any, expected: list[str]) -> None:
    response = api.post("/tasks/", body)

    assert response.status_code == 400
    assert pointers(response) == expected


@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
def test_every_path_may_end_in_a_slash_or_not(api: Api, path: str) -> None:
    posted = api.post(path, {"operation": "1+2"})

    assert posted.status_code == 202
    assert api.get(path).status_code == 200
    assert api.get(f"{path.rstrip('/')}/{posted.json()['id']}").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"a": 1.5, "b": 2, "priority": 0},
        {"a": "-0.0", "b": "1E+5"},
        {"a": LONG, "b": f"{LONG}.0123456789"},
        {"operation": " 10 + 0.25\t"},
    ],
)
def test_the_response_to_a_new_task_is_what_reading_it_returns(
    as_user: Callable[..., Api], body: dict[str, Any]
) -> None:
    ada = as_user("ada")

    posted = ada.post("/tasks/", body).json()

    assert ada.get(f"/tasks/{posted['id']}/").json() == posted | {"results": []}
    assert [posted] == ada.get("/tasks/").json()["results"]


def test_a_request_that_is_sent_again_makes_one_task_and_is_answered_alike(api: Api) -> None:
    body = {"a": "0.12345678901234"[:12], "b": LONG}

    first = api.post("/tasks/", body, Idempotency_Key="k")
    second = api.post("/tasks/", body, Idempotency_Key="k")

    assert second["Idempotency-Replayed"] == "true"
    assert second.json() == first.json()
    assert Task.objects.count() == 1
    assert api.post("/tasks/", {"operation": "1+2"}, Idempotency_Key="k").status_code == 422


# Reading


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (Status.CREATED, "PENDING"),
        (Status.RUNNING, "PENDING"),
        (Status.COMPLETED, "SUCCESS"),
        (Status.FAILED, "FAILED"),
        (Status.CANCELLED, "CANCELLED"),
    ],
)
def test_a_tasks_status_is_its_jobs(api: Api, status: Status, shown: str) -> None:
    task = with_status(status)

    assert api.get(f"/tasks/{task.id}/").json()["status"] == shown
    assert [each["id"] for each in api.get(f"/tasks/?status={shown}").json()["results"]] == [str(task.id)]
    assert api.get("/tasks/?status=SUCCESS&status=FAILED").json()["results"] == (
        [api.get(f"/tasks/?status={shown}").json()["results"][0]] if shown in ("SUCCESS", "FAILED") else []
    )


def test_a_failed_task_shows_why_and_is_still_a_200(api: Api) -> None:
    task = with_status(Status.FAILED, error="ValueError: no")

    response = api.get(f"/tasks/{task.id}/")

    assert response.status_code == 200
    assert response.json()["failed_message"] == "ValueError: no"


def test_a_done_task_names_its_job_as_the_task_in_flower(api: Api) -> None:
    task = make_task()
    run_all()

    shown = api.get(f"/tasks/{task.id}/").json()

    assert (shown["status"], shown["celery_task_id"], shown["result"]) == ("SUCCESS", str(task.job_id), 3)
    assert shown["results"][0].keys() == {"id", "result", "created_at"}
    assert shown["updated_at"] > shown["created_at"]


def test_the_list_is_filtered_by_schedule_priority_owner_and_time(api: Api) -> None:
    schedule = make_schedule()
    by_schedule = str(run_now(schedule.id))
    urgent = str(make_task(priority=0, owner="ada").id)
    created_at = Task.objects.get(id=urgent).created_at.isoformat().replace("+00:00", "Z")

    def ids(query: str) -> list[str]:
        return [task["id"] for task in api.get(f"/tasks/?{query}").json()["results"]]

    assert ids("") == [urgent, by_schedule]
    assert ids(f"schedule={schedule.id}") == [by_schedule]
    assert ids("priority=0") == ids("owner=ada") == ids(f"created_after={created_at}") == [urgent]
    assert ids(f"created_before={created_at}") == [by_schedule]


@pytest.mark.parametrize(
    "query", ["status=DONE", "schedule=x", "priority=10", "priority=x", "created_after=x", "colour=red", "limit=0"]
)
def test_a_filter_that_does_not_fit_is_refused_by_its_name(api: Api, query: str) -> None:
    response = api.get(f"/tasks/?{query}")

    assert response.status_code == 400
    assert pointers(response) == [f"/{query.partition('=')[0]}"]


def test_pages_follow_each_other_newest_first(api: Api) -> None:
    ids = [str(id) for id in create_tasks([NewTask(a=Decimal(1), b=Decimal(n)) for n in range(5)])]

    first = api.get("/tasks/?limit=3").json()
    second = api.get(first["next"]).json()

    assert [task["id"] for task in first["results"] + second["results"]] == ids[::-1]
    assert second["next"] is None


def test_a_list_takes_one_statement_however_many_tasks_it_shows(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    create_tasks([NewTask(a=Decimal(1), b=Decimal(n)) for n in range(100)])

    with django_assert_num_queries(1):
        assert len(api.get("/tasks/?limit=100").json()["results"]) == 100


def test_one_task_takes_one_statement_and_its_submission_few(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries, django_assert_max_num_queries: Any
) -> None:
    task = make_task()

    with django_assert_num_queries(1):
        api.get(f"/tasks/{task.id}/")
    # The INSERTs of the task and its job, SAVEPOINT and RELEASE of the request, outside of tests a transaction, and
    # what a process reads once in a while: the limits of kinds.
    with django_assert_max_num_queries(5):
        api.post("/tasks/", {"a": 1, "b": 2})


@pytest.mark.parametrize("path", [f"/tasks/{UNKNOWN}/", f"/tasks/{UNKNOWN}"])
def test_an_unknown_task_is_not_found(api: Api, path: str) -> None:
    assert api.get(path).status_code == 404
    assert api.delete(path).status_code == 404
    assert api.post(f"{path.rstrip('/')}/run/").status_code == 404


def test_a_malformed_id_is_bad_input(api: Api) -> None:
    response = api.get("/tasks/seven/")

    assert response.status_code == 400
    assert response.json()["errors"][0]["in"] == "path"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST"])
def test_a_task_cannot_be_changed(api: Api, method: str) -> None:
    assert api.send(method, f"/tasks/{make_task().id}/", b'{"a": 1, "b": 2}').status_code == 405


# Cancelling


def test_deleting_a_waiting_task_cancels_it(api: Api) -> None:
    task = make_task()

    response = api.delete(f"/tasks/{task.id}/")

    assert (response.status_code, response.content) == (204, b"")
    assert api.get(f"/tasks/{task.id}/").json()["status"] == "CANCELLED"


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_a_task_that_has_ended_cannot_be_cancelled(api: Api, status: Status) -> None:
    task = with_status(status)

    response = api.delete(f"/tasks/{task.id}/")

    assert response.status_code == 409
    assert Job.objects.get(id=task.job_id).status == status


@threaded
def test_cancelling_waits_for_the_batch_that_runs_the_task_and_never_in_a_circle(api: Api) -> None:
    task = make_task()

    with transaction.atomic():
        jobs = claims.lock_ready(add, worker_id=0)
        cancelling = waiting(lambda: api.delete(f"/tasks/{task.id}/"))
        # The batch writes a result, whose foreign key asks for the task that the other holds.
        run_locked(jobs)

    assert cancelling.result(PATIENCE_SECONDS).status_code == 409
    assert TaskResult.objects.filter(task=task).count() == 1


# Running again


def test_running_a_task_again_adds_a_result(api: Api) -> None:
    task = make_task()
    run_all()

    response = api.post(f"/tasks/{task.id}/run/")
    pending = api.get(f"/tasks/{task.id}/").json()
    run_all()

    done = api.get(f"/tasks/{task.id}/").json()
    assert response.status_code == 202
    assert (pending["status"], pending["result"], len(pending["results"])) == ("PENDING", 3, 1)
    assert (done["status"], len(done["results"])) == ("SUCCESS", 2)
    assert done["results"][0]["created_at"] > done["results"][1]["created_at"]
    assert done["job"] != f"/jobs/{task.job_id}"


def test_a_waiting_task_cannot_be_run_again(api: Api) -> None:
    assert api.post(f"/tasks/{make_task().id}/run/").status_code == 409


def test_a_cancelled_task_can_be_run_again(api: Api) -> None:
    task = make_task()
    cancel(task.job_id)

    api.post(f"/tasks/{task.id}/run")
    run_all()

    assert api.get(f"/tasks/{task.id}/").json()["result"] == 3


@threaded
def test_a_task_that_two_run_again_at_once_runs_once(api: Api) -> None:
    task = with_status(Status.COMPLETED)

    with threads(2) as submit:
        answers = [submit(api.post, f"/tasks/{task.id}/run/") for _ in range(2)]

    assert sorted(answer.result(PATIENCE_SECONDS).status_code for answer in answers) == [202, 409]


# Access


@pytest.mark.usefixtures("asks_for_tokens")
def test_users_see_and_touch_their_own_tasks_only(as_user: Callable[..., Api]) -> None:
    ada, bob, chief = as_user("ada"), as_user("bob"), as_user("chief", is_superuser=True)

    task = ada.post("/tasks/", {"operation": "1+2"}).json()

    path = f"/tasks/{task['id']}/"
    assert task["owner"] == "ada"
    assert [client.get(path).status_code for client in (ada, bob, chief)] == [200, 404, 200]
    assert [len(client.get("/tasks/").json()["results"]) for client in (ada, bob, chief)] == [1, 0, 1]
    assert [bob.delete(path).status_code, bob.post(f"{path}run/").status_code] == [404, 404]
    assert chief.delete(path).status_code == 204
    assert ada.post(f"{path}run/").status_code == 202


@pytest.mark.usefixtures("asks_for_tokens")
def test_without_a_token_there_is_nothing_to_see_and_a_reading_one_only_reads(
    api: Api, as_user: Callable[..., Api]
) -> None:
    reader = as_user("reader", token_prefix="ro_")

    assert [api.get("/tasks/").status_code, api.post("/tasks/", {"operation": "1+2"}).status_code] == [401, 401]
    assert reader.get("/tasks/").status_code == 200
    assert reader.post("/tasks/", {"operation": "1+2"}).status_code == 403


def test_a_batch_of_results_is_written_with_a_constant_number_of_statements(
    django_assert_max_num_queries: Any,
) -> None:
    create_tasks([NewTask(a=Decimal(1), b=Decimal(n)) for n in range(150)])

    # Three of them a process sends once in a while: two for the notifications there are, one for the limits of kinds.
    with django_assert_max_num_queries(23):
        run_all()

    assert TaskResult.objects.count() == 150


def test_a_task_whose_numbers_cannot_be_added_fails_alone() -> None:
    good, bad = make_task(), make_task()
    Job.objects.filter(id=bad.job_id).update(payload={"task_id": str(bad.id), "a": "one", "b": "2"}, max_attempts=1)

    run_all()

    assert Task.objects.get(id=good.id).job.status == Status.COMPLETED
    assert Task.objects.get(id=bad.id).job.status == Status.FAILED


def test_clients_do_not_submit_the_job_of_a_task(api: Api) -> None:
    payload = {"task_id": str(make_task().id), "a": "1", "b": "2"}

    refused = api.post("/jobs", {"kind": "scheduler.add", "payload": payload})

    assert (refused.status_code, pointers(refused)) == (400, ["/kind"])
    assert "use POST /tasks/ instead" in refused.json()["detail"]
    assert Job.objects.count() == 1


def test_a_job_that_names_no_task_makes_none_and_fails(api: Api) -> None:
    job = submission.submit("scheduler.add", {"task_id": UNKNOWN, "a": "1", "b": "2"})

    run_all()

    assert Job.objects.get(id=job.id).status == Status.FAILED
    assert api.get("/tasks/").json()["results"] == []


def test_a_job_that_names_anothers_task_fails_alone_and_adds_nothing_to_it() -> None:
    of_ada, of_bob = make_task(owner="ada"), make_task(owner="bob")
    payload = {"task_id": str(of_ada.id), "a": "100000", "b": "23"}
    foreign = submission.submit("scheduler.add", payload, owner="bob")

    run_all()

    failed = Job.objects.get(id=foreign.id)
    assert (failed.status, failed.attempt) == (Status.FAILED, 1)
    assert "ada" not in failed.error
    assert str(of_ada.id) not in failed.error
    assert Job.objects.get(id=of_bob.job_id).status == Status.COMPLETED
    assert dict(TaskResult.objects.values_list("task", "result")) == {of_ada.id: 3, of_bob.id: 3}
