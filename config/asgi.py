"""The ASGI application that granian serves: request bodies are read on the event loop, and Django runs in threads.

No Django thread waits for a client. A body that arrives at once is passed on whole. Otherwise Django is called without
it first: what it refuses without reading (no token, no such path) is refused then. Only when Django tries to read the
body does the rest get a place and a deadline, and Django is called again with the whole body. An upload that is read
as a stream has a thread of another pool. docs/decisions/0028 has the figures.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from granian.utils.proxies import wrap_asgi_with_proxy_headers

from config.bodies import AT_ONCE_BYTES, UPLOAD_BUFFER_BYTES, Body, BodyNeeded, NotYet, Receive, Stream, TooLong
from config.connections import Connections, Peer, allow_as_many_files_as_may_be
from config.event_streams import send_events
from config.places import NotServed, Places, Threads
from config.settings import ENV, TRUSTED_PROXIES
from config.wsgi import application as django
from orchestrator.http.event_stream import EventStream
from orchestrator.live.watching import Watch

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Environ = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

T = TypeVar("T")

# A body that has arrived whole by then is passed on at once.
AT_ONCE_SECONDS = 0.2
# How long to wait for a body for which there is no place.
CROWDED_SECONDS = 2
# A longer answer is sent as its client reads it, in such pieces, each within so many seconds.
SHORT_ANSWER_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024
SEND_SECONDS = 30
# What granian takes of an answer before its client reads any.
SENT_AHEAD_BYTES = 256 * 1024
MAX_UNREAD_BYTES = 64_000_000
# Of long bodies that are read before Django is asked.
MAX_UNASKED_BYTES = 64_000_000
# What waits for a thread included.
MAX_REQUESTS = 2_048
MAX_HEALTH_REQUESTS = 256
HEALTH = "/api/health"

THREADS = Threads(ENV.WEB_THREADS, "request")
# Health checks are served even while all other threads are busy.
HEALTH_THREADS = Threads(4, "health")
UPLOAD_THREADS = Threads(ENV.MAX_UPLOADS, "upload")

requests, health_requests = Places(MAX_REQUESTS), Places(MAX_HEALTH_REQUESTS)
slow_bodies = Places(ENV.MAX_SLOW_BODIES)
uploads = Places(ENV.MAX_UPLOADS)
unread_bytes = Places(MAX_UNREAD_BYTES)
unasked_bytes = Places(MAX_UNASKED_BYTES)
connections = Connections()

EVERY_ENVIRON: Environ = {
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    # The input raises OSError if a body is incomplete, so a chunked one without its end is noticed.
    "muster.tells_a_broken_body": True,
}


class Answer:
    """Django's response. A long body is produced in threads, piece by piece, as the client reads it."""

    def __init__(self, status: int, headers: Headers, pieces: Any) -> None:
        self.status, self.headers = status, headers
        self._pieces, self._following = pieces, iter(pieces)
        self.next_bytes = b""

    @property
    def is_event_stream(self) -> bool:
        return isinstance(self._pieces, EventStream)

    @property
    def watch(self) -> Watch:
        """What an event stream is told."""
        watch: Watch = self._pieces.watch
        return watch

    def make_more(self) -> bool:
        """Whether there is more after this. Closes the response if producing it fails."""
        made, size = [], 0
        try:
            for piece in self._following:
                made.append(piece)
                size += len(piece)
                if size > SHORT_ANSWER_BYTES:
                    break
        except BaseException:
            self.close()
            raise
        self.next_bytes = b"".join(made)
        return size > SHORT_ANSWER_BYTES

    def close(self) -> None:
        if close := getattr(self._pieces, "close", None):
            close()


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, peer: Peer, receive: Receive, send: Send) -> None:
        self.scope, self.peer, self.receive, self.send = scope, peer, receive, send
        self.address = scope["client"][0]
        self.loop = asyncio.get_running_loop()
        self.headers = dict(scope["headers"])
        self.known: dict[str, str] = {}
        # What is left to be sent when the request is over.
        self.events: Answer | None = None
        self.asks_for_health = scope["path"].startswith(HEALTH)

    async def serve(self) -> None:
        with connections.busy(self.peer):
            await self._serve_request()
            if self.events:
                await self._send_events(self.events)

    async def _serve_request(self) -> None:
        places = health_requests if self.asks_for_health else requests
        try:
            with places.one_of(self.address, "requests"):
                if self.has_body:
                    await self._with_body(Body(self.receive))
                else:
                    await self._run(HEALTH_THREADS if self.asks_for_health else THREADS, BytesIO(), None)
        except ConnectionResetError as error:
            self._send(*NotServed(HTTPStatus.BAD_REQUEST, str(error)).answer())
        except NotServed as reason:
            self._send(*reason.answer())

    @property
    def has_body(self) -> bool:
        return b"transfer-encoding" in self.headers or self.headers.get(b"content-length", b"0") != b"0"

    @property
    def client(self) -> str:
        """The user whom Django found the token to be of, before it wanted to read; else the address."""
        return str(self.known.get("user") or self.address)

    async def _with_body(self, body: Body) -> None:
        try:
            with self._room_for(body):
                await self._with_body_as_it_comes(body)
        finally:
            body.stop()

    def _room_for(self, body: Body) -> AbstractContextManager[None]:
        """Lets a long body come whole before Django is asked, as far as there is memory for such bodies."""
        size = self._declared
        if not AT_ONCE_BYTES < size <= ENV.MAX_BODY_BYTES or not unasked_bytes.has_one_of(self.address, size):
            return nullcontext()
        body.allow(waiting=size)
        return unasked_bytes.one_of(self.address, "long requests", size)

    async def _with_body_as_it_comes(self, body: Body) -> None:
        if await body.is_there_within(AT_ONCE_SECONDS):
            await self._with_whole(body)
            return
        asked = NotYet()
        if await self._run(THREADS, asked, self._declared):
            return
        if asked.is_stream:
            await self._with_stream(body)
        else:
            await self._with_slow(body)

    async def _with_whole(self, body: Body) -> None:
        whole = body.whole()
        await self._run(THREADS, BytesIO(whole), len(whole))

    async def _with_slow(self, body: Body) -> None:
        # On a busy machine a body that was sent at once may take a while to arrive.
        if not slow_bodies.has_one_of(self.client) and await body.is_there_within(CROWDED_SECONDS):
            await self._with_whole(body)
            return
        with slow_bodies.one_of(self.client, "slow requests"):
            body.allow(waiting=ENV.MAX_BODY_BYTES, total=ENV.MAX_BODY_BYTES)
            try:
                await body.comes_at_a_pace(ENV.MAX_BODY_SECONDS)
            except TimeoutError as error:
                raise NotServed(HTTPStatus.REQUEST_TIMEOUT, str(error)) from None
            except TooLong:
                detail = f"A request body may have at most {ENV.MAX_BODY_BYTES:,} bytes."
                raise NotServed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail) from None
            await self._with_whole(body)

    async def _with_stream(self, body: Body) -> None:
        with uploads.one_of(self.client, "uploads"):
            body.allow(waiting=UPLOAD_BUFFER_BYTES)
            pace = asyncio.ensure_future(body.comes_at_a_pace(ENV.MAX_UPLOAD_SECONDS))
            try:
                await self._run(UPLOAD_THREADS, Stream(body, self.loop), None)
            finally:
                pace.cancel()
                # The thread that reads the body gets the error.
                await asyncio.gather(pace, return_exceptions=True)

    @property
    def _declared(self) -> int:
        """Django reads no body without a length; of one that comes in chunks it is not known."""
        return int(self.headers.get(b"content-length", b"1"))

    async def _run(self, threads: Threads, body: Any, length: int | None) -> bool:
        """Whether Django has responded; False if it needs the body first."""
        answer = await self._in_thread(threads, lambda: self._answer(body, length))
        if isinstance(answer, bool):
            return answer
        if answer.is_event_stream:
            self.events = answer
            return True
        try:
            await self._pass_on(threads, answer)
        finally:
            await self._in_thread(threads, answer.close)
        return True

    async def _in_thread(self, threads: Threads, work: Callable[[], T]) -> T:
        done: asyncio.Future[T] = self.loop.create_future()
        threads.submit(self.address, lambda: _do(work, done))
        return await done

    async def _pass_on(self, threads: Threads, answer: Answer) -> None:
        """Sends the answer as fast as the client reads. No thread waits for it."""
        size = min(len(answer.next_bytes) + SENT_AHEAD_BYTES, unread_bytes.most_of_one)
        with unread_bytes.one_of(self.client, "long responses", size):
            try:
                await self._send_all(threads, answer)
            except Exception as error:
                logger.warning("The response to %s of %s was cut off: %r", self.scope["path"], self.address, error)
                # Ended in any other way it would look whole.
                await asyncio.wrap_future(connections.hang_up_on(self.peer))

    async def _send_events(self, answer: Answer) -> None:
        try:
            await send_events(answer.watch, answer.status, answer.headers, self.receive, self.send)
        except Exception as error:
            # The client connects again, and misses nothing.
            logger.info("The event stream %s of %s was cut off: %r", self.scope["path"], self.address, error)
            connections.hang_up_on(self.peer)
        finally:
            await self._in_thread(THREADS, answer.close)

    async def _send_all(self, threads: Threads, answer: Answer) -> None:
        await self.send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        while answer.next_bytes:
            await self._send_in_pieces(answer.next_bytes)
            await self._in_thread(threads, answer.make_more)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_in_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            async with asyncio.timeout(SEND_SECONDS):
                piece = data[start : start + PIECE_BYTES]
                await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    # In a thread:

    def _answer(self, body: Any, length: int | None) -> Answer | bool:
        """A long answer, yet to be sent, or whether a short one has been; not so if Django needs the body first."""
        try:
            head: list[Any] = []
            pieces = django(self._environ(body, length), lambda *words: head.extend(words))
            status, headers = head[:2]
            as_bytes = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            if not isinstance(body, BytesIO):
                as_bytes.append((b"connection", b"close"))  # What is left of the body is not waited for.
            answer = Answer(int(status[:3]), as_bytes, pieces)
            return answer if answer.is_event_stream or answer.make_more() else self._sent(answer)
        except BodyNeeded:
            return False
        except Exception:
            logger.exception("%s %s failed outside Django", self.scope["method"], self.scope["path"])
            self._send(500, [], b"")
        return True

    def _sent(self, answer: Answer) -> bool:
        self._send(answer.status, answer.headers, answer.next_bytes)
        answer.close()
        return True

    def _send(self, status: int, headers: Headers, body: bytes) -> None:
        """granian has sent when its `send` returns, in whatever thread, which saves a turn of the event loop."""
        self.send({"type": "http.response.start", "status": status, "headers": headers})
        self.send({"type": "http.response.body", "body": body})

    def _environ(self, body: Any, length: int | None) -> Environ:
        """The request as a WSGI environ (PEP 3333)."""
        scope = self.scope
        prefix = scope.get("root_path", "")
        environ = {
            **EVERY_ENVIRON,
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": prefix,
            "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1").removeprefix(prefix),
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
            "SERVER_NAME": scope["server"][0],
            "SERVER_PORT": str(scope["server"][1]),
            "REMOTE_ADDR": scope["client"][0],
            "wsgi.url_scheme": scope["scheme"],
            "wsgi.input": body,
            # `orchestrator.http.authentication` says here who it is; anyone could write a header.
            "muster.known": self.known,
        }
        for name, value in scope["headers"]:
            # With an underscore it would pass for one that a proxy has set.
            if b"_" not in name:
                _add_header(environ, name.decode("latin-1").replace("-", "_").upper(), value.decode("latin-1"))
        if length is not None:
            environ["CONTENT_LENGTH"] = str(length)
        return environ


def _add_header(environ: Environ, name: str, value: str) -> None:
    key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
    if key in environ:
        value = f"{environ[key]}{'; ' if name == 'COOKIE' else ','}{value}"
    environ[key] = value


def _do(work: Callable[[], T], done: asyncio.Future[T]) -> None:
    settle: Callable[[Any], None] = done.set_result
    outcome: Any
    try:
        outcome = work()
    except BaseException as error:
        # What would end the thread, such as SystemExit, must not end the event loop instead.
        settle, outcome = done.set_exception, error if isinstance(error, Exception) else RuntimeError(repr(error))
    done.get_loop().call_soon_threadsafe(_settle, done, settle, outcome)


def _settle(done: asyncio.Future[T], settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():
        settle(outcome)


async def _serve(scope: Scope, receive: Receive, send: Send) -> None:
    await Exchange(scope, scope.pop("muster.peer", scope["client"]), receive, send).serve()


def _from_trusted_proxies(served: Callable[[Scope, Receive, Send], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Keeps whose connection it is, before a trusted proxy's word on whose request it is takes that place."""

    def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["muster.peer"] = scope["client"]
        return served(scope, receive, send)

    return serve


allow_as_many_files_as_may_be()
connections.watch()
application = (
    _from_trusted_proxies(wrap_asgi_with_proxy_headers(_serve, TRUSTED_PROXIES)) if TRUSTED_PROXIES else _serve
)
