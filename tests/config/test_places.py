"""Who has to wait, or to go, where more is asked for than there is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from config import connections
from config.connections import surplus_of
from config.places import NotServed, Places, Threads


def of(address: str, *ports: int) -> list[tuple[str, str]]:
    return [(address, str(port)) for port in ports]


def test_whoever_has_most_connections_loses_the_longest_idle_of_them() -> None:
    idle = of("192.0.2.1", 1, 2, 3, 4) + of("192.0.2.2", 5, 6) + of("192.0.2.3", 7)

    assert surplus_of(idle, 2) == of("192.0.2.1", 1, 2)
    assert sorted(surplus_of(idle, 4)) == of("192.0.2.1", 1, 2, 3) + of("192.0.2.2", 5)


def test_addresses_of_one_ipv6_network_are_counted_together() -> None:
    idle = [(f"2001:db8::{number:x}", "1") for number in range(5)] + of("192.0.2.1", 1, 2)

    assert surplus_of(idle, 3) == idle[:3]


def test_a_trusted_proxy_keeps_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PROXIES", [ip_network("192.0.2.0/24")])
    idle = of("192.0.2.1", 1, 2, 3) + of("::ffff:192.0.2.2", 4, 5) + of("198.51.100.1", 6)

    assert surplus_of(idle, 6) == of("198.51.100.1", 6)


def test_one_client_has_half_of_the_places_and_gets_them_back() -> None:
    places = Places(4)

    with places.one_of("a", "tests"), places.one_of("a", "tests"):
        with pytest.raises(NotServed, match="You already have too many tests"), places.one_of("a", "tests"):
            pass
        with (
            places.one_of("b", "tests", 2),
            pytest.raises(NotServed, match="Too many tests are in progress"),
            places.one_of("c", "tests"),
        ):
            pass
    with places.one_of("a", "tests", 2):
        assert not places.has_one_of("a")


def test_threads_work_for_each_client_in_turn() -> None:
    threads, may_begin, done = Threads(1, "test"), threading.Event(), threading.Event()
    order: list[str] = []

    def wait() -> None:
        may_begin.wait(10)

    def noting(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    threads.submit("first", wait)
    for name in ("a1", "a2", "b1"):
        threads.submit(name[0], noting(name))
    threads.submit("a", done.set)
    may_begin.set()

    assert done.wait(10)
    assert order == ["a1", "b1", "a2"]
