"""One line in the log for each attempt that has ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.attempt.session import session_kept
from orchestrator.models import Job

if TYPE_CHECKING:
    from orchestrator.claimed import Claimed
    from orchestrator.running import BaseRunningJob

logger = logging.getLogger("orchestrator.attempts")

# By what has become of the job; tools such as Sentry take an ERROR for a failure that somebody should know of.
_ENDS = {
    "FAILED": (logging.ERROR, "%s failed for good at attempt %d, %s: %s"),
    "CREATED": (logging.WARNING, "%s will be retried after attempt %d, %s: %s"),
    "CANCELLED": (logging.INFO, "%s was cancelled at attempt %d. %s%s"),
    "RUNNING": (logging.ERROR, "%s is compensated since its attempt %d, %s: %s"),
}

_SNOOZED = (logging.INFO, "%s runs again later, as attempt %d has asked. %s%s")


def ended(job: Job, outcome: str | None, error: str, traceback: str, exception: BaseException | None) -> None:
    """Logs that an attempt has ended, once, with what becomes of the job."""
    level, message = _ENDS[job.status] if outcome or job.status != "CREATED" else _SNOOZED
    extra = _named(job, outcome=str(outcome or ""), error=error)
    arguments: list[Any] = [f"{job.kind} {job.id}", job.attempt, outcome or "", error]
    if level != logging.ERROR:
        exception = None
    elif traceback and exception is None:
        message, arguments = f"{message}\n%s", [*arguments, traceback]
    try:
        with session_kept():
            logger.log(level, message, *arguments, exc_info=exception, extra=extra)
    except BaseException:  # Others than ours format tracebacks, too, and the exception is a handler's.
        logger.log(level, message, *arguments, extra=extra)


def pipeline_failed(job: Job, error: str) -> None:
    """A pipeline that fails because a child did has no attempt of its own that ended."""
    extra = _named(job, outcome="", error=error)
    logger.error("%s failed for good: %s", f"{job.kind} {job.id}", error, extra=extra)


def waits_for_children(job: BaseRunningJob, count: int) -> None:
    extra = {"job_id": job.id, "attempt": job.attempt, **_kind_and_owner(job.row)}
    logger.info("%s waits for %d children since attempt %d.", job, count, job.attempt, extra=extra)


def completed(jobs: Sequence[BaseRunningJob]) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        for job in jobs:
            logger.debug(
                "%s is completed.", job, extra={"job_id": job.id, "attempt": job.attempt, **_kind_and_owner(job.row)}
            )


def _named(job: Job, **extra: str) -> dict[str, Any]:
    return {"job_id": str(job.id), "attempt": job.attempt, **_kind_and_owner(job), **extra}


def _kind_and_owner(job: Job | Claimed) -> dict[str, str]:
    return {"kind": job.kind, "owner": job.owner}
