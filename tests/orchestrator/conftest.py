"""The workbench's fixtures, for tests of the engine."""

from tests.orchestrator.workbench import echo, kind, live_worker, make_worker, rung

__all__ = ["echo", "kind", "live_worker", "make_worker", "rung"]
