"""/metrics agrees with the rows, and is read by those alone who may."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from orchestrator.metrics.jobs import histogram, middle, upper
from orchestrator.models import Job, Kind, Rollup, Upkeep
from orchestrator.queue import held_back
from orchestrator.rollups import durations, writing
from orchestrator.states import Status
from orchestrator.submission import submit
from tests.factories import make_attempt, make_everything_alive, make_job

pytestmark = pytest.mark.django_db

KIND = "demo.slices"
TOKEN = "0123456789abcdef-token"


def read(**headers: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """The samples, by name and the values of their labels."""
    response = Client().get("/metrics", headers=headers)
    assert response.status_code == 200, response.content
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def roll_up() -> None:
    """As the tick does, of all that ended up to now."""
    Upkeep.objects.update_or_create(part="rollups", defaults={"ran_at": timezone.now() - timedelta(seconds=40)})
    writing.roll_up()


def test_metrics_agree_with_the_rows() -> None:
    make_everything_alive()
    Kind.objects.create(name=KIND, queue="io")
    lately = timezone.now() - timedelta(seconds=20)
    began = lately - timedelta(seconds=2)
    for status in (Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        make_job(status, created_at=began - timedelta(seconds=1), started_at=began, finished_at=lately)
    make_attempt(make_job(Status.CREATED), outcome="LOST", ended_at=lately)
    submit(KIND, run_at=timezone.now() + timedelta(hours=1))
    roll_up()
    make_job(Status.CREATED, ready=False, blocked_by="max_running_per_key:ada")
    held_back.count()

    found = read()

    assert found["muster_jobs_held_back", (KIND, "max_running_per_key")] == 1
    assert found["muster_jobs_ended_total", (KIND, "COMPLETED")] == 2
    assert found["muster_jobs_ended_total", (KIND, "FAILED")] == 1
    assert found["muster_attempts_ended_total", (KIND, "LOST")] == 1
    assert found["muster_jobs", (KIND, "ready")] == 1
    assert found["muster_jobs", (KIND, "delayed")] == 1
    assert found["muster_job_run_seconds_count", (KIND,)] == 2
    assert found["muster_job_run_seconds_bucket", (KIND, "1.024")] == 0
    assert found["muster_job_run_seconds_bucket", (KIND, "4.096")] == 2
    assert found["muster_job_run_seconds_sum", (KIND,)] == pytest.approx(4, rel=0.25)
    assert found["muster_workers", ("io",)] == 1
    assert found["muster_tick_age_seconds", ()] < 60
    assert {name for name, _ in found} >= {
        "muster_oldest_ready_seconds", "muster_slots_hung", "muster_schedule_lag_seconds", "muster_records",
        "muster_deliveries_pending", "muster_kind_paused", "muster_scrape_seconds", "muster_workers_lost",
    }  # fmt: skip


def test_totals_only_rise() -> None:
    lately = timezone.now() - timedelta(seconds=20)
    Kind.objects.create(name=KIND, queue="io")
    for _ in range(2):
        make_job(Status.COMPLETED, started_at=lately, finished_at=lately)
        roll_up()
        Job.objects.all().delete()
        Rollup.objects.all().delete()

    assert read()["muster_jobs_ended_total", (KIND, "COMPLETED")] == 2


def test_without_a_token_they_are_served_to_this_machine_alone() -> None:
    assert Client().get("/metrics").status_code == 200
    assert Client().get("/metrics/").status_code == 200
    assert Client(REMOTE_ADDR="192.0.2.7").get("/metrics").status_code == 403
    assert Client().get("/metrics", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 403
    assert Client().post("/metrics").status_code == 405


def test_with_a_token_it_is_needed_everywhere(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, METRICS_TOKEN=TOKEN)

    assert Client().get("/metrics").status_code == 401
    assert Client().get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert read(Authorization=f"Bearer {TOKEN}")


def test_a_histogram_has_the_counts_of_the_rollups() -> None:
    counts = [0] * durations.BUCKETS
    counts[0], counts[7], counts[-1] = 1, 2, 4

    buckets, total = histogram(counts)

    assert buckets[:3] == [("0.001", 1.0), ("0.004", 1.0), ("0.016", 3.0)]
    assert buckets[-1] == ("+Inf", 7.0)
    assert upper(6) < middle(7) < upper(7)
    assert total > 4 * middle(durations.BUCKETS - 1)
