"""`manage.py run-job`: what it prints, and how it exits."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from orchestrator.models import Job, Worker
from orchestrator.running import RunningJob
from tests.orchestrator.workbench import DeclareKind

pytestmark = pytest.mark.django_db(transaction=True)


class Ran(NamedTuple):
    code: Any
    out: str
    err: str


def run_job(*words: str) -> Ran:
    out, err = StringIO(), StringIO()
    code: Any = 0
    try:
        call_command("run-job", *words, stdout=out, stderr=err)
    except SystemExit as ended:
        code = ended.code
    return Ran(code, out.getvalue(), err.getvalue())


def test_the_result_is_the_only_output_and_the_rest_is_told_beside_it(kind: DeclareKind) -> None:
    def handler(running: RunningJob, payload: dict[str, Any]) -> dict[str, Any]:
        running.progress(1, 2, "half")
        return {"owner": running.owner, "n": payload["n"]}

    ran = run_job(kind(handler).name, '{"n": 4}', "--owner", "ada")

    job = Job.objects.get()
    assert ran.code == 0
    assert json.loads(ran.out) == {"owner": "ada", "n": 4} == job.result
    assert ran.err.splitlines() == [f"{job} started.", "1 of 2 half", f"{job} is COMPLETED."]


def test_a_job_that_fails_exits_with_1(kind: DeclareKind) -> None:
    def failing(running: RunningJob) -> None:
        raise ValueError("no such luck")

    ran = run_job(kind(failing).name)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[-1] == f"{Job.objects.get()} is FAILED: ValueError: no such luck"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scheduler.ad"], "There is no kind 'scheduler.ad'. Did you mean 'scheduler.add'?"),
        (["demo.slices", "{slices: 2}"], "The payload is not JSON: Expecting property name"),
        (["demo.slices", '{"slices": "two"}'], "/payload/slices: Expected `int`, got `str`."),
        (["demo.slices", "{}", "--owner", "a" * 151], "An owner may have at most 150 characters"),
    ],
)
def test_what_cannot_be_started_is_told_in_one_sentence_and_exits_with_2(words: list[str], said: str) -> None:
    with pytest.raises(CommandError) as refused:
        run_job(*words)

    assert str(refused.value).startswith(said)
    assert refused.value.returncode == 2
    assert not Job.objects.exists()


def test_its_process_serves_no_queue_and_leaves_a_closed_row(kind: DeclareKind) -> None:
    run_job(kind().name)

    worker = Worker.objects.get()
    assert worker.name.startswith("run-job@")
    assert worker.queues == []
    assert worker.ended_at is not None
