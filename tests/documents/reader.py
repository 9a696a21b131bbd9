"""Someone who reads the documents, and follows them line by line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import requests

from config.local.unprivileged import packaged_binaries

ROOT = Path(__file__).parent.parent.parent

# How long a line that only looks is asked again until it is answered as shown: "five seconds later".
PATIENCE_SECONDS = 60

ELISION = "…"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Numbers that chance or the moment decides.
BY_CHANCE = {"aggregated_sum", "age_seconds", "done"}


class Exchange(NamedTuple):
    """A line typed into a shell, and the answer shown below it. A quoted text goes on until its quote is closed."""

    command: str
    answer: str

    @classmethod
    def of(cls, shown: str) -> Exchange:
        lines = shown.splitlines(keepends=True)
        for count in range(1, len(lines) + 1):
            command = "".join(lines[:count]).rstrip("\n")
            with suppress(ValueError):
                shlex.split(command)
                return cls(command, "".join(lines[count:]))
        raise ValueError(f"A quote is not closed: {lines[0]}")


class Document:
    """A page of the repository, and what can be run of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text()

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def exchanges(self) -> list[Exchange]:
        prompts = [re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] for block in self.blocks("console")]
        return [Exchange.of(part) for parts in prompts for part in parts]

    def rows(self) -> list[tuple[str, list[str]]]:
        """The paths of its table of endpoints, each with its methods."""
        found = re.findall(r"^\| ([^|]*`/[^|]*) \| ([A-Z, ]+) \|", self.text, re.MULTILINE)
        return [(path, methods.split(", ")) for paths, methods in found for path in re.findall(r"`(/[^`]+)`", paths)]

    def anchors(self) -> set[str]:
        """What a link can lead to within it, by GitHub's rule for headings."""
        headings = re.findall(
            r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE), re.M
        )
        plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        return {name if n == 0 else f"{name}-{n}" for i, name in enumerate(plain) for n in [plain[:i].count(name)]}


README = Document(ROOT / "README.md")
API, KINDS, OPERATIONS, PIPELINES, TESTING = (
    Document(ROOT / "docs" / f"{name}.md") for name in ("api", "kinds", "operations", "pipelines", "testing")
)
ALL = [Document(path) for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])]
# What a line uploads, by the name it has there.
FILES = {"students.csv": API.blocks("csv")[0]}


def parsed(command: str) -> Namespace:
    """What the line asks for, as far as the documents use curl; any other option is an error."""
    curl = ArgumentParser()
    curl.add_argument("url")
    curl.add_argument("-i", dest="shows_headers", action="store_true")
    curl.add_argument("-X", dest="method")
    curl.add_argument("-H", dest="headers", action="append", default=[])
    curl.add_argument("--json", dest="body")
    curl.add_argument("-T", dest="file")
    curl.add_argument("-N", dest="is_unbuffered", action="store_true")
    curl.add_argument("-m", dest="seconds", type=float)
    asked = curl.parse_args(shlex.split(command)[1:])
    asked.method = asked.method or ("POST" if asked.body else "GET")
    return asked


def begun(url: str, headers: Mapping[str, str], seconds: float) -> str:
    """What comes of an answer within so long."""
    end = time.monotonic() + seconds
    came = b""
    # Nothing for that long is an end, too.
    with (
        requests.get(url, headers=headers, stream=True, timeout=(60, seconds)) as answer,
        suppress(requests.ConnectionError),
    ):
        for chunk in answer.iter_content(None):
            came += chunk
            if time.monotonic() > end:
                break
    return came.decode()


class Reader:
    """Follows lines in order, with the ids they are given in place of those shown."""

    def __init__(self, address: str, environment: Mapping[str, str] | None = None) -> None:
        self.address = address
        self.environment = dict(environment or {})
        self.ids: dict[str, str] = {}

    def follow(self, exchange: Exchange) -> None:
        """Fails where the answer is another than shown. What only looks may be asked again for a while."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        command = self.as_given(exchange.command)
        asked = parsed(command) if command.startswith("curl ") else None
        while differences := list(self.differences(asked, command, exchange.answer)):
            only_looks = asked.method == "GET" if asked else "manage.py doctor" in command
            may_change = only_looks and time.monotonic() < deadline
            assert may_change, "\n".join((exchange.command, *differences))
            time.sleep(0.1)

    def differences(self, asked: Namespace | None, command: str, shown: str) -> Iterator[str]:
        known = dict(self.ids)
        found = list(self.http_differences(asked, shown) if asked else self.shell_differences(command, shown))
        if found:
            self.ids = known
        yield from found

    def shell_differences(self, command: str, shown: str) -> Iterator[str]:
        """Runs the line in the repository, with the programs of the virtual environment and of PostgreSQL at hand."""
        programs = Path(sys.executable).parent
        done = subprocess.run(
            ["bash", "-c", command.replace(".venv/bin/", f"{programs}/")],
            cwd=ROOT,
            env=self.environment | {"PATH": f"{packaged_binaries()}/bin:{programs}:{self.environment['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            yield f"exit {done.returncode}: {done.stdout}{done.stderr}"
        yield from self.text_differences(shown, done.stdout)

    def http_differences(self, asked: Namespace, shown: str) -> Iterator[str]:
        headers = dict(header.split(": ", 1) for header in asked.headers)
        if asked.body:
            headers["Content-Type"] = "application/json"
        if asked.seconds:
            yield from self.text_differences(shown, begun(f"http://{asked.url}", headers, asked.seconds))
            return
        sent = FILES[asked.file] if asked.file else asked.body
        answer = requests.request(asked.method, f"http://{asked.url}", headers=headers, data=sent, timeout=60)
        head, _, body = shown.partition("\n\n") if asked.shows_headers else ("", "", shown)
        # The body first: it tells the ids that headers name.
        yield from self.answer_differences(body, answer)
        if asked.shows_headers:
            yield from self.head_differences(head, answer)
        elif not answer.ok:
            yield f"got {answer.status_code} {answer.reason}: {answer.text}"

    def answer_differences(self, shown: str, answer: requests.Response) -> Iterator[str]:
        try:
            body = json.loads(shown)
        except ValueError:
            yield from self.text_differences(shown, answer.text.removeprefix("\ufeff"))
        else:
            yield from self.body_differences(body, answer.json(), "")

    def head_differences(self, shown: str, answer: requests.Response) -> Iterator[str]:
        status, *headers = shown.splitlines()
        if status != f"HTTP/1.1 {answer.status_code} {answer.reason}":
            yield f"shown {status!r}, got {answer.status_code} {answer.reason}: {answer.text}"
        for header in headers:
            name, _, value = header.partition(": ")
            if self.as_given(value) != answer.headers.get(name):
                yield f"shown {header!r}, got {answer.headers.get(name)!r}"

    def text_differences(self, shown: str, got: str) -> Iterator[str]:
        """A line that is an elision stands for any lines, and one within a line for anything there."""
        lines = [
            r"(.*\n)*?" if line.strip() == ELISION else ".*".join(map(re.escape, line.split(ELISION))) + r"\s*\n"
            for line in self.as_given(shown).rstrip().splitlines()
        ]
        if not re.fullmatch("".join(lines), f"{got.rstrip()}\n" if got.strip() else ""):
            yield f"shown:\n{shown}\ngot:\n{got}"

    def body_differences(self, shown: Any, got: Any, path: str) -> Iterator[str]:
        if isinstance(shown, dict) and isinstance(got, dict):
            yield from self.object_differences(shown, got, path)
        elif isinstance(shown, list) and isinstance(got, list):
            yield from self.array_differences(shown, got, path)
        elif type(shown) is not type(got) or not self.fits(path.rpartition("/")[2], shown, got):
            yield f"{path}: shown {shown!r}, got {got!r}"

    def object_differences(self, shown: dict[str, Any], got: dict[str, Any], path: str) -> Iterator[str]:
        is_whole = ELISION not in shown
        if missing := shown.keys() - got.keys() - {ELISION}:
            yield f"{path}: without {sorted(missing)}"
        if is_whole and (more := got.keys() - shown.keys()):
            yield f"{path}: shown without {sorted(more)}"
        for name in (name for name in shown if name in got):
            yield from self.body_differences(shown[name], got[name], f"{path}/{name}")

    def array_differences(self, shown: list[Any], got: list[Any], path: str) -> Iterator[str]:
        is_whole = shown[-1:] != [ELISION]
        wanted = shown if is_whole else shown[:-1]
        if len(got) < len(wanted) or (is_whole and len(got) != len(wanted)):
            yield f"{path}: shown {len(wanted)}, got {len(got)}"
        for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
            yield from self.body_differences(one, other, f"{path}/{index}")

    def fits(self, name: str, shown: Any, got: Any) -> bool:
        """Whether two values of the same type are the same, but for ids, times and chance."""
        if not isinstance(shown, str):
            return name in BY_CHANCE or bool(shown == got)
        if TIME.fullmatch(shown):
            return bool(TIME.fullmatch(got))
        if name == "message":
            return re.sub(r"\d+", "1", shown) == re.sub(r"\d+", "1", got)
        self.learn(ID.findall(shown), ID.findall(got))
        return bool(self.as_given(shown) == got)

    def learn(self, shown: list[str], got: list[str]) -> None:
        """Remembers which ids stand for those shown; the first answer that has one decides."""
        for one, other in zip(shown, got, strict=False):
            self.ids.setdefault(one, other)

    def as_given(self, text: str) -> str:
        """The document's text with this reader's address and ids in it."""
        text = text.replace("localhost:8000", self.address)
        return ID.sub(lambda id: self.ids.get(id[0], id[0]), text)
