"""Code that changes is loaded by restarting the processes, but only if it can be loaded."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config.local.reloader import Reloader
from config.settings import BASE_DIR
from tests.config.local.test_supervisor import Running, supervised
from tests.system.stack import until

LOADED, BROKEN = ["true"], ["sh", "-c", "echo 'SyntaxError: no such luck' >&2; exit 1"]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "deeper").mkdir(parents=True)
    (folder / "jobs.py").touch()
    return folder


def reloader(app: Path, running: Running, load: list[str]) -> Reloader:
    return Reloader([app], running.supervisor, ["worker"], load=load)


def test_a_changed_python_file_restarts_the_processes_and_no_other_file_does(tmp_path: Path, app: Path) -> None:
    with supervised(tmp_path, worker="exec sleep 600", other="exec sleep 600") as running:
        until(lambda: running.started("worker") and running.started("other"))
        threading.Thread(target=reloader(app, running, LOADED).run, daemon=True).start()

        def changed() -> bool:
            # Again and again, since nothing tells when watching has begun.
            (app / "notes.txt").write_text("not code")
            (app / "deeper" / "new.py").write_text("")
            return len(running.started("worker")) >= 2

        until(changed)
        assert "shop/deeper/new.py changed; reloading" in running.output
        assert "notes.txt" not in running.output
        assert len(running.started("other")) == 1


def test_code_that_cannot_be_loaded_is_reported_once_and_restarts_nothing(tmp_path: Path, app: Path) -> None:
    with supervised(tmp_path, worker="exec sleep 600") as running:
        until(lambda: running.started("worker"))
        broken = reloader(app, running, BROKEN)

        broken.reload([app / "jobs.py"])
        broken.reload([app / "jobs.py"])

        assert running.output.count("shop/jobs.py changed, but the code cannot be loaded") == 1
        assert running.output.count("SyntaxError: no such luck") == 1
        assert len(running.started("worker")) == 1


def test_an_error_that_comes_back_is_reported_again(tmp_path: Path, app: Path) -> None:
    is_broken = tmp_path / "broken"
    load = ["sh", "-c", f"test ! -e {is_broken} || {{ echo 'SyntaxError: no such luck' >&2; exit 1; }}"]
    with supervised(tmp_path, worker="exec sleep 600") as running:
        until(lambda: running.started("worker"))
        mended = reloader(app, running, load)

        for breaks in (True, False, True):
            is_broken.touch() if breaks else is_broken.unlink()
            mended.reload([app / "jobs.py"])

        assert running.output.count("SyntaxError: no such luck") == 2
        assert until(lambda: len(running.started("worker")) == 2)


def test_many_changed_files_are_named_in_short(tmp_path: Path, app: Path) -> None:
    with supervised(tmp_path, worker="exec sleep 600") as running:
        until(lambda: running.started("worker"))

        reloader(app, running, LOADED).reload([app / f"{name}.py" for name in "abcde"])

        assert "shop/a.py, shop/b.py, shop/c.py and 2 more changed; reloading" in running.output


def test_a_folder_that_cannot_be_watched_is_reported(tmp_path: Path) -> None:
    with supervised(tmp_path, worker="exec sleep 600") as running:
        reloader(tmp_path / "nowhere", running, LOADED).run()

        assert "code changes are not noticed any more, so nothing reloads" in running.output


def load_code(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "config.load_code"],
        cwd=BASE_DIR,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "EXTRA_APPS": "shop",
            "SECRET_KEY": "only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz",
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def broken(:\n    pass\n", "SyntaxError: invalid syntax"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
        (
            "from orchestrator.kinds import job\n@job('shop.do', queue='nowhere')\ndef do(job): ...\n",
            "Muster does not start: The kind 'shop.do' names the queue 'nowhere', which is not in QUEUES: "
            "default, io.",
        ),
    ],
)
def test_the_error_of_code_that_cannot_be_imported_is_shown_with_its_line_and_no_library(
    app: Path, code: str, said: str
) -> None:
    (app / "__init__.py").touch()
    (app / "jobs.py").write_text(code)

    ended = load_code(app.parent)

    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith(said)
    assert "site-packages" not in ended.stderr
    assert said.startswith("Muster does not start") or f'{app}/jobs.py", line 1' in ended.stderr


def test_code_without_errors_can_be_loaded(app: Path) -> None:
    (app / "__init__.py").touch()

    ended = load_code(app.parent)

    assert (ended.returncode, ended.stderr) == (0, "")
