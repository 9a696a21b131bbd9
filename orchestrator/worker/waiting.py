"""Ends an attempt whose job waits for the children that it has added."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction

from orchestrator.failpoints import Failpoint
from orchestrator.queue import endings
from orchestrator.running import BaseRunningJob
from orchestrator.spawning import AfterChildren
from orchestrator.submission import add_children
from orchestrator.telemetry import attempts

children_added = Failpoint("children-added")


def wait_for_children(running: BaseRunningJob, awaits: AfterChildren[Any], *, began_at: int | None) -> None:
    """Adds the children and lets their job wait for them, within the transaction that ends its attempt.

    Raises as `transitions.wait_for_children` and `submission.add_children` do.
    """
    spawned = running.spawning.spawned
    # First, so that who has lost the job adds nothing.
    endings.wait_for_children(running.row, running.kind, len(spawned), awaits.resume_with, began_at=began_at)
    add_children(running.row, spawned)
    children_added()
    transaction.on_commit(partial(attempts.waits_for_children, running, len(spawned)))
