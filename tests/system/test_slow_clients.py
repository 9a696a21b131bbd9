"""Clients that send slowly, or nothing more, are in nobody else's way."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from select import select

import pytest
import requests

from config.local.ports import free_port
from tests.system.stack import BASE_DIR, Stack, until

MANY = 64
# Generous: what is looked for is an answer that waits for the slow ones, which send nothing more for ten seconds.
PATIENCE_SECONDS = 8
# Health has its own threads: on two cores that other tests share, the longest of 420 waits was 2.6 s.
HEALTH_SECONDS = 3

FORM = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nusername="
HEADS = {
    "a head without its end": "POST /jobs HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "one byte of a body in chunks": "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "one byte of a body with a length": "POST /tasks/ HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    "a log-in without its end": f"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\n{FORM}",
    "an upload without its end": "POST /api/data/ingest/stream/ HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n{",
    "an upload in chunks without its end": "POST /api/data/ingest/stream/ HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "a body for what takes none": "GET /api/health/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    "a body for a path that is none": "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
}

# Of each address, more than the server keeps, and together more than it accepts.
THOUSANDS = 5_000
BUNDLE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)


@contextmanager
def crowd(stack: Stack, address: str, sent: str, many: int, *, again: bool = False) -> Iterator[None]:
    """So many connections from that address, all kept open, as tests/system/crowd.py tells."""
    command = (
        sys.executable,
        "-m",
        "tests.system.crowd",
        stack.ports["WEB_PORT"],
        address,
        str(many),
        sent,
        str(+again),
    )
    with subprocess.Popen(command, cwd=BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"All were opened.\n"
            yield
        finally:
            process.kill()


def longest_wait_for_health(stack: Stack, times: int = 20) -> float:
    def wait() -> float:
        began = time.monotonic()
        assert requests.get(f"{stack.url}/api/health/", timeout=60).status_code == 200
        return time.monotonic() - began

    return max(wait() for _ in range(times))


@contextmanager
def not_reading(url: str, path: str, many: int) -> Iterator[list[socket.socket]]:
    """So many connections that have asked for this and read no answer."""
    with ExitStack() as opened:
        host, port = url.removeprefix("http://").split(":")
        sockets = []
        for _ in range(many):
            client = opened.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect((host, int(port)))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            sockets.append(client)
        yield sockets


def rest_of(each: socket.socket) -> bytes:
    """What still comes."""
    each.settimeout(60)
    received = b""
    with suppress(ConnectionResetError):
        while piece := each.recv(1_000_000):
            received += piece
    return received


@contextmanager
def slow(url: str, sent: str, many: int = MANY) -> Iterator[list[socket.socket]]:
    """So many connections that have sent this and go silent."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(connect(url)) for _ in range(many)]
        for each in sockets:
            each.sendall(sent.encode())
        yield sockets


def answer_to(each: socket.socket, timeout_seconds: float = 60) -> bytes:
    """All that comes until the server closes the connection."""
    each.settimeout(timeout_seconds)
    with each.makefile("rb") as received:
        return received.read()


def everyone_is_served(stack: Stack, job_id: str) -> None:
    for path, statuses in {"/api/health/": [200], "/api/health/ready/": [200, 503], f"/jobs/{job_id}": [200]}.items():
        assert requests.get(stack.url + path, timeout=PATIENCE_SECONDS).status_code in statuses
    for _ in range(5):
        answer = requests.post(f"{stack.url}/tasks/", json={"a": 1, "b": 2}, timeout=PATIENCE_SECONDS)
        assert answer.status_code in (201, 202), answer.text


@pytest.mark.long
@pytest.mark.parametrize("sent", HEADS.values(), ids=HEADS.keys())
def test_many_slow_clients_delay_nobody(stack: Stack, sent: str) -> None:
    job_id = stack.submit("demo.slices")

    with slow(stack.url, sent):
        everyone_is_served(stack, job_id)


@pytest.mark.long
def test_all_sorts_of_slow_clients_at_once_delay_nobody(stack: Stack) -> None:
    job_id = stack.submit("demo.slices")

    with ExitStack() as opened:
        for sent in HEADS.values():
            opened.enter_context(slow(stack.url, sent))

        everyone_is_served(stack, job_id)


@pytest.mark.parametrize("sent", ["", HEADS["a head without its end"]], ids=["nothing", "a part of a head"])
@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"], ["127.0.0.1"]], ids=" ".join)
def test_thousands_of_idle_connections_keep_nobody_waiting(stack: Stack, addresses: list[str], sent: str) -> None:
    with ExitStack() as opened:
        for address in addresses:
            opened.enter_context(crowd(stack, address, sent, THOUSANDS))

        assert longest_wait_for_health(stack) < HEALTH_SECONDS


@pytest.mark.long
def test_busy_connections_delay_nobody(stack: Stack) -> None:
    job_id = stack.submit("demo.slices")
    pipelined = "GET /kinds HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50

    with crowd(stack, "127.0.0.2", pipelined, 300, again=True):
        assert longest_wait_for_health(stack) < HEALTH_SECONDS
        everyone_is_served(stack, job_id)


@pytest.fixture(scope="module")
def long_csv(running_stack: Stack) -> str:
    """The path of a CSV file of 20,000 errors, which is made while it is read."""
    lines = (line.replace(b'"7"', b'"77"') for line in records(20_000, "long"))
    uploaded = running_stack.stream(lines).json()
    until(lambda: running_stack.get(uploaded["status_url"]).json()["failed_records"] == 20_000, 120)
    return f"/api/data/status/{uploaded['task_id']}/errors/?format=csv"


def test_a_long_response_arrives_whole(stack: Stack, long_csv: str) -> None:
    lines = stack.get(long_csv).text.splitlines()[1:]

    assert [line.split(",")[0] for line in lines] == [*map(str, range(1, 20_001))]


def test_unread_responses_take_little_memory_and_no_thread_and_are_cut_off(stack: Stack, long_csv: str) -> None:
    job_id = stack.submit("demo.slices")
    [web] = stack.process("web").children()
    before = web.memory_info().rss

    with not_reading(stack.url, long_csv, 40) as of_csv, not_reading(stack.url, BUNDLE, 260) as of_file:
        everyone_is_served(stack, job_id)
        grown = web.memory_info().rss - before
        ports = {client.getsockname()[1] for client in of_csv + of_file}
        until(lambda: ports.isdisjoint(each.raddr.port for each in web.net_connections("tcp") if each.raddr), 60)
        ends = {rest_of(client)[-5:] for client in of_csv}
        longest = max(len(rest_of(client)) for client in of_file)

    assert grown < 100_000_000
    assert b"0\r\n\r\n" not in ends
    assert longest < 1_500_000


@pytest.mark.slow
def test_a_body_that_does_not_arrive_is_cut_off(stack: Stack) -> None:
    with ExitStack() as opened:
        clients = [
            *opened.enter_context(slow(stack.url, HEADS["one byte of a body with a length"], many=1)),
            *opened.enter_context(slow(stack.url, HEADS["an upload without its end"], many=1)),
        ]
        answers = [answer_to(client) for client in clients]

    assert len(answers) == 2
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in answer


def test_a_body_that_is_slow_but_comes_is_read(stack: Stack) -> None:
    body = b'{"a": 1, "b": 2}'
    head = f"POST /tasks/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"

    with slow(stack.url, f"{head}\r\nConnection: close\r\n\r\n", many=1) as [client]:
        for byte in body:
            client.sendall(bytes([byte]))
            threading.Event().wait(0.05)
        answer = answer_to(client)

    assert answer.split()[1] in (b"201", b"202"), answer


def records(count: int, prefix: str) -> Iterator[bytes]:
    for number in range(count):
        yield (
            f'{{"student_id": "{prefix}{number}", "first_name": "A", "last_name": "B", "email": "a@example.org", '
            '"grade": "7"}\n'
        ).encode()


def test_an_upload_in_chunks_is_stored(stack: Stack) -> None:
    lines = (b"".join(each) for each in zip(*[records(3_000, "chunked")] * 100, strict=True))
    headers = {"Content-Type": "application/x-ndjson"}

    answer = requests.post(f"{stack.url}/api/data/ingest/stream/", data=lines, headers=headers, timeout=60)

    assert answer.status_code == 202, answer.text
    assert answer.json()["total_records"] == 3_000


@pytest.mark.parametrize("after", [10, 20_000])
def test_an_upload_in_chunks_that_breaks_off_stores_nothing(stack: Stack, after: int) -> None:
    prefix = f"broken{after}-"
    before = stack.query("SELECT count(*) FROM orchestrator_job WHERE kind LIKE 'ingestion.%%'")
    head = HEADS["an upload in chunks without its end"].partition("1\r\n{")[0]

    with slow(stack.url, head, many=1) as [client]:
        for line in records(after, prefix):
            client.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = answer_to(client)

    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"before the whole body had arrived" in answer
    assert stack.query("SELECT count(*) FROM orchestrator_job WHERE kind LIKE 'ingestion.%%'") == before


@pytest.fixture(scope="module")
def guarded(running_stack: Stack) -> Iterator[str]:
    """The URL of a second web process of the stack, which asks for tokens, and whom a proxy tells who asks."""
    port = free_port()
    web = running_stack.process("web")
    settings = {
        "REQUIRE_AUTH": "true",
        "ALLOW_UNAUTHENTICATED": "false",
        "WEB_PORT": str(port),
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    [command] = [
        line.removeprefix("web: ")
        for line in (BASE_DIR / "Procfile").read_text().splitlines()
        if line.startswith("web: ")
    ]
    process = subprocess.Popen(["/bin/sh", "-c", command], cwd=BASE_DIR, env=web.environ() | settings)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _is_served(url), 60)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _is_served(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/health/", timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.parametrize("authorization", ["", "Authorization: Bearer nonsense\r\n"])
@pytest.mark.parametrize("name", [name for name in HEADS if name.startswith(("one byte", "an upload"))])
def test_without_a_good_token_a_body_is_refused_before_it_is_read(guarded: str, name: str, authorization: str) -> None:
    sent = HEADS[name].replace("Host: localhost\r\n", f"Host: localhost\r\n{authorization}")

    with slow(guarded, sent, many=1) as [client]:
        answer = answer_to(client, PATIENCE_SECONDS)

    assert answer.startswith(b"HTTP/1.1 401 "), answer


def test_wrong_tokens_are_counted_by_the_address_that_a_trusted_proxy_names(guarded: str) -> None:
    def status(address: str) -> int:
        headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": f"198.51.100.1, {address}"}
        return requests.get(f"{guarded}/jobs", headers=headers, timeout=PATIENCE_SECONDS).status_code

    guesses = [status("203.0.113.9") for _ in range(21)]

    assert guesses == [401] * 20 + [429]
    assert status("203.0.113.10") == 401


def test_one_client_has_half_the_places_whatever_tokens_it_makes_up(stack: Stack) -> None:
    made_up = [
        f"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Other {number}\r\n"
        f"Cookie: csrftoken={'a' * 32}\r\nConnection: close\r\n{FORM}"
        for number in range(MANY)
    ]

    with ExitStack() as opened:
        [*sockets] = [opened.enter_context(connect(stack.url)) for _ in made_up]
        for each, sent in zip(sockets, made_up, strict=True):
            each.sendall(sent.encode())
        answered: list[socket.socket] = until(
            lambda: len(found := select(sockets, [], [], 0)[0]) >= MANY // 2 and found, 60
        )
        # What the others wait for comes, so they are served.
        others = [each for each in sockets if each not in answered]
        for each in others:
            each.sendall(b"a" * 91)
        statuses = [answer_to(each)[:13] for each in (*answered, *others)]

    assert statuses[: MANY // 2] == [b"HTTP/1.1 429 "] * (MANY // 2)
    assert b"HTTP/1.1 429 " not in statuses[MANY // 2 :]
