"""The workbench's fixtures, for races."""

from tests.orchestrator.workbench import hire, kind, live_worker, worker

__all__ = ["hire", "kind", "live_worker", "worker"]
