"""What each program imports and what it leaves out: modules are most of the memory of an idle process."""

from __future__ import annotations

import re
import sys

from tests.system.test_start import start

IMPORTED = re.compile(r"^import '([\w.]+)' #", re.MULTILINE)


def imported(*words: str) -> set[str]:
    """The modules that Python imports for the command, which soon ends."""
    ended = start(sys.executable, "-v", *words, DJANGO_SETTINGS_MODULE="config.settings")
    modules = set(IMPORTED.findall(ended.stderr))
    assert "config.settings" in modules, ended.stderr[-1_000:]
    return modules


def test_the_web_server_has_every_page_before_the_first_request() -> None:
    modules = imported("-c", "import config.wsgi")

    assert {"orchestrator.admin", "scheduler.admin", "ingestion.admin", "knox.admin", "orchestrator.views"} <= modules


def test_djangos_checks_of_the_admin_read_every_page() -> None:
    modules = imported("manage.py", "check", "--tag", "admin")

    assert "config.urls" not in modules
    assert {"orchestrator.admin", "scheduler.admin", "ingestion.admin", "knox.admin"} <= modules
