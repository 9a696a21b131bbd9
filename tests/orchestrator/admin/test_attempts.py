"""Of the traceback of an attempt, the handler's frames are shown, and those of what called it folded."""

from __future__ import annotations

import pytest

from orchestrator.admin.attempts import passages
from orchestrator.models import Attempt
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, run


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_nothing_that_called_the_handler_is_taken_for_it(
    execution: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        running.progress(-1)

    failing = kind(handler, execution=execution, max_attempts=1)
    submit(failing)

    run(failing, worker)

    parts = passages(Attempt.objects.get().traceback)
    [frame] = [line for part in parts if not part.folded for line in part.text.splitlines() if "File " in line]
    assert frame.endswith("in handler")
