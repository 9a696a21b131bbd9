"""What the project does when Django starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOOK = "import django, gc; django.setup(); print(gc.isenabled(), gc.get_freeze_count() > 1_000)"


def test_once_django_has_started_garbage_is_collected_but_not_looked_for_in_what_was_imported() -> None:
    said = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["True", "True"]
