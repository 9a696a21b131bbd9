"""Sends a message: by HTTP, to an address that was checked and is the one connected to, or by mail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from django.core.mail import EmailMessage

from orchestrator.failures import error_of
from orchestrator.notifications.addresses import checked_url, is_private_network, require_allowed

if TYPE_CHECKING:
    from tornado.httpclient import HTTPResponse

CONNECT_SECONDS, REQUEST_SECONDS = 5, 15
MAX_RESPONSE_BYTES = 64 * 1024
MAX_KEPT_CHARACTERS = 500
# Requests of one process at once: to all hosts, and to one.
MAX_AT_ONCE, MAX_AT_ONCE_PER_HOST = 64, 8
# The receiver asks for nothing more to be sent.
GONE = 410


class Sent(NamedTuple):
    """What a receiver said."""

    status: int | None = None
    response: str = ""


class NotSent(Exception):
    """The message was not accepted. `sent` is what the receiver said, if it said anything."""

    def __init__(self, message: str, sent: Sent | None = None) -> None:
        super().__init__(message)
        self.sent = sent or Sent()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """By https://www.standardwebhooks.com/: HMAC-SHA256 of id, time and body, with the secret after whsec_."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signed_headers(secrets: Sequence[str], message_id: str, body: bytes) -> dict[str, str]:
    """With a signature by each of the secrets, so that a receiver may know either."""
    now = int(time.time())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(signature(secret, message_id, now, body) for secret in secrets),
    }


async def post(url: str, body: bytes, headers: dict[str, str]) -> Sent:
    """POSTs JSON. Follows no redirect, and reads no more than MAX_RESPONSE_BYTES. Raises NotSent for all that is not
    answered by a 2xx.
    """
    host = urlsplit(url).hostname or ""
    try:
        checked_url(url)
        async with _places().all, _places().of(host):
            response = await _fetch(url, body, headers)
    except (NotSent, asyncio.CancelledError):
        raise
    except Exception as error:
        raise NotSent(error_of(error)) from None
    sent = Sent(response.code, _text_of(response))
    if not 200 <= response.code < 300:
        redirect = ", and redirects are not followed" if 300 <= response.code < 400 else ""
        raise NotSent(f"The receiver answered {response.code} {response.reason}{redirect}.", sent)
    return sent


async def _fetch(url: str, body: bytes, headers: dict[str, str]) -> HTTPResponse:
    # Not above, since only a worker that sends needs it.
    from tornado.httpclient import HTTPRequest
    from tornado.simple_httpclient import SimpleAsyncHTTPClient

    client = SimpleAsyncHTTPClient(
        force_instance=True, resolver=_checking_resolver(urlsplit(url).scheme), max_body_size=MAX_RESPONSE_BYTES
    )
    request = HTTPRequest(
        url,
        method="POST",
        body=body,
        headers={"Content-Type": "application/json", "User-Agent": "Muster", **headers},
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        follow_redirects=False,
        decompress_response=False,
    )
    try:
        return await client.fetch(request, raise_error=False)
    finally:
        client.close()


def _checking_resolver(scheme: str) -> Any:
    """Looks a host up once; what it returns is what is connected to, so the name cannot lead elsewhere meanwhile."""
    from tornado.netutil import Resolver

    class CheckingResolver(Resolver):
        def initialize(self) -> None:
            pass

        async def resolve(self, host: str, port: int, family: Any = 0) -> list[tuple[int, Any]]:
            found = await _look_up(host, port)
            for _, (address, *_) in found:
                require_allowed(host, address)
                if scheme != "https" and not is_private_network(address):
                    raise NotSent(f"{host} is not in WEBHOOK_PRIVATE_NETWORKS, so its URL must begin with https://.")
            return found

    return CheckingResolver()


async def _look_up(host: str, port: int) -> list[tuple[int, Any]]:
    import socket

    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _text_of(response: HTTPResponse) -> str:
    return (response.body or b"")[:MAX_KEPT_CHARACTERS].decode(errors="replace").replace("\0", "�")


class _Places:
    """Limits how many requests of an event loop are under way."""

    def __init__(self) -> None:
        self.all = asyncio.Semaphore(MAX_AT_ONCE)
        self._hosts: dict[str, asyncio.Semaphore] = {}

    def of(self, host: str) -> asyncio.Semaphore:
        if len(self._hosts) > 1_000:
            self._hosts = {name: places for name, places in self._hosts.items() if places.locked()}
        return self._hosts.setdefault(host, asyncio.Semaphore(MAX_AT_ONCE_PER_HOST))


_places_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Places] = WeakKeyDictionary()


def _places() -> _Places:
    loop = asyncio.get_running_loop()
    return _places_of_loops.setdefault(loop, _Places())


def mail(addresses: Sequence[str], subject: str, text: str) -> Sent:
    """By Django's mail settings. Raises NotSent."""
    try:
        EmailMessage(subject, text, to=list(addresses)).send()
    except Exception as error:
        raise NotSent(error_of(error)) from None
    return Sent()
