"""`manage.py up` serves, keeps others out, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import pytest

from config.environment import Environment
from config.local.ports import free_port
from config.local.supervisor import MARK
from config.settings import BASE_DIR
from tests import servers
from tests.system.stack import until

PATIENCE_SECONDS = 120


@pytest.fixture
def folder() -> Path:
    return servers.new_folder("up")


class Up:
    """`manage.py up` on a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        ports = {name: str(free_port()) for name in ("WEB_PORT", "FLOWER_PORT", "POSTGRES_PORT", "VALKEY_PORT")}
        inherited = {name: value for name, value in os.environ.items() if name not in Environment.__struct_fields__}
        self.environment = {**inherited, **ports, "DATA_DIR": str(self.folder)}
        self.output_path = folder / "output"

    def start(self, **environment: str) -> Self:
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=BASE_DIR,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def wait_until_up(self) -> None:
        until(lambda: "Muster is up" in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output

    def others(self) -> list[psutil.Process]:
        """Every process that belongs to it, but itself: by its environment, and the servers by their folder."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get(MARK) == str(self.folder)
                if mine or process.cwd() in (str(self.folder / "postgres"), str(self.folder / "valkey")):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def running_up(folder: Path) -> Iterator[Up]:
    up = Up(folder).start()
    try:
        yield up
    finally:
        up.process.terminate()
        up.process.wait(PATIENCE_SECONDS)
        for process in up.others():
            process.kill()


@pytest.mark.slow
def test_up_serves_refuses_a_second_up_and_leaves_no_process_behind(folder: Path) -> None:
    with running_up(folder) as up:
        up.wait_until_up()
        password = re.search(r"user admin, password (\S+)", up.output)
        second = subprocess.run(
            [sys.executable, "manage.py", "up"], cwd=BASE_DIR, env=up.environment, capture_output=True, text=True
        )
        others = up.others()

        up.process.send_signal(signal.SIGINT)

        assert up.process.wait(PATIENCE_SECONDS) == 0
        assert password is not None
        assert second.returncode == 1
        assert second.stderr.startswith(f"CommandError: Muster already runs on {up.folder} (pid {up.process.pid})")
        assert len(others) > 8
        assert up.others() == []

        up.start()
        up.wait_until_up()
        assert "password" not in up.output  # The admin of the first start is kept, like all data.


@pytest.mark.slow
def test_the_processes_of_a_killed_up_go_on_until_the_next_up_stops_them(folder: Path) -> None:
    with running_up(folder) as up:
        up.wait_until_up()
        left = up.others()
        up.process.kill()
        up.process.wait()
        assert all(process.is_running() for process in left)

        up.start()
        up.wait_until_up()

        assert "stopped processes left over from an earlier run that was killed" in up.output
        assert not any(process.is_running() for process in left)


def test_up_says_in_one_line_which_port_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        up = Up(folder).start(WEB_PORT=port)

        assert up.process.wait(PATIENCE_SECONDS) == 1

    lines = [line for line in up.output.splitlines() if "| " not in line]
    assert len(lines) == 1
    assert re.match(rf"CommandError: Port {port} is taken by .* \(pid \d+\); free it or set WEB_PORT", lines[0])
    assert up.others() == []


@pytest.mark.slow
def test_an_interrupted_test_session_leaves_nothing_behind(folder: Path) -> None:
    (folder / "test_endless.py").write_text(f"""
import time
from tests.servers import folder, postgres, valkey

def test_endless():
    with open({str(folder / "began")!r}, "w") as began:
        began.write(f"{{folder}} {{postgres.pid}} {{valkey.pid}}")
    time.sleep(600)
""")
    # Where this run was started in the background SIGINT is ignored, which a child would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--rootdir", ".", folder / "test_endless.py"],
        cwd=BASE_DIR,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    its_folder, *pids = until(lambda: (folder / "began").exists() and (folder / "began").read_text().split())

    session.send_signal(signal.SIGINT)
    session.wait(PATIENCE_SECONDS)

    assert not any(psutil.pid_exists(int(pid)) for pid in pids)
    assert not Path(its_folder).exists()
