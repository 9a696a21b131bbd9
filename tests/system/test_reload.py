"""Under `make up`, changed code is loaded by processes that are restarted, and no job notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import servers
from tests.system.stack import Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.long]

JOBS = """
from orchestrator.kinds import job


@job("shop.answer", queue="io")
def answer(job):
    return {answer!r}
"""


class Shop:
    """An app of one's own whose only kind returns what its code says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop").mkdir()
        (folder / "shop" / "__init__.py").touch()
        self.write(JOBS.format(answer="first"))

    def write(self, code: str) -> None:
        """No two of the same length: within a second Python takes such for the same, and uses its bytecode."""
        (self.folder / "shop" / "jobs.py").write_text(code)


class ReloadingStack(Stack):
    up_options = ()


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(servers.new_folder("reload"))


@pytest.fixture(scope="module")
def reloading(shop: Shop) -> Iterator[Stack]:
    settings = {"EXTRA_APPS": "tests.kinds,shop", "PYTHONPATH": str(shop.folder)}
    with ReloadingStack(shop.folder / "data", **settings) as stack:
        yield stack


def answer(stack: Stack) -> Any:
    """What a new job returns; None while the web server restarts."""
    try:
        return stack.end_of(stack.submit("shop.answer"))["result"]
    except requests.RequestException:
        return None


def test_the_next_job_runs_changed_code_and_a_job_that_ran_meanwhile_completes_once(
    reloading: Stack, shop: Shop
) -> None:
    # Longer than the grace period, so that the old worker hands it back.
    long = reloading.submit("tests.steps", {"steps": 40, "seconds_per_step": 0.1})
    short = reloading.submit("tests.wait_and_write", {"seconds": 1.5})
    for job_id in (long, short):
        reloading.running(job_id)

    shop.write(JOBS.format(answer="changed"))

    until(lambda: answer(reloading) == "changed")
    assert reloading.end_of(short)["status"] == reloading.end_of(long)["status"] == "COMPLETED"
    assert reloading.effects_of(short) == [(1, 0)]
    assert [number for _, number in reloading.effects_of(long)] == list(range(40))


def test_the_old_code_runs_until_an_error_is_mended(reloading: Stack, shop: Shop) -> None:
    before = answer(reloading)

    shop.write("def broken(:\n")

    until(lambda: "shop/jobs.py changed, but the code cannot be loaded" in reloading.output)
    assert answer(reloading) == before
    assert reloading.output.count("SyntaxError: invalid syntax") == 1

    shop.write(JOBS.format(answer="mended"))
    until(lambda: answer(reloading) == "mended")


def test_many_saves_at_once_are_one_reload(reloading: Stack, shop: Shop) -> None:
    until(lambda: answer(reloading) is not None)
    reloads = reloading.output.count("; reloading")

    for length in range(20):
        shop.write(JOBS.format(answer="saved" + "." * length))

    until(lambda: answer(reloading) == "saved" + "." * 19)
    assert reloading.output.count("; reloading") == reloads + 1
