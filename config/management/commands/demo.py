"""`manage.py demo`: `up`, then the main jobs submitted over HTTP and watched to their end."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from django.core.management.base import CommandParser
from honcho.printer import Printer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from config.management.commands import up
from orchestrator.states import FINAL

POLL_SECONDS = 0.2
PICTURE_WIDTH = 100
SHOWN = ("job_id", "kind", "status", "progress", "result", "error", "created_at", "updated_at")


class Command(up.Command):
    help = "Starts everything, submits the demo jobs over HTTP, shows their progress, and keeps serving."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--picture", type=Path, help="Save the output to this SVG file and exit.")

    def handle(self, *args: Any, picture: Path | None = None, **options: Any) -> None:
        self.picture = picture
        # A terminal is shown every move of the bars; the picture has their end.
        self.console = Console(record=True, width=PICTURE_WIDTH, force_terminal=False) if picture else Console()
        self.console.print("Starting PostgreSQL, Valkey, web, workers, Beat and Flower …")
        super().handle(*args, **options)

    def printer(self) -> Printer:
        # What happens to the processes goes into a log, like what they say: the terminal is for the progress.
        return Printer((self.logs / "up.log").open("a"))

    def when_ready(self) -> None:
        self.console.print(f"Ready after {self.ready_seconds:.1f} s. Submitting the main jobs …\n")
        try:
            Demonstration(self.url, self.console, self.is_over).show()
        except (requests.RequestException, Refused) as failure:
            self.console.print(f"The demo failed: {failure}", style="red", markup=False)
        if self.picture and self.new_password:
            self.new_password = "…"  # noqa: S105 - a stand-in
        if not self.is_over():
            self.console.print(f"\n{self.summary()}", markup=False, highlight=False, soft_wrap=True)
        if self.picture:
            self.picture.write_text(as_picture(self.console))
            self.supervisor.stop()

    def is_over(self) -> bool:
        return self.supervisor.stopping.is_set()


def as_picture(console: Console) -> str:
    """What the console showed, as an SVG that asks nobody for fonts."""
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)


class Refused(Exception):
    """The API did not accept a job; the message is its answer."""


class Demonstration:
    """The two jobs every visitor wants to see, driven as any client would."""

    def __init__(self, url: str, console: Console, is_over: Callable[[], bool]) -> None:
        self._url = url
        self._console = console
        self._is_over = is_over
        self._http = requests.Session()

    def show(self) -> None:
        jobs = {
            "Two-batch orchestration": (orchestration := self._submit("/orchestrate/ada")),
            "Demo job in five slices": self._submit("/jobs"),
        }
        with progress_bar(self._console) as bar:
            bars = {bar.add_task(title, total=None, status=""): job_id for title, job_id in jobs.items()}
            while not bar.finished and not self._is_over():
                for task_id, job_id in bars.items():
                    bar.update(task_id, **shown(self._get(f"/jobs/{job_id}")))
                time.sleep(POLL_SECONDS)
        if self._is_over():
            return
        for path in (f"/status/ada/{orchestration}", f"/jobs/{jobs['Demo job in five slices']}"):
            self._console.print(f"\nGET {path}", style="bold", highlight=False)
            self._console.print_json(data={key: value for key, value in self._get(path).items() if key in SHOWN})

    def _submit(self, path: str) -> str:
        answer = self._http.post(f"{self._url}{path}", timeout=10)
        if answer.status_code != requests.codes.accepted:
            raise Refused(f"POST {path} returned {answer.status_code}: {answer.text[:500]}")
        job_id: str = answer.json()["job_id"]
        self._console.print(f"POST {path} → job {job_id}", highlight=False)
        return job_id

    def _get(self, path: str) -> dict[str, Any]:
        """Asks until there is an answer: the web process may be one that somebody kills just now."""
        while not self._is_over():
            with suppress(requests.ConnectionError):
                answer = self._http.get(f"{self._url}{path}", timeout=10)
                answer.raise_for_status()
                body: dict[str, Any] = answer.json()
                return body
            time.sleep(POLL_SECONDS)
        return {}


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        console=console,
    )


def shown(job: dict[str, Any]) -> dict[str, Any]:
    """What the bar shows of a job: a pipeline advances with its children and is its own last step."""
    status = job.get("status", "")
    children = job.get("children") or {}
    progress = job.get("progress") or {}
    total = children["total"] + 1 if children.get("total") else progress.get("total") or 1
    done = children.get("completed", 0) if children.get("total") else progress.get("done") or 0
    if status in FINAL:
        done = total
    return {"total": total, "completed": min(done, total), "status": f"{status} {progress.get('message') or ''}"}
