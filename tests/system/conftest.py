"""One running stack for all system tests that need one."""

from collections.abc import Iterator

import pytest

from tests import servers
from tests.system.stack import Stack


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    stack = Stack(servers.new_folder("stack") / "data")
    try:
        stack.wait_until_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def stack(running_stack: Stack) -> Stack:
    """The stack, whole again after whatever the test before did to it."""
    running_stack.wait_until_ready()
    return running_stack
