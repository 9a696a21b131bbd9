"""What tests of kinds of job use. On top of the worker; nothing that runs in production imports it."""

from orchestrator.testing.clock import Clock, when_time_passes
from orchestrator.testing.engine import (
    InsideTransaction,
    NotCompleted,
    NotFinished,
    drain,
    run_now,
    worker_process,
)
from orchestrator.testing.fake import AsyncFakeJob, FakeJob, Progress, ended_job, fake_job
from orchestrator.testing.submitted import Jobs

__all__ = [
    "AsyncFakeJob",
    "Clock",
    "FakeJob",
    "InsideTransaction",
    "Jobs",
    "NotCompleted",
    "NotFinished",
    "Progress",
    "drain",
    "ended_job",
    "fake_job",
    "run_now",
    "when_time_passes",
    "worker_process",
]
