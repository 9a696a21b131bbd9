"""The workbench's fixtures, for tests of the engine."""

from tests.orchestrator.workbench import kind, live_worker, make_worker, rung

__all__ = ["kind", "live_worker", "make_worker", "rung"]
