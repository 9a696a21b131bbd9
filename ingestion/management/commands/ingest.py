"""manage.py ingest FILE: store a file of student records, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from access.permissions import owner_named
from ingestion import queries
from ingestion.models import Ingestion, OnConflict
from ingestion.records import uploads
from ingestion.services.receiving import discard_upload, receive, submit_upload
from orchestrator.management.base import OperatorCommand
from orchestrator.states import FINAL, Status
from orchestrator.submission import BadSubmission

WATCH_SECONDS = 0.25
FORMATS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}


class Command(OperatorCommand):
    help = "Stores the student records of an NDJSON or CSV file (also .gz), as POST /api/data/ingest/stream/ does."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help=f"one of {', '.join(FORMATS)}, also with .gz after it")
        parser.add_argument("--owner", default="", help="owner of the records (default: none)")
        parser.add_argument("--on-conflict", choices=OnConflict.values, default=OnConflict.UPDATE)
        parser.add_argument("--no-wait", action="store_true", help="exit without waiting until they are stored")

    def handle(
        self, *, file: Path, owner: str, on_conflict: str, no_wait: bool, stdout: IO[str] | None = None, **_: Any
    ) -> None:
        name = Path(file.name.lower())
        is_packed = name.suffix == ".gz"
        format = FORMATS.get(Path(name.stem).suffix if is_packed else name.suffix)
        if format is None:
            raise CommandError(f"{file} must end in one of {', '.join(FORMATS)}, or that and .gz.")
        console = Console(file=stdout)
        with _progress(console) as bar:
            ingestion = self._receive(file, bar, format=format, is_packed=is_packed, on_conflict=on_conflict)
            try:
                submit_upload(ingestion, owner=owner_named(owner) or owner)
            except BadSubmission as error:
                raise CommandError(str(error)) from None
            finally:
                discard_upload(ingestion)
            self.stdout.write(f"{ingestion.total_records:,} records as task {ingestion.job_id}")
            if no_wait:
                return
            watched = _watch(ingestion, bar)
        self.stdout.write(f"{watched.status}: {watched.stored_records:,} stored, {watched.failed_records:,} not.")
        if watched.job.status != Status.COMPLETED:
            raise CommandError(watched.job.error or watched.status)

    def _receive(self, file: Path, bar: Progress, *, format: str, is_packed: bool, on_conflict: str) -> Ingestion:
        try:
            with file.open("rb") as opened:
                advance = _task(bar, "reading", file.stat().st_size)
                lines = uploads.staged_lines(
                    _pieces(opened, advance),
                    format=format,
                    is_packed=is_packed,
                    max_bytes=settings.ENV.INGESTION_MAX_UPLOAD_BYTES,
                    max_records=settings.ENV.INGESTION_MAX_UPLOAD_RECORDS,
                )
                ingestion = receive(lines, on_conflict=on_conflict)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
        except (uploads.BadUpload, uploads.UploadTooLarge) as error:
            raise CommandError(str(error)) from None
        if not ingestion.total_records:
            discard_upload(ingestion)
            raise CommandError(f"{file} contains no records.")
        return ingestion


def _pieces(opened: BinaryIO, advance: Callable[[int], None]) -> Iterator[bytes]:
    for piece in uploads.pieces(opened.read):
        yield piece
        advance(opened.tell())


def _watch(ingestion: Ingestion, bar: Progress) -> queries.Progress:
    """Follows the workers until the ingestion has ended; stopping to watch stops nothing else."""
    advance = _task(bar, "storing", ingestion.total_records)
    while True:
        now = queries.progress_of(queries.with_progress(Ingestion.objects.filter(id=ingestion.id)).get())
        advance(now.processed_records)
        if now.job.status in FINAL:
            return now
        time.sleep(WATCH_SECONDS)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _task(bar: Progress, description: str, total: int) -> Callable[[int], None]:
    task = bar.add_task(description, total=total)
    return lambda completed: bar.update(task, completed=completed)
