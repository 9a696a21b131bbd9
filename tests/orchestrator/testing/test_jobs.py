"""The fixture `jobs`: what was submitted, and time that passes when the test says so."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.utils import timezone

from orchestrator.models import Job
from orchestrator.submission import submit
from orchestrator.testing import Jobs, drain
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, pipeline, run

HOUR = timedelta(hours=1)
ENOUGH_SECONDS = 3_601


class Mail(msgspec.Struct):
    to: str
    copies: int = 1


def raise_error(job: object) -> None:
    raise LookupError


def test_a_submission_is_found_by_its_payload_with_the_defaults_filled_in(kind: DeclareKind, jobs: Jobs) -> None:
    mailing = kind(payload=Mail)
    job = submit(mailing, {"to": "ada"}, owner="grace")

    assert jobs.assert_submitted(mailing, Mail("ada", 1), owner="grace", count=1) == [job]
    assert jobs.assert_submitted(mailing.name, {"to": "ada", "copies": 1}) == [job]
    assert jobs.submitted == [job]


@pytest.mark.parametrize(
    ("payload", "owner", "count"),
    [({"to": "linus"}, None, None), (None, "ada", None), (None, None, 2), (None, None, 0)],
)
def test_the_error_lists_what_was_submitted_instead(
    kind: DeclareKind, jobs: Jobs, payload: dict[str, str] | None, owner: str | None, count: int | None
) -> None:
    mailing = kind(payload=Mail)
    submit(mailing, {"to": "ada"}, owner="grace")

    with pytest.raises(AssertionError) as caught:
        jobs.assert_submitted(mailing, payload, owner=owner, count=count)

    assert f"""  {mailing.name} {{"to": "ada", "copies": 1}} for 'grace'""" in str(caught.value)


def test_that_nothing_was_submitted_can_be_asserted(kind: DeclareKind, jobs: Jobs) -> None:
    jobs.assert_submitted(kind(), count=0)

    with pytest.raises(AssertionError, match=r"submitted 0 times, not at least once\. Submitted:\n  nothing"):
        jobs.assert_submitted(kind())


def test_an_empty_payload_is_compared_like_any_other(kind: DeclareKind, jobs: Jobs) -> None:
    listing = kind(payload=list[int])
    submit(listing, [])

    assert jobs.assert_submitted(listing, [], count=1)
    jobs.assert_submitted(listing, [1], count=0)


def test_children_are_found_by_their_pipeline(kind: DeclareKind, jobs: Jobs) -> None:
    step = kind()
    parent, _ = pipeline(kind(), step, {"first": ()})

    assert jobs.submitted == [parent]
    jobs.assert_submitted(step, count=0)
    assert parent.children.get().name == "first"


def test_a_job_of_the_future_is_ready_once_so_much_time_has_passed(kind: DeclareKind, jobs: Jobs) -> None:
    job = submit(kind(), run_at=timezone.now() + HOUR)

    jobs.travel(3_000)
    assert not again(job).ready
    jobs.travel(601)
    assert again(job).ready


@pytest.mark.django_db(transaction=True)
def test_a_retry_starts_once_its_delay_has_passed(kind: DeclareKind, jobs: Jobs, worker: WorkerProcess) -> None:
    failing = kind(raise_error, backoff_seconds=3_600)
    job = submit(failing)
    run(failing, worker)
    assert not run(failing, worker)

    jobs.travel(ENOUGH_SECONDS)

    assert run(failing, worker)
    assert again(job).attempt == 2


@pytest.mark.django_db(transaction=True)
def test_drain_runs_a_job_of_the_future_once_its_time_has_come(kind: DeclareKind, jobs: Jobs) -> None:
    job = submit(kind(), run_at=timezone.now() + HOUR)

    jobs.travel(ENOUGH_SECONDS)
    drain()

    assert again(job).status == "COMPLETED"


def test_jobs_keep_their_order_when_time_passes(kind: DeclareKind, jobs: Jobs) -> None:
    ordinary = kind()
    first, second, urgent = submit(ordinary), submit(ordinary), submit(ordinary, priority=0)

    jobs.travel(ENOUGH_SECONDS)

    assert list(Job.objects.order_by("rank", "id")) == [urgent, first, second]


def test_what_has_ended_keeps_its_times(kind: DeclareKind, jobs: Jobs) -> None:
    job = submit(kind())
    Job.objects.filter(id=job.id).update(status="CANCELLED", ready=False, finished_at=timezone.now())

    jobs.travel(ENOUGH_SECONDS)

    assert again(job).run_at == job.run_at


def test_the_clock_shows_how_far_it_was_set_forward(jobs: Jobs) -> None:
    jobs.travel(3_600)
    jobs.travel(3_600)

    assert abs(jobs.clock.now() - timezone.now() - 2 * HOUR) < timedelta(minutes=1)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_time_does_not_run_backwards(jobs: Jobs, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds above 0"):
        jobs.travel(seconds)
