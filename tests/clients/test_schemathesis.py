"""Schemathesis: requests by the thousand made out of the OpenAPI document, right and wrong, to a live service."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from knox.models import AuthToken

from scheduler.models import Calendar
from tests.clients.conftest import HERE, run
from tests.clients.service import ROOT, service
from tests.scheduler.factories import make_schedule

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(0)]

# SCHEMATHESIS_SEED=7 and SCHEMATHESIS_SECONDS=600 before the command of this test try others, for longer.
SEED = os.environ.get("SCHEMATHESIS_SEED", "12")
# It makes up requests until they are over, and ends itself then.
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "45")
EXAMPLES_A_ROUND = 5
# For its start and its report, on a busy machine.
SPARE_SECONDS = 300


def test_schemathesis_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staff = User.objects.create(username="tries", is_staff=True, is_superuser=True)
    _, token = AuthToken.objects.create(staff)
    # Nobody deletes a calendar that a schedule names.
    Calendar.objects.create(name="kept")
    make_schedule(calendars=["kept"])

    # It tries wrong tokens by the dozen, and is told each time that they are wrong.
    limits = {
        "MAX_UNFINISHED_ORCHESTRATIONS": "1000000",
        "MAX_WAIT_SECONDS": "0.1",
        "DEMO_KINDS": "true",
        "MAX_FAILED_LOGINS_PER_MINUTE": "10000",
    }
    monkeypatch.setenv("SCHEMATHESIS_HOOKS", "tests.clients.formats")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    with service(REQUIRE_AUTH="true", ALLOW_UNAUTHENTICATED="false", **limits) as address:
        run(
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml", "run"),
            *(f"{address}/api/schema/", "--header", f"Authorization: Bearer {token}"),
            *("--seed", SEED, "--max-examples", str(EXAMPLES_A_ROUND), "--max-time", SECONDS, "--continue-on-failure"),
            seconds=float(SECONDS) + SPARE_SECONDS,
            folder=tmp_path,  # It keeps what it found there, and would try that first another time.
        )
