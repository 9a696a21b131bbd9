"""A TCP proxy that is a network to be cut."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

PIECE_BYTES = 65_536
# SO_LINGER with a time of zero: closing the socket resets the connection.
RESET = struct.pack("ii", 1, 0)
# What Muster asks of PostgreSQL's end of a connection. The server itself has its end here, which is always there.
POSTGRESQL_KEEPALIVE = {
    socket.TCP_USER_TIMEOUT: 5_000,
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 3,
}


class Proxy:
    """Listens on a port of its own and passes bytes to another, in a thread of its own."""

    def __init__(
        self, target_port: int, host: str = "127.0.0.1", *, keepalive: Mapping[int, int] | None = None
    ) -> None:
        """keepalive: by which options of its sockets the server notices that a client cannot be reached any more."""
        self._target_port = target_port
        self._keepalive = keepalive or {}
        self.host = host
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._answer: bytes | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._started.wait()

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self._call(self._open.clear)

    def heal(self) -> None:
        """What was under way arrives late, and all goes on."""
        self._call(self._open.set)

    def answer(self, reply: bytes | None) -> None:
        """From now on whatever a client sends is answered so, and arrives nowhere; with None all goes on."""
        self._call(lambda: setattr(self, "_answer", reply))

    def reset(self) -> None:
        """All connections are reset; what was under way is lost. New ones may be made."""
        self._call(self._reset)

    def stop(self) -> None:
        self._call(self._reset)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, self.host, 0))
        self.port: int = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._notice_when_packets_vanish(writer.get_extra_info("socket"))
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            self._drop(writer)
            return
        self._writers.add(far_writer)
        await asyncio.gather(self._pass_on(reader, far_writer, writer), self._pass_on(far_reader, writer))

    def _notice_when_packets_vanish(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(self._keepalive))
        for name, value in self._keepalive.items():
            client.setsockopt(socket.IPPROTO_TCP, name, value)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter | None = None
    ) -> None:
        """Whichever side ends first, the other is told, unless the network is cut."""
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self._open.wait()
                if client and self._answer is not None:
                    client.write(self._answer)
                    continue
                writer.write(piece)
                await writer.drain()
        await self._open.wait()
        self._drop(writer)

    def _reset(self) -> None:
        for writer in list(self._writers):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        self._writers.clear()
        self._open.set()

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()

    def _call(self, function: Callable[[], Any]) -> None:
        done = threading.Event()

        def act() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()
