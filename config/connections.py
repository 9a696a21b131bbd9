"""The connections of clients to this web process: which are idle, and which of those are closed.

granian accepts connections up to its `--backpressure`, and reports none before a whole request has arrived, so they
are found among the open files of the process. A connection is shut down here; granian then closes its file.
"""

from __future__ import annotations

import heapq
import logging
import os
import resource
import socket
import struct
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv6Address, ip_address, ip_network
from queue import SimpleQueue
from time import monotonic

from config.settings import TRUSTED_PROXIES

logger = logging.getLogger(__name__)

# An address and a port, as in an ASGI scope.
Peer = tuple[str, str]

# If more connections than this have no request in progress, half of them are closed. Together with the busy ones they
# must stay below granian's `--backpressure`, or nobody could connect any more.
MAX_IDLE_CONNECTIONS = 2_048
LOOK_SECONDS = 0.1
# granian's `--backpressure`, and some for files, the database and the broker. With fewer, granian would try without a
# pause to accept what it cannot.
MIN_FILES = 10_000
WARN_SECONDS = 60
# A connection ends if its client has acknowledged nothing, or had no room for more, for so long.
UNREAD_SECONDS = 30
# How much of a response the kernel buffers unsent, so that `send` notices a client that does not read.
UNSENT_BYTES = 128 * 1024

PROXIES = [ip_network(proxy) for proxy in TRUSTED_PROXIES]


class Connections:
    """Used on the event loop; inspects the open files in a thread of its own."""

    def __init__(self, most_idle: int = MAX_IDLE_CONNECTIONS) -> None:
        self._most_idle = most_idle
        self._port: int | None = None
        # Requests in progress by connection: the next may arrive before the end of the last one is recorded.
        self._busy: Counter[Peer] = Counter()
        # The longest idle first.
        self._idle: dict[Peer, None] = {}
        self._unwanted: SimpleQueue[tuple[Peer, Future[None]]] = SimpleQueue()
        self._hung_up, self._warned_at = 0, -float(WARN_SECONDS)

    @contextmanager
    def busy(self, peer: Peer) -> Iterator[None]:
        """A request is in progress."""
        self._busy[peer] += 1
        try:
            yield
        finally:
            self._busy[peer] -= 1
            if not self._busy[peer]:
                del self._busy[peer]

    def hang_up_on(self, peer: Peer) -> Future[None]:
        """Done once the connection is shut down, or if it was gone already. Unsent data is discarded."""
        done: Future[None] = Future()
        self._unwanted.put((peer, done))
        return done

    def watch(self) -> None:
        """Inspects the connections regularly, as long as the process lives."""
        threading.Thread(target=self._watch, name="connections", daemon=True).start()

    def _watch(self) -> None:
        pause, took = threading.Event(), 0.0
        # A third of the time at most.
        while not pause.wait(max(LOOK_SECONDS, 2 * took)):
            began = monotonic()
            try:
                self.look()
            except Exception:
                logger.exception("Could not inspect the connections")
            took = monotonic() - began

    def look(self) -> None:
        files = [int(name) for name in os.listdir("/dev/fd")]
        if self._port is None:
            self._port = _prepared_port(files)
        elif len(files) > self._most_idle or not self._unwanted.empty():
            peers = _peers(files, self._port)
            self._hang_up_on_unwanted(peers)
            self._hang_up_on_surplus(peers)

    def _hang_up_on_unwanted(self, peers: dict[Peer, int]) -> None:
        while not self._unwanted.empty():
            peer, done = self._unwanted.get()
            if file := peers.pop(peer, None):
                _hang_up(peer, file, at_once=True)
            done.set_result(None)

    def _hang_up_on_surplus(self, peers: dict[Peer, int]) -> None:
        idle = peers.keys() - self._busy.copy()
        self._idle = {peer: None for peer in (*self._idle, *peers) if peer in idle}
        if len(idle) > self._most_idle:
            surplus = surplus_of(self._idle, len(idle) - self._most_idle // 2)
            for peer in surplus:
                _hang_up(peer, peers[peer])
            self._warn(surplus)

    def _warn(self, surplus: list[Peer]) -> None:
        self._hung_up += len(surplus)
        if surplus and monotonic() > self._warned_at + WARN_SECONDS:
            text = "Closed %s idle connections, the last one from %s: more than %s were open."
            logger.warning(text, self._hung_up, surplus[-1][0], self._most_idle)
            self._hung_up, self._warned_at = 0, monotonic()


def surplus_of(idle: Iterable[Peer], count: int) -> list[Peer]:
    """So many connections to close, each the longest idle of the owner with the most; trusted proxies keep theirs."""
    by_owner: dict[str, list[Peer]] = defaultdict(list)
    for peer in idle:
        by_owner[peer[0]].append(peer)
    owners: dict[str, list[Peer]] = defaultdict(list)
    for address, peers in by_owner.items():
        if (owner := _owner(address)) is not None:
            owners[owner] += peers
    most_first = [(-len(peers), owner, iter(peers)) for owner, peers in owners.items()]
    heapq.heapify(most_first)
    chosen: list[Peer] = []
    while len(chosen) < count and most_first and most_first[0][0]:
        size, owner, oldest_first = most_first[0]
        chosen.append(next(oldest_first))
        heapq.heapreplace(most_first, (size + 1, owner, oldest_first))
    return chosen


def _owner(address: str) -> str | None:
    """An IPv6 network of 64 bits is one customer's; None for a proxy, which bounds its clients by itself."""
    known = ip_address(address.partition("%")[0])
    if isinstance(known, IPv6Address):
        known = known.ipv4_mapped or known
    if any(known in proxy for proxy in PROXIES):
        return None
    return str(ip_network((known, 64), strict=False)) if isinstance(known, IPv6Address) else str(known)


def _prepared_port(files: Iterable[int]) -> int | None:
    """Of the socket this process listens at, whose options those it accepts inherit; None if there is none yet."""
    for file in files:
        with suppress(OSError), _borrowed(file) as found:
            if _is_tcp(found) and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                if sys.platform == "linux":
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1_000)
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
                return int(found.getsockname()[1])
    return None


def _peers(files: Iterable[int], port: int) -> dict[Peer, int]:
    """The connections to that port, and their files."""
    peers = {}
    for file in files:
        with suppress(OSError), _borrowed(file) as found:
            if _is_tcp(found) and found.getsockname()[1] == port:
                peers[_peer(found)] = file
    return peers


def _is_tcp(found: socket.socket) -> bool:
    return found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM


def _peer(connection: socket.socket) -> Peer:
    host, port = connection.getpeername()[:2]
    return host, str(port)


def _hang_up(peer: Peer, file: int, *, at_once: bool = False) -> None:
    """The file may have become another's since it was looked at, so a copy of it is held and asked once more."""
    with suppress(OSError), closing(socket.socket(fileno=os.dup(file))) as connection:
        if _peer(connection) == peer:
            if at_once:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _borrowed(file: int) -> Iterator[socket.socket]:
    """The socket behind a file that stays its owner's to close."""
    borrowed = socket.socket(fileno=file)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def allow_as_many_files_as_may_be() -> None:
    """Each connection is an open file, and the usual limit, 1,024, is one for programs that use select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < MIN_FILES:
        text = "This process may open only %s files, which connections can exhaust; raise the limit to %s (ulimit -n)."
        logger.warning(text, most, MIN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
