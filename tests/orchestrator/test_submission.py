"""What is accepted, what is refused, and that a job exists exactly if its caller's data does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.db import DatabaseError, transaction
from django.utils import timezone

from orchestrator import submission
from orchestrator.kind_problems import BadPayload, UnknownKind
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Dependency, Job, Step
from orchestrator.submission import (
    COPIED_FROM,
    BadSubmission,
    Child,
    Submission,
    TooManyUnfinished,
    submit,
    submit_many,
)
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, complete, fail, lease, write, written

pytestmark = pytest.mark.django_db


class Sum(msgspec.Struct):
    a: int
    b: int


def test_a_job_is_accepted_ready_and_unstarted(kind: DeclareKind) -> None:
    job = submit(kind(payload=Sum, max_attempts=4), {"a": 1, "b": 2}, owner="ada")

    assert (job.status, job.ready, job.attempt, job.max_attempts) == ("CREATED", True, 0, 4)
    assert (job.owner, job.payload, job.priority) == ("ada", {"a": 1, "b": 2}, 5)
    assert job.rank == job.run_at + timedelta(minutes=5)


def test_a_job_exists_if_and_only_if_its_callers_transaction_commits(kind: DeclareKind) -> None:
    adding = kind()

    with transaction.atomic():
        write("the caller's data")
        submit(adding)
        within = Job.objects.count()
        transaction.set_rollback(True)

    assert within == 1
    assert written() == set()
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_bell_rings_only_after_the_commit(kind: DeclareKind, rung: list[str]) -> None:
    adding = kind()

    with transaction.atomic():
        submit(adding)
        within = list(rung)

    assert within == []
    assert rung == [adding.name]


@pytest.mark.django_db(transaction=True)
def test_no_bell_rings_for_what_was_rolled_back(kind: DeclareKind, rung: list[str]) -> None:
    adding = kind()

    with transaction.atomic():
        submit(adding)
        transaction.set_rollback(True)

    assert rung == []


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownKind):
        submit("test.nobody_has_this")


@pytest.mark.parametrize("priority", [-1, 10, 10**30, True, 1.0, "5"])
def test_a_priority_beyond_0_to_9_is_refused(priority: Any, kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission) as refusal:
        submit(kind(), priority=priority)

    assert refusal.value.problems[0].pointer == "/priority"


@pytest.mark.parametrize("max_attempts", [0, -1, 1_001, True, "3"])
def test_an_out_of_range_number_of_attempts_is_refused(max_attempts: Any, kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission) as refusal:
        submit(kind(), max_attempts=max_attempts)

    assert refusal.value.problems[0].pointer == "/max_attempts"


@pytest.mark.parametrize(
    "run_at",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC).astimezone(UTC),
    ],
)
def test_a_time_without_a_zone_or_beyond_the_calendar_is_refused(run_at: datetime, kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission) as refusal:
        submit(kind(), run_at=run_at)

    assert refusal.value.problems[0].pointer == "/run_at"
    assert not Job.objects.exists()


def test_a_future_job_waits_without_being_ready(kind: DeclareKind) -> None:
    later = timezone.now() + timedelta(hours=1)

    job = submit(kind(), run_at=later, priority=0)

    assert (job.ready, job.run_at, job.rank) == (False, later, later)


def test_a_job_with_a_start_in_the_past_is_ready_at_once(kind: DeclareKind) -> None:
    job = submit(kind(), run_at=timezone.now() - timedelta(hours=1))

    assert job.ready


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", {"\x00": 1}, {"deep": ["\udfff"]}, object(), "x" * 5_000_001])
def test_a_payload_postgresql_cannot_hold_is_refused(value: Any, kind: DeclareKind) -> None:
    refused: tuple[type[BadSubmission | BadPayload], ...] = (BadSubmission, BadPayload)

    with pytest.raises(refused) as refusal:
        submit(kind(), {"value": value})

    assert refusal.value.problems[0].pointer.startswith("/payload")


def test_a_whole_number_is_an_integer_however_it_is_written(kind: DeclareKind) -> None:
    adding = kind(payload=Sum)

    assert submit(adding, {"a": 5.0, "b": 2}).payload == {"a": 5, "b": 2}
    for a in (5.5, 1e300, float("inf"), "5", True):
        with pytest.raises(BadPayload, match="/payload/a"):
            submit(adding, {"a": a, "b": 2})


def test_a_payload_nested_beyond_reason_is_refused(kind: DeclareKind) -> None:
    payload: dict[str, Any] = {}
    for _ in range(100_000):
        payload = {"deeper": payload}

    with pytest.raises((BadSubmission, BadPayload)):
        submit(kind(), payload)


@pytest.mark.parametrize(
    ("names", "pointer"),
    [
        ([("a", ["b"]), ("b", [])], "/children/0/after"),
        ([("a", ["a"])], "/children/0/after"),
        ([("a", []), ("b", ["nobody"])], "/children/1/after"),
        ([("a", []), ("a", [])], "/children/1/name"),
        ([("", [])], "/children/0/name"),
        ([("x" * 101, [])], "/children/0/name"),
    ],
)
def test_a_pipeline_that_could_not_run_is_refused(
    names: list[tuple[str, list[str]]], pointer: str, kind: DeclareKind
) -> None:
    step = kind()
    children = [Child(name=name, kind=step.name, after=after) for name, after in names]

    with pytest.raises(BadSubmission) as refusal:
        submit(step, children=children)

    assert refusal.value.problems[0].pointer == pointer
    assert not Job.objects.exists()


def test_a_child_that_is_refused_refuses_the_whole_pipeline(kind: DeclareKind) -> None:
    plain, adding = kind(), kind(payload=Sum)
    children = [Child(name="good", kind=plain.name), Child(name="bad", kind=adding.name, payload={"a": 1})]

    with pytest.raises(BadPayload):
        submit(plain, children=children)

    assert not Job.objects.exists()


def test_more_children_than_allowed_are_refused(kind: DeclareKind) -> None:
    step = kind()
    children = [Child(name=str(n), kind=step.name) for n in range(settings.ENV.MAX_CHILDREN + 1)]

    with pytest.raises(BadSubmission, match="at most 100,000 children"):
        submit(step, children=children)


def test_ids_rise_from_a_step_to_what_waits_for_it(kind: DeclareKind) -> None:
    step = kind()

    parent = submit(step, children=[Child(name="a", kind=step.name), Child(name="b", kind=step.name, after=["a"])])

    [dependency] = Dependency.objects.all()
    assert dependency.depends_on_id < dependency.job_id < parent.id


def test_naming_a_step_twice_is_waiting_for_it_once(kind: DeclareKind) -> None:
    step = kind()

    submit(step, children=[Child(name="a", kind=step.name), Child(name="b", kind=step.name, after=["a", "a"])])

    assert Job.objects.get(name="b").unfinished_dependencies == 1


def test_a_plan_makes_every_job_of_its_kind_a_pipeline(kind: DeclareKind) -> None:
    step = kind()
    planned = kind(payload=Sum, plan=lambda payload: [Child(name=f"n{n}", kind=step.name) for n in range(payload.a)])

    job = submit(planned, {"a": 3, "b": 0}, owner="ada", priority=2)

    children = Job.objects.filter(parent=job)
    assert {(child.name, child.owner, child.priority) for child in children} == {
        ("n0", "ada", 2), ("n1", "ada", 2), ("n2", "ada", 2),
    }  # fmt: skip
    assert (job.ready, job.unfinished_dependencies) == (False, 3)


def test_many_jobs_are_accepted_in_order(kind: DeclareKind) -> None:
    adding = kind(payload=Sum)

    ids = submit_many(adding, ({"a": n, "b": 0} for n in range(2_500)), owner="ada", priority=1)

    assert ids == sorted(ids)
    jobs = Job.objects.in_bulk(ids)
    assert [jobs[id].payload["a"] for id in ids] == list(range(2_500))
    assert {(job.owner, job.priority, job.ready) for job in jobs.values()} == {("ada", 1, True)}


def test_many_jobs_are_accepted_all_or_none(kind: DeclareKind) -> None:
    adding = kind(payload=Sum)

    with pytest.raises(BadPayload):
        submit_many(adding, [{"a": 1, "b": 2}, {"a": 1}])

    assert not Job.objects.exists()


TEXT = "tab\t line\n back\\slash \\N \\. 💡 'quote\""


def test_jobs_that_are_copied_are_as_if_each_had_been_submitted_alone(kind: DeclareKind) -> None:
    keyed = kind(key=lambda payload: payload["key"], priority=3, max_attempts=7)
    asked = [
        Submission(payload={"key": key, "text": TEXT}, owner=owner, priority=priority)
        for key in (None, TEXT, "k")
        for owner in ("", "ada", TEXT)
        for priority in (None, 0, 9)
    ]
    assert len(asked) >= COPIED_FROM

    alone = [submit(keyed, each.payload, owner=each.owner, priority=each.priority) for each in asked]
    ids = submit_many(keyed, asked)

    jobs = Job.objects.in_bulk(ids)
    assert [columns(jobs[id]) for id in ids] == [columns(job) for job in alone]
    assert {job.rank - job.run_at for job in jobs.values()} == {timedelta(minutes=n) for n in (0, 3, 9)}


def columns(job: Job) -> dict[str, Any]:
    """All but when and which it is."""
    own = {"id", "run_at", "rank", "created_at", "updated_at"}
    return {name: value for name, value in vars(job).items() if name not in own and not name.startswith("_")}


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        (Submission(payload={}, owner="a\0b"), "/owner"),
        (Submission(payload={}, priority=10), "/priority"),
        (Submission(payload={}, priority=True), "/priority"),
        (Submission(payload={"a": float("nan")}), "/payload/a"),
        (Submission(payload={"a": "\0"}), "/payload"),
        (Submission(payload={"a": object()}), "/payload"),
    ],
)
def test_a_bad_job_among_many_refuses_all(bad: Submission, pointer: str, kind: DeclareKind) -> None:
    good = [Submission(payload={}, priority=1)] * COPIED_FROM

    with pytest.raises(BadSubmission) as refusal:
        submit_many(kind(), [*good, bad])

    assert [problem.pointer for problem in refusal.value.problems] == [pointer]
    assert not Job.objects.exists()


def test_of_many_jobs_those_for_later_wait(kind: DeclareKind) -> None:
    tomorrow = timezone.now() + timedelta(days=1)

    ids = submit_many(kind(), [Submission(payload={}, run_at=at) for at in [None, tomorrow] * COPIED_FROM])

    jobs = Job.objects.in_bulk(ids)
    assert [jobs[id].ready for id in ids] == [True, False] * COPIED_FROM


def test_an_empty_list_of_jobs_is_accepted(kind: DeclareKind) -> None:
    assert submit_many(kind(), []) == []


@pytest.mark.parametrize("options", [{"max_unfinished_per_owner": 3}, {"plan": lambda payload: []}])
def test_capped_kinds_and_pipelines_are_submitted_one_by_one(options: dict[str, Any], kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission, match="one by one"):
        submit_many(kind(**options), [{}])


@pytest.fixture
def capped(kind: DeclareKind) -> Kind:
    return kind(max_unfinished_per_owner=2, typical_seconds=100)


def test_one_unfinished_job_too_many_is_refused(capped: Kind) -> None:
    for _ in range(2):
        submit(capped, owner="ada")

    with pytest.raises(TooManyUnfinished, match="'ada' already has 2 unfinished") as refusal:
        submit(capped, owner="ada")

    assert 90 <= refusal.value.retry_after_seconds <= 100
    assert Job.objects.count() == 2


def test_the_advice_when_to_try_again_is_never_in_the_past(capped: Kind) -> None:
    for _ in range(2):
        submit(capped, owner="ada")
    Job.objects.update(created_at=timezone.now() - timedelta(days=1))

    with pytest.raises(TooManyUnfinished) as refusal:
        submit(capped, owner="ada")

    assert refusal.value.retry_after_seconds == 1


def test_a_cap_is_each_owners_own(capped: Kind, kind: DeclareKind) -> None:
    for owner in ("ada", "ada", "bob", "bob", "", ""):
        submit(capped, owner=owner)
    submit(kind(max_unfinished_per_owner=1), owner="ada")

    assert Job.objects.count() == 7


def test_a_cap_holds_for_jobs_without_an_owner_together(capped: Kind) -> None:
    for _ in range(2):
        submit(capped)

    with pytest.raises(TooManyUnfinished, match="'' already has 2 unfinished"):
        submit(capped)


def test_a_job_that_ended_makes_room(capped: Kind) -> None:
    first, _ = (submit(capped, owner="ada") for _ in range(2))
    submission.cancel(first.id)

    assert submit(capped, owner="ada").status == "CREATED"


def test_a_retry_counts_against_the_cap(capped: Kind) -> None:
    first = submit(capped, owner="ada")
    submission.cancel(first.id)
    for _ in range(2):
        submit(capped, owner="ada")

    with pytest.raises(TooManyUnfinished):
        submission.retry(first.id)

    assert again(first).status == "CANCELLED"


def test_cancelling_twice_is_harmless(kind: DeclareKind) -> None:
    job = submit(kind())
    first = submission.cancel(job.id)

    second = submission.cancel(job.id)

    assert (second.status, second.finished_at) == ("CANCELLED", first.finished_at)


@pytest.mark.django_db(transaction=True)
def test_a_retried_job_starts_afresh_with_one_more_attempt(kind: DeclareKind, worker: WorkerProcess) -> None:
    job = submit(kind(max_attempts=1))
    fail(lease(kind_named(job.kind), worker))

    retried = submission.retry(job.id)

    assert (retried.status, retried.ready, retried.attempt, retried.max_attempts) == ("CREATED", True, 1, 2)
    assert (retried.error, retried.finished_at, retried.started_at) == ("", None, None)
    assert retried.attempts.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_retry_of_a_cancelled_job_forgets_the_cancellation(kind: DeclareKind, worker: WorkerProcess) -> None:
    job = submit(kind())
    submission.cancel(job.id)
    submission.retry(job.id)

    complete(lease(kind_named(job.kind), worker), {"done": True})

    assert (again(job).status, again(job).cancel_requested_at) == ("COMPLETED", None)


@pytest.mark.parametrize("act", [submission.cancel, submission.retry])
def test_an_unknown_job_is_neither_cancelled_nor_retried(act: Any) -> None:
    with pytest.raises(Job.DoesNotExist):
        act("00000000-0000-7000-8000-000000000000")


def test_a_database_error_while_inserting_leaves_nothing(kind: DeclareKind, monkeypatch: pytest.MonkeyPatch) -> None:
    step = kind()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(Step.objects, "bulk_create", refuse)
    with pytest.raises(DatabaseError):
        submit(step, children=[Child(name="a", kind=step.name)])

    assert not Job.objects.exists()


class Number(msgspec.Struct):
    x: float


class Exact(msgspec.Struct):
    x: Decimal


class Raises:
    """An object whose parts cannot be had."""

    __dataclass_fields__ = property(lambda self: 1 / 0)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("payload", "make", "pointer"),
    [
        (Number, lambda number: {"x": number}, "/payload/x"),
        (Exact, lambda number: {"x": str(number)}, "/payload/x"),
        (Exact, lambda number: {"x": Decimal(number)}, "/payload/x"),
        (dict, lambda number: {"a": [{"b": number}]}, "/payload/a/0/b"),
        (list[float], lambda number: [1.0, number], "/payload/1"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(
    payload: Any, make: Any, pointer: str, number: float, kind: DeclareKind
) -> None:
    with pytest.raises(BadSubmission) as refusal:
        submit(kind(payload=payload), make(number))

    assert [(problem.pointer, problem.code) for problem in refusal.value.problems] == [(pointer, "not_finite")]
    assert not Job.objects.exists()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "payload",
    [{"a": object()}, {"a": "\ud800"}, {"a": "\0"}, {"a": {("a", "b"): 1}}, {"a": 10**5_000}, {"a": Raises()}],
)
def test_a_payload_that_cannot_be_kept_is_refused(payload: Any, many: bool, kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission) as refusal:
        submit_many(kind(), [payload]) if many else submit(kind(), payload)

    assert refusal.value.problems[0].pointer == "/payload"


@pytest.mark.parametrize("owner", ["a\0b", "\udcff", "x" * 151, None, 5])
def test_an_owner_that_cannot_be_kept_is_refused(owner: Any, kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission) as refusal:
        submit(kind(), owner=owner)

    assert refusal.value.problems[0].pointer == "/owner"
    assert len(refusal.value.problems[0].detail) < 300


@pytest.mark.parametrize("name", ["a\0b", "\udcff", "", "x" * 101, "x" * 10_000, None, 5, ["a"]])
def test_a_childs_name_that_cannot_be_kept_is_refused(name: Any, kind: DeclareKind) -> None:
    step = kind()

    with pytest.raises(BadSubmission) as refusal:
        submit(kind(), children=[Child(name="good", kind=step.name), Child(name=name, kind=step.name)])

    assert [(problem.pointer, problem.code) for problem in refusal.value.problems] == [("/children/1/name", "invalid")]
    assert len(refusal.value.problems[0].detail) < 300
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("child", "error", "pointer"),
    [
        ({"name": "good"}, BadSubmission, "/children/1/name"),
        ({"kind": "test.nobody_has_this"}, UnknownKind, "/children/1/kind"),
        ({"kind": "a\0\udcff"}, UnknownKind, "/children/1/kind"),
        ({"kind": None}, UnknownKind, "/children/1/kind"),
        ({"after": ["b\0"]}, BadSubmission, "/children/1/after"),
        ({"priority": 10}, BadSubmission, "/children/1/priority"),
        ({"payload": {"x": float("nan")}}, BadSubmission, "/children/1/payload/x"),
        ({"payload": {"x": "one"}}, BadPayload, "/children/1/payload/x"),
    ],
)
def test_what_is_wrong_with_a_child_is_reported_with_its_place(
    child: dict[str, Any], error: type[Exception], pointer: str, kind: DeclareKind
) -> None:
    step = kind(payload=Number)
    good: dict[str, Any] = {"kind": step.name, "payload": {"x": 1.0}}

    with pytest.raises(error) as refusal:
        submit(kind(), children=[Child(name="good", **good), Child(**{"name": "bad", **good, **child})])

    assert isinstance(refusal.value, (BadSubmission, BadPayload, UnknownKind))
    assert [problem.pointer for problem in refusal.value.problems] == [pointer]
