"""`manage.py run-job KIND '{"…"}'`: runs one job in this terminal, where breakpoint() works."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, connection

from orchestrator.claimed import Claimed
from orchestrator.host import host
from orchestrator.kind_problems import BadPayload, UnknownKind
from orchestrator.kinds import kind_named
from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.submission import BadSubmission, TooManyUnfinished
from orchestrator.worker.foreground import ForegroundJob, NotStarted
from orchestrator.worker.process import WorkerProcess

# How long the process may take to get a row in the database.
REGISTRATION_SECONDS = 5

NOT_STARTED = 2
# As shells have it for programs that Ctrl-C ended.
EXIT_CODES = {Status.COMPLETED: 0, Status.CANCELLED: 130}
FAILED = 1


class Command(BaseCommand):
    help = (
        "Runs one job in this terminal, where breakpoint() works: it is stored and fenced like any other, has one "
        "attempt and no timeout. Its result is printed as JSON, anything else to stderr. Ctrl-C cancels it. Exits "
        "with 0 if it completed, 1 if it failed, 130 if it was cancelled, 2 if it could not be started."
    )
    requires_system_checks: list[str] = []
    # The progress that was told last.
    _told: tuple[int | None, int | None, str] = (None, None, "")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kind", help="The kind's name, such as accounts.welcome.")
        parser.add_argument("payload", nargs="?", help="The payload as JSON. {} if not given.")
        parser.add_argument("--owner", default="", help="Whose job it is. Nobody's if not given.")

    def handle(self, *args: Any, kind: str, payload: str | None, owner: str, **options: Any) -> None:
        try:
            job = self._run(kind, payload, owner)
        except (UnknownKind, BadPayload, BadSubmission, TooManyUnfinished, NotStarted) as refusal:
            raise CommandError(str(refusal), returncode=NOT_STARTED) from None
        except KeyboardInterrupt:
            sys.exit(EXIT_CODES[Status.CANCELLED])
        except (OperationalError, InterfaceError) as error:
            raise CommandError(f"The database cannot be used: {error}", returncode=NOT_STARTED) from None
        self._show(job)
        if code := EXIT_CODES.get(Status(job.status), FAILED):
            sys.exit(code)

    def _run(self, kind: str, payload: str | None, owner: str) -> Job:
        found, given = kind_named(kind), parsed(payload)
        with registered_process() as process:
            foreground = ForegroundJob(found, process, self._say)
            process.heartbeat.parts.append(partial(self._tell_progress_of, process))
            with interrupted_by(foreground.on_interrupt):
                return foreground.run(given, owner=owner)

    def _show(self, job: Job) -> None:
        self._tell_progress(job)
        self._say(f"{job} is {job.status}{f': {job.error}' if job.error else '.'}")
        if job.status == Status.COMPLETED:
            self.stdout.write(json.dumps(job.result, indent=2, ensure_ascii=False))

    def _tell_progress_of(self, process: WorkerProcess) -> None:
        for running in process.running.all():
            self._tell_progress(running.row)

    def _tell_progress(self, row: Job | Claimed) -> None:
        progress = (row.progress_done, row.progress_total, row.progress_message)
        if row.progress_done is not None and progress != self._told:
            self._told = progress
            self._say(f"{row.progress_done} of {row.progress_total or '?'} {row.progress_message}".rstrip())

    def _say(self, line: str) -> None:
        self.stderr.write(line, self.style.NOTICE)


def parsed(payload: str | None) -> Any:
    try:
        return None if payload is None else json.loads(payload)
    except ValueError as error:
        raise CommandError(f"The payload is not JSON: {error}", returncode=NOT_STARTED) from None


@contextmanager
def registered_process() -> Iterator[WorkerProcess]:
    """This process as a worker that serves no queue: it claims nothing by itself."""
    connection.ensure_connection()
    process = WorkerProcess(f"run-job@{host().partition(' ')[0]}", []).start()
    try:
        if not process.lease.registered.wait(REGISTRATION_SECONDS):
            raise CommandError(
                "The database has no tables, or does not respond: run `manage.py migrate`.", returncode=NOT_STARTED
            )
        yield process
    finally:
        process.end()


@contextmanager
def interrupted_by(handler: Callable[..., None]) -> Iterator[None]:
    """Ctrl-C calls the handler, until the block ends."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
