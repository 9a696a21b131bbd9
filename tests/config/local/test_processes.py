"""Which processes `manage.py up` runs."""

from __future__ import annotations

from config.local.processes import commands


def test_each_queue_has_a_worker_beside_the_other_processes() -> None:
    found = commands(["default", "gpu"])

    assert list(found) == ["web", "worker-default", "worker-gpu", "control", "beat", "flower"]
    assert found["worker-gpu"].startswith("exec python -m config worker -n gpu@%h -Q gpu ")
    assert "$QUEUE" not in " ".join(found.values())
