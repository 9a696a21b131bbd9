"""The page of a job: its state in words, its life, its attempts, who sees what of it, and its pipeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from access.models import AuditEntry
from orchestrator.admin.attempts import passages
from orchestrator.admin.graph import in_layers
from orchestrator.admin.job_page import stretches
from orchestrator.admin.pipelines import boxes_of, steps_of
from orchestrator.composition import critical_path
from orchestrator.models import AttemptLog, Checkpoint, Job, Kind, Signal
from orchestrator.states import Status
from orchestrator.submission import submit
from tests.factories import make_attempt, make_job, make_user, make_worker_row, staff_with
from tests.moves import put
from tests.orchestrator.workbench import DeclareKind, pipeline

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEBACK = """Traceback (most recent call last):
  File "/srv/lib/python3.13/site-packages/requests/api.py", line 59, in request
    return session.request(method=method)
  File "/srv/lib/python3.13/site-packages/requests/sessions.py", line 1, in request
    raise Refused
  File "/srv/shop/jobs.py", line 12, in charge
    raise PaymentRefused("503")
shop.PaymentRefused: 503"""


def shown(client: Client, job: Job, **headers: str) -> str:
    response = client.get(reverse("admin:orchestrator_job_change", args=[job.id]), headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def buttons(page: str) -> set[str]:
    return {name for name in ("cancel_this", "retry_this", "change_place", "run_again") if f"/{name}/" in page}


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        (Status.CREATED, {"cancel_this", "change_place"}),
        (Status.RUNNING, {"cancel_this"}),
        (Status.COMPLETED, {"run_again"}),
        (Status.FAILED, {"retry_this", "run_again"}),
        (Status.CANCELLED, {"retry_this", "run_again"}),
    ],
)
def test_only_the_buttons_that_apply_are_offered(admin_client: Client, status: Status, offered: set[str]) -> None:
    assert buttons(shown(admin_client, make_job(status))) == offered


def test_a_waiting_job_says_what_it_waits_for(admin_client: Client) -> None:
    in_two_hours = timezone.now() + timedelta(hours=2, minutes=1)
    paused = make_job(kind="demo.paused")
    Kind.objects.create(name="demo.paused", queue="io", paused_at=timezone.now())

    assert "Waits for a worker of the queue io." in shown(admin_client, make_job())
    assert "Waits for its start, in 2 h." in shown(admin_client, make_job(run_at=in_two_hours, ready=False))
    retried = make_job(run_at=in_two_hours, ready=False, attempt=1, error="no")
    assert "Waits for attempt 2 of 3, in 2 h." in shown(admin_client, retried)
    assert "Waits because its kind is paused." in shown(admin_client, paused)
    assert "Waits for 2 jobs to complete." in shown(admin_client, make_job(unfinished_dependencies=2))


def test_a_running_job_shows_its_progress_and_refreshes_itself(admin_client: Client) -> None:
    worker = make_worker_row()
    job = make_job(
        Status.RUNNING,
        worker=worker,
        worker_name=worker.name,
        progress_done=3,
        progress_total=12,
        progress_message="x",
    )

    page = shown(admin_client, job)

    assert "Runs on io@here." in page
    assert "3 of 12 · 25 % x" in page
    assert "hx-trigger" in page
    assert f'data-events="/jobs/{job.id}/events"' in page
    assert 'id="nav-sidebar"' not in shown(admin_client, job, HX_Request="true")


def test_a_job_that_has_ended_does_not_refresh_itself(admin_client: Client) -> None:
    ended_at = timezone.now() - timedelta(minutes=1)

    page = shown(admin_client, make_job(Status.COMPLETED, finished_at=ended_at))

    assert "every 2s" not in page
    assert "data-events" not in page


def test_a_job_links_to_its_trace(admin_client: Client, settings: Settings) -> None:
    traced, untraced = make_job(traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01"), make_job()

    without = shown(admin_client, traced)
    settings.ENV = msgspec.structs.replace(settings.ENV, TRACE_URL="https://traces.example/{trace_id}?a=1")

    assert TRACE_ID in without
    assert "traces.example" not in without
    assert f'href="https://traces.example/{TRACE_ID}?a=1"' in shown(admin_client, traced)
    assert "traces.example" not in shown(admin_client, untraced)


def test_attempts_come_newest_first_with_library_frames_folded(admin_client: Client) -> None:
    job = make_job(Status.FAILED, error="no")
    for number in (1, 2):
        make_attempt(job, number=number, traceback=TRACEBACK)

    page = shown(admin_client, job)

    assert page.index("Attempt 2") < page.index("Attempt 1")
    assert "2 frames of libraries" in page


def test_a_traceback_is_kept_whole_and_only_foreign_frames_are_folded() -> None:
    parts = list(passages(TRACEBACK))

    assert "\n".join(part.text for part in parts) == TRACEBACK
    assert [part.folded for part in parts] == [0, 2, 0]


@pytest.mark.parametrize("text", ["", "no traceback", '  File "a"', "\n\n", "Traceback (most recent call last):"])
def test_what_is_no_traceback_is_shown_as_it_is(text: str) -> None:
    assert "\n".join(part.text for part in passages(text)) == text.rstrip("\n")[: len(text)] or text.strip() == ""


def test_payload_and_result_are_for_those_with_the_permission() -> None:
    job = make_job(Status.COMPLETED, payload={"card": "4111"}, result={"sum": 42})
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename="view_job"))
    client = Client()
    client.force_login(viewer)

    hidden = shown(client, job)
    viewer.user_permissions.add(Permission.objects.get(codename="view_payload"))
    seen = shown(client, job)

    assert "4111" not in hidden
    assert "4111" in seen
    assert "&quot;sum&quot;: 42" in seen


def test_the_owner_sees_their_own_payload() -> None:
    ada = make_user("ada", is_staff=True)
    ada.user_permissions.set(Permission.objects.filter(codename="view_job"))
    client = Client()
    client.force_login(ada)

    assert "4111" in shown(client, make_job(owner="ada", payload={"card": "4111"}))


def run_again(client: Client, job: Job, **fields: Any) -> Any:
    url = reverse("admin:orchestrator_job_run_again", args=[job.id])
    return client.post(url, {"_form_submitted": "True", "priority": "2", "payload": "{}"} | fields)


def test_a_job_is_run_again_with_an_edited_payload(admin_client: Client) -> None:
    job = make_job(Status.FAILED, owner="ada", payload={"slices": 5})

    question = admin_client.get(reverse("admin:orchestrator_job_run_again", args=[job.id])).content.decode()
    answer = run_again(admin_client, job, payload='{"slices": 7}')

    new = Job.objects.exclude(id=job.id).get()
    assert "&quot;slices&quot;: 5" in question
    assert (new.kind, new.owner, new.payload["slices"], new.priority) == (job.kind, "ada", 7, 2)
    assert answer["HX-Redirect"] == reverse("admin:orchestrator_job_change", args=[new.id])


@pytest.mark.parametrize("payload", ["no json", '{"slices": "many"}', '{"unknown": 1}'])
def test_a_payload_that_does_not_fit_is_refused(admin_client: Client, payload: str) -> None:
    answer = run_again(admin_client, make_job(Status.FAILED), payload=payload)

    assert "HX-Redirect" not in answer
    assert Job.objects.count() == 1


def test_running_a_job_again_takes_the_permission_to_submit_for_others() -> None:
    operator = User.objects.create_user("operator", is_staff=True)
    names = ["view_job", "retry_job", "view_payload"]
    operator.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(operator)

    assert run_again(client, make_job(Status.FAILED)).status_code == 403
    assert Job.objects.count() == 1


def test_who_did_what_to_it_is_shown(admin_client: Client) -> None:
    job = submit("demo.slices")
    url = reverse("admin:orchestrator_job_cancel_this", args=[job.id])
    admin_client.post(url, {"_form_submitted": "True"})

    page = shown(admin_client, job)

    assert "Who did what" in page
    assert "job.cancel" in page


def test_the_life_of_a_job_is_told_in_order() -> None:
    now = timezone.now()

    def ago(seconds: int) -> Any:
        return now - timedelta(seconds=seconds)

    job = make_job(Status.COMPLETED, created_at=ago(100), started_at=ago(30), finished_at=ago(10), attempt=2)
    failed = make_attempt(job, started_at=ago(90), ended_at=ago(70))

    life = [(each.what, round(each.seconds)) for each in stretches(job, [failed], now)]

    assert life == [
        ("waited", 10),
        ("attempt 1: RAISED", 20),
        ("waited for a retry", 40),
        ("ran", 20),
    ]


# Pipelines


def test_each_step_stands_right_of_all_that_it_waits_for() -> None:
    waits_for = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["a"], "f": ["e", "d"]}

    assert [set(layer) for layer in in_layers(waits_for)] == [{"a"}, {"b", "c", "e"}, {"d"}, {"f"}]


def test_steps_stand_beside_what_they_wait_for_so_that_lines_do_not_cross() -> None:
    waits_for = {"a": [], "b": [], "c": [], "of c": ["c"], "of b": ["b"], "of a": ["a"]}

    first, second = in_layers(waits_for)

    assert second == [f"of {name}" for name in first]


def test_steps_that_are_alike_are_drawn_as_one(kind: DeclareKind) -> None:
    names = [f"part {n}" for n in range(20)]
    parent, _ = pipeline(kind(), kind(), {"first": (), **dict.fromkeys(names, ("first",)), "last": names})

    boxes = boxes_of(steps_of(parent))

    assert [len(box.steps) for box in boxes] == [1, 20, 1]
    assert boxes[2].after == {boxes[1]}


def test_of_very_many_steps_those_as_deep_are_drawn_as_one(kind: DeclareKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.admin.pipelines.MAX_BOXES", 5)
    after: dict[str, tuple[str, ...]] = {f"a{n}": () for n in range(4)}
    after |= {f"b{n}": (f"a{n}",) for n in range(4)}
    parent, _ = pipeline(kind(), kind(), after)

    boxes = boxes_of(steps_of(parent))

    assert [len(box.steps) for box in boxes] == [4, 4]


def test_the_critical_path_follows_what_ended_last(kind: DeclareKind) -> None:
    parent, children = pipeline(kind(), kind(), {"quick": (), "slow": (), "both": ("quick", "slow")})
    now = timezone.now()
    for name, seconds in {"quick": 50, "slow": 20, "both": 5}.items():
        put(
            Job.objects.filter(id=children[name].id),
            status=Status.COMPLETED,
            ready=False,
            started_at=now - timedelta(seconds=60),
            finished_at=now - timedelta(seconds=seconds),
        )

    assert [step.name for step in critical_path(steps_of(parent))] == ["slow", "both"]


def test_a_pipelines_page_shows_its_graph_and_names_what_failed(admin_client: Client) -> None:
    parent = submit("orchestration.two_batches", owner="ada")
    child = parent.children.get(name="first_sum")
    put(
        Job.objects.filter(id=child.id),
        status=Status.FAILED,
        error="no <sum>",
        ready=False,
        started_at=timezone.now(),
        finished_at=timezone.now(),
    )

    page = shown(admin_client, parent)

    assert 'class="m-graph"' in page
    assert "no &lt;sum&gt;" in page
    assert reverse("admin:orchestrator_job_change", args=[child.id]) in page
    assert "0 of 12 done" in page


def test_what_the_handler_logged_is_shown_by_attempt_with_what_was_not_kept(admin_client: Client) -> None:
    job = make_job(Status.FAILED)
    AttemptLog.objects.create(job=job, attempt=1, lines=[[1, 1_900_000_000, "INFO", job.kind, "begins"]])
    AttemptLog.objects.create(
        job=job,
        attempt=2,
        lines=[[1, 1_900_000_009, "ERROR", "shop", "<b>no</b>"], [9, 1_900_000_010, "INFO", "x", "y"]],
    )

    page = shown(admin_client, job)

    assert "Attempt 1</h3>" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "7 lines were not kept" in page


def test_a_job_that_logged_nothing_has_no_log(admin_client: Client) -> None:
    assert "m-log" not in shown(admin_client, make_job())


def test_the_checkpoints_that_a_job_has_passed_are_listed(admin_client: Client) -> None:
    job = make_job(Status.RUNNING)
    Checkpoint.objects.create(job=job, name="charge the card", result={"secret": 1}, seconds=0.5)

    page = shown(admin_client, job)

    assert "charge the card" in page
    assert "secret" not in page


def change_place(client: Client, job: Job, **form: Any) -> Job:
    address = reverse("admin:orchestrator_job_change_place", args=[job.id])
    response = client.post(address, {"_form_submitted": "True"} | form)
    assert response.status_code == 200
    return Job.objects.get(id=job.id)


def test_a_waiting_job_is_given_another_priority_by_the_button(admin_client: Client) -> None:
    job = make_job(priority=5)

    changed = change_place(admin_client, job, priority="1")

    assert (changed.priority, changed.run_at) == (1, job.run_at)
    assert AuditEntry.objects.filter(action="job.change", object_id=str(job.id)).count() == 1


def test_a_job_that_waits_for_its_time_can_be_started_now(admin_client: Client) -> None:
    job = make_job(run_at=timezone.now() + timedelta(hours=2), ready=False)

    assert change_place(admin_client, job, priority="5", at_once="on").run_at <= timezone.now()


def test_a_priority_that_there_is_not_is_refused_in_the_dialog(admin_client: Client) -> None:
    assert change_place(admin_client, make_job(priority=5), priority="10").priority == 5


def test_the_priority_of_a_job_is_changed_only_with_the_permission() -> None:
    job = make_job(priority=5)
    address = reverse("admin:orchestrator_job_change_place", args=[job.id])

    staff_with("view_job").post(address, {"_form_submitted": "True", "priority": "1"})

    assert Job.objects.get(id=job.id).priority == 5


def test_a_signal_is_sent_by_a_button_that_is_there_while_something_waits_for_it(
    admin_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        job = submit("demo.slices", wait_for="approve")
    page = shown(admin_client, job)
    assert "Waits for the signal approve." in page
    assert "/send_signal/" in page

    with django_capture_on_commit_callbacks(execute=True):
        url = reverse("admin:orchestrator_job_send_signal", args=[job.id])
        admin_client.post(url, {"_form_submitted": "True", "name": "approve", "body": '{"by": 1}'})

    assert Signal.objects.get().body == {"by": 1}
    assert "/send_signal/" not in shown(admin_client, job)
