"""Ports that are taken."""

import os
import socket

import pytest

from config.local.ports import PortTaken, require_free_port


def test_a_taken_port_is_named_with_its_setting_and_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        with pytest.raises(PortTaken) as refusal:
            require_free_port(port, "WEB_PORT")

    assert f"Port {port} is taken by" in str(refusal.value)
    assert f"(pid {os.getpid()})" in str(refusal.value)
    assert "WEB_PORT" in str(refusal.value)
