"""What starts and stops everything: the embedded servers, the processes that are kept running, and `manage.py up`."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2
import pytest
import redis
from honcho.printer import Printer

from config import development
from config.embedded import (
    PortTaken,
    Postgres,
    ServerFailed,
    Valkey,
    free_port,
    kept_running,
    require_free_port,
)
from config.kept_secrets import kept_secret
from config.processes import MARK, KeepingManager
from config.settings import BASE_DIR, Environment
from tests import servers

PATIENCE_SECONDS = 120


def until(condition: Callable[[], Any], patience: float = PATIENCE_SECONDS) -> Any:
    deadline = time.monotonic() + patience
    while not (answer := condition()):
        assert time.monotonic() < deadline, "It did not come about in time."
        time.sleep(0.05)
    return answer


@pytest.fixture
def folder() -> Path:
    return servers.new_folder("up")


@pytest.fixture
def own_postgres(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgres", free_port(), settings={"fsync": "off"}) as server:
        yield server


def test_a_killed_postgres_comes_back_with_what_was_committed(own_postgres: Postgres) -> None:
    with kept_running(own_postgres, lambda _: None), closing(psycopg2.connect(own_postgres.url)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT 42 AS number")
        assert own_postgres.pid is not None
        os.kill(own_postgres.pid, signal.SIGKILL)

        until(lambda: own_postgres.is_alive and own_postgres.answers())

        with closing(psycopg2.connect(own_postgres.url)) as again, again.cursor() as cursor:
            cursor.execute("SELECT number FROM kept")
            assert cursor.fetchall() == [(42,)]


def test_a_postgres_whose_backends_outlive_it_starts_again(own_postgres: Postgres) -> None:
    with closing(psycopg2.connect(own_postgres.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = psutil.Process(cursor.fetchone()[0])
        backend.suspend()  # It cannot notice its postmaster's end and holds on to the shared memory.
        own_postgres.kill()

        own_postgres.start()

        assert own_postgres.answers()
        assert not backend.is_running()


def test_postgres_is_not_started_twice_on_the_same_data(own_postgres: Postgres) -> None:
    with pytest.raises(ServerFailed, match=rf"already runs .* \(pid {own_postgres.pid}\)"):
        Postgres(own_postgres.data_dir, free_port()).start()

    assert own_postgres.answers()


def test_postgres_asks_for_its_password(own_postgres: Postgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(f"postgresql://muster:guessed@127.0.0.1:{own_postgres.port}/muster")


def test_a_killed_valkey_comes_back_with_what_it_held(folder: Path) -> None:
    with Valkey(folder / "valkey", free_port()) as server, kept_running(server, lambda _: None):
        redis.Redis.from_url(server.url).set("kept", 42)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)

        until(lambda: server.is_alive and server.answers())

        assert redis.Redis.from_url(server.url).get("kept") == b"42"


def test_a_stopped_server_is_not_started_again(folder: Path) -> None:
    server = Valkey(folder / "valkey", free_port())
    with kept_running(server, lambda _: None):
        process = psutil.Process(server.pid)

    time.sleep(0.3)  # Thrice the keeper's interval.
    assert not process.is_running()
    assert not server.is_alive


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root gives PostgreSQL another user.")
def test_root_keeps_postgres_out_of_a_closed_folder_without_opening_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = Postgres(tmp_path / "postgres", free_port(), settings={"fsync": "off"})

    with server:
        assert server.answers()

    assert tmp_path.stat().st_mode & 0o777 == 0o700
    home = (tmp_path / "postgres").resolve()
    assert not home.is_relative_to(tmp_path)
    server.destroy()
    assert not home.exists()


def test_a_taken_port_is_named_with_its_setting_and_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        with pytest.raises(PortTaken) as refusal:
            require_free_port(port, "WEB_PORT")

    assert f"Port {port} is taken by" in str(refusal.value)
    assert f"(pid {os.getpid()})" in str(refusal.value)
    assert "WEB_PORT" in str(refusal.value)


def test_a_secret_is_made_once_and_is_its_owners_alone(folder: Path) -> None:
    secrets = {kept_secret(folder / "secret") for _ in range(3)}

    assert len(secrets) == 1
    assert len(secrets.pop()) >= 32
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert list(folder.iterdir()) == [folder / "secret"]


class Kept:
    """A manager at work in a thread, as `up` runs one in the main thread, and what it printed."""

    def __init__(self, folder: Path, commands: dict[str, str]) -> None:
        self.output = io.StringIO()
        self.manager = KeepingManager(Printer(self.output), folder, patience=1)
        for name, command in commands.items():
            self.manager.add_process(name, command)
        self.thread = threading.Thread(target=self.manager.loop, daemon=True)
        self.thread.start()

    def started(self, name: str) -> list[int]:
        """The process ids that the name has had so far."""
        return [int(pid) for pid in re.findall(rf"{name} started \(pid=(\d+)\)", self.output.getvalue())]

    def stop(self) -> None:
        self.manager.terminate()
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def keep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kept]]:
    """Runs and keeps the commands given by name, until the end of the test at the latest."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Only the main thread may set handlers.
    all_kept: list[Kept] = []

    def start(**commands: str) -> Kept:
        all_kept.append(Kept(folder, commands))
        return all_kept[-1]

    yield start
    for kept in all_kept:
        kept.manager.kill()


def test_a_process_that_dies_is_started_again_and_stops_for_good(folder: Path, keep: Callable[..., Kept]) -> None:
    kept = keep(sleeper="exec sleep 600", other="exec sleep 600")
    [first] = until(lambda: kept.started("sleeper"))
    [other] = until(lambda: kept.started("other"))

    os.kill(first, signal.SIGKILL)

    _, second = until(lambda: len(pids := kept.started("sleeper")) == 2 and pids)
    assert psutil.pid_exists(other)
    kept.stop()
    assert not any(psutil.pid_exists(pid) for pid in (first, second, other))
    assert len(kept.started("sleeper")) == 2
    assert "died (-9)" in kept.output.getvalue()


def test_what_a_dead_process_leaves_behind_is_ended_before_it_starts_again(
    folder: Path, keep: Callable[..., Kept]
) -> None:
    kept = keep(parent=f"sleep 600 & echo $! >> {folder}/child; wait")
    [parent] = until(lambda: kept.started("parent"))
    child = int(until(lambda: (folder / "child").exists() and (folder / "child").read_text().split())[0])

    os.kill(parent, signal.SIGKILL)

    until(lambda: len(kept.started("parent")) == 2)
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    kept.stop()


def test_a_process_that_keeps_dying_is_started_ever_more_slowly(folder: Path, keep: Callable[..., Kept]) -> None:
    kept = keep(broken="echo no such luck; exit 1")

    until(lambda: len(kept.started("broken")) == 4)

    pauses = re.findall(r"starting again in (\S+) s", kept.output.getvalue())
    assert [float(pause) for pause in pauses[:3]] == [0, 0.5, 1]
    assert "no such luck" in kept.output.getvalue()
    kept.stop()


def test_a_process_deaf_to_sigterm_is_killed_in_the_end(folder: Path, keep: Callable[..., Kept]) -> None:
    kept = keep(deaf=f"trap '' TERM; touch {folder}/deaf; while true; do sleep 0.1; done")
    until((folder / "deaf").exists)

    kept.stop()

    assert not any(psutil.pid_exists(pid) for pid in kept.started("deaf"))


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> pytest.MonkeyPatch:
    """A shell that has set nothing but the data folder."""
    for name in Environment.__struct_fields__:
        # Set first, so that what the code under test sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATA_DIR", str(folder))
    return monkeypatch


def test_a_command_beside_up_finds_its_environment(no_settings: pytest.MonkeyPatch) -> None:
    development.set_environment("up")
    development.write_environment()
    expected = {name: os.environ[name] for name in ("SECRET_KEY", "DATABASE_URL", "BROKER_URL", "REQUIRE_AUTH")}
    for name in expected:
        no_settings.delenv(name)

    development.set_environment("shell")

    assert {name: os.environ[name] for name in expected} == expected
    assert (development.data_dir() / "env").stat().st_mode & 0o777 == 0o600


def test_an_explicit_environment_is_left_alone(no_settings: pytest.MonkeyPatch) -> None:
    development.set_environment("up")
    development.write_environment()
    for name in ("SECRET_KEY", "BROKER_URL"):
        no_settings.delenv(name)
    no_settings.setenv("DATABASE_URL", "postgresql://production/muster")

    development.set_environment("shell")

    assert os.environ["DATABASE_URL"] == "postgresql://production/muster"
    assert "SECRET_KEY" not in os.environ


def test_the_defaults_that_are_needed_before_the_settings_are_the_settings_own() -> None:
    documented = Environment(SECRET_KEY="x" * 32)

    for name in ("DATA_DIR", "POSTGRES_PORT", "VALKEY_PORT"):
        assert development.DEFAULTS[name] == str(getattr(documented, name))


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
def test_up_serves_keeps_others_out_and_leaves_no_process_behind(folder: Path) -> None:
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
def test_what_a_killed_up_left_serves_on_until_the_next_up_stops_it(folder: Path) -> None:
    with running_up(folder) as up:
        up.wait_until_up()
        left = up.others()
        up.process.kill()
        up.process.wait()
        assert all(process.is_running() for process in left)

        up.start()
        up.wait_until_up()

        assert "stopped what an earlier run, which was killed, had left" in up.output
        assert not any(process.is_running() for process in left)


def test_up_tells_in_one_line_which_port_is_taken(folder: Path) -> None:
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
