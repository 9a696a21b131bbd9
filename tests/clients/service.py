"""Muster's web server as it runs in production, beside the tests, on their database."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
from django.db import connection

from config.local.ports import free_port

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 60
RATES = ("REQUESTS_PER_MINUTE", "REQUESTS_PER_MINUTE_PER_ADDRESS")
# A client that reads a response to its end would wait for a quarter of an hour.
SHORT_STREAMS = {"MAX_WATCH_SECONDS": "0.3"}


@contextmanager
def service(**settings: str) -> Iterator[str]:
    """The address of a server with those settings, for as long as the block lasts."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--log-level", "error"),
            *("--blocking-threads", "8", "config.wsgi:application"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": database_url(),
            **dict.fromkeys(RATES, "1000000"),
            **SHORT_STREAMS,
            **settings,
        },
    )
    try:
        wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def database_url() -> str:
    """That of the tests' own database, which is made under another name than the server's."""
    given = urlsplit(os.environ["DATABASE_URL"])
    return urlunsplit(given._replace(path="/" + connection.settings_dict["NAME"]))


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, "The server has ended."
        try:
            return requests.get(f"{address}/api/health/", timeout=5).raise_for_status()
        except requests.RequestException:
            assert time.monotonic() < deadline, f"No answer within {START_SECONDS} s."
            time.sleep(0.1)
