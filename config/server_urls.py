"""The servers' URLs, as Django and psycopg2 take them."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

REDIS_SCHEMES = ("redis", "rediss")

# libpq's options of this end of a connection, and PostgreSQL's parameters of the other one.
SERVERS_END = {
    "tcp_user_timeout": "tcp_user_timeout",
    "keepalives_idle": "tcp_keepalives_idle",
    "keepalives_interval": "tcp_keepalives_interval",
    "keepalives_count": "tcp_keepalives_count",
}
# While it runs a statement, PostgreSQL reads nothing: it would finish it for a process that is gone, and keep its
# locks until then.
CONNECTION_CHECK_SECONDS = 2

DATABASE_EXAMPLE = "postgresql://user:password@host:port/name; several hosts as host1:port1,host2:port2"


def database(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Django's DATABASES entry for a postgresql:// URL; its query string becomes connection options.

    Raises ImproperlyConfigured.
    """
    parts = checked_url("DATABASE_URL", url, ("postgresql", "postgres"), DATABASE_EXAMPLE)
    if len(parts.path) < 2:
        raise ImproperlyConfigured(f"DATABASE_URL names no database: {DATABASE_EXAMPLE}")
    hosts = _hosts(parts)
    options = {"connect_timeout": 5, **options, **dict(parse_qsl(parts.query))}
    return {
        "ENGINE": "config.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": ",".join(host for host, _ in hosts),
        "PORT": ",".join(port for _, port in hosts) if any(port for _, port in hosts) else "",
        "CONN_MAX_AGE": 300,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**options, "options": f"{_of_the_servers_end(options)} {options.get('options', '')}".strip()},
    }


def _of_the_servers_end(options: Mapping[str, Any]) -> str:
    """Has PostgreSQL notice a client whose packets vanish as soon as the client notices that of PostgreSQL.

    By its own defaults it would keep the locks of such a client for hours.
    """
    parameters = {theirs: options[ours] for ours, theirs in SERVERS_END.items() if ours in options}
    parameters["client_connection_check_interval"] = f"{CONNECTION_CHECK_SECONDS}s"
    return " ".join(f"-c {name}={value}" for name, value in parameters.items())


def connection_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """A DATABASES entry as psycopg2 takes it, for programs that do without Django."""
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    return {**given["OPTIONS"], **{theirs: given[ours] for theirs, ours in names.items() if given[ours]}}


def checked_url(name: str, url: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    """The URL's parts. Raises ImproperlyConfigured, without the URL, whose password belongs in no log."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in schemes and all(port != "0" and int(port or 1) < 65_536 for _, port in _hosts(parts))
    except ValueError:
        fits = False
    if not fits:
        raise ImproperlyConfigured(
            f"{name} must look like {example}; characters such as @ or / in a password as %40 or %2F."
        )
    return parts


def _hosts(parts: SplitResult) -> list[tuple[str, str]]:
    """Each host with its port; empty where there is none. Raises ValueError."""
    found = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        if not (match := re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]*)(?::(\d*))?", place)):
            raise ValueError(place)
        found.append((unquote(match[1].strip("[]")), match[2] or ""))
    return found


def is_redis(url: str) -> bool:
    return urlsplit(url).scheme in REDIS_SCHEMES
