"""What the project does when Django starts."""

from __future__ import annotations

import gc


def test_garbage_is_collected_once_django_has_started() -> None:
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
