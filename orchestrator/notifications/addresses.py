"""To which addresses webhooks may be sent: public ones, and private ones of the networks that a setting allows."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from django.conf import settings

from orchestrator.pg_values import is_storable

MAX_URL_CHARACTERS = 2_000

# Networks that are not public, though some versions of Python take them for it: for protocols, and a cloud's metadata
# at 192.0.0.192; for relays to IPv6; of a site (RFC 3879); for documentation.
NOT_PUBLIC = [ip_network(each) for each in ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20")]

# IPv6 addresses that lead to the IPv4 address which their last, or first, bits are.
NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


class AddressRefused(Exception):
    """A webhook's host has an address to which nothing may be sent."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(
            f"{host} is at {address}, which is not a public address. WEBHOOK_PRIVATE_NETWORKS can allow its network."
        )


class BadUrl(ValueError):
    """No URL that a webhook could be sent to."""


def require_allowed(host: str, address: str) -> None:
    """Raises AddressRefused unless something may be sent to the address, which the host's name led to."""
    if not (_is_public(address) or is_private_network(address)):
        raise AddressRefused(host, address)


def is_private_network(address: str) -> bool:
    """Whether the address is in one of WEBHOOK_PRIVATE_NETWORKS."""
    return any(_plain(address) in network for network in _private_networks(settings.ENV.WEBHOOK_PRIVATE_NETWORKS))


@cache
def _private_networks(text: str) -> list[IPv4Network | IPv6Network]:
    return [ip_network(name.strip(), strict=False) for name in text.split(",") if name.strip()]


def _is_public(address: str) -> bool:
    plain = _plain(address)
    return (
        plain.is_global
        and not (plain.is_multicast or plain.is_reserved)
        and not any(plain in network for network in NOT_PUBLIC)
    )


def _plain(address: str) -> Address:
    """The address that packets reach in the end: that which an IPv6 address only wraps."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped:
            return found.ipv4_mapped
        if found.sixtofour:
            return found.sixtofour
        if found in NAT64:
            return IPv4Address(int(found) & 0xFFFFFFFF)
    return found


def checked_url(url: str) -> str:
    """The URL, if a webhook may be sent to such a one; raises BadUrl, without what it may hold of secrets."""
    if len(url) > MAX_URL_CHARACTERS or not is_storable(url, at_most=MAX_URL_CHARACTERS):
        raise BadUrl(f"A URL may have at most {MAX_URL_CHARACTERS:,} characters, without NUL.")
    try:
        parts = urlsplit(url)
        has_host, _ = bool(parts.hostname), parts.port
    except ValueError:
        has_host = False
    if not has_host or not url.isascii() or not url.isprintable() or " " in url:
        raise BadUrl("It must be a URL such as https://example.org/hooks/jobs, of ASCII characters.")
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.ENV.WEBHOOK_PRIVATE_NETWORKS):
        raise BadUrl(
            "It must begin with https://; http:// is for WEBHOOK_PRIVATE_NETWORKS alone, where those are set."
        )
    if parts.username is not None or parts.password is not None:
        raise BadUrl("It must not contain a user name or a password; requests are signed instead.")
    if parts.fragment:
        raise BadUrl("It must have no fragment (#…), which is never sent.")
    return url


def shown_url(url: str) -> str:
    """The URL without its query, which may hold a secret."""
    address, has_query, _ = url.partition("?")
    return f"{address}?…" if has_query else address
