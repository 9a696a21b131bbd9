"""What settings must be together, beyond what each must be by itself."""

from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_network

from django.core.exceptions import ImproperlyConfigured

from config.environment import Environment
from config.environment_variables import names_in
from config.server_urls import REDIS_SCHEMES, checked_url

BROKER_SCHEMES = (*REDIS_SCHEMES, "amqp", "amqps")
BROKER_EXAMPLE = (
    "redis://host:port/0 (Valkey or Redis; rediss with TLS) or amqp://user:password@host:port/vhost (RabbitMQ; amqps)"
)


def require_consistent(env: Environment) -> None:
    """Raises ImproperlyConfigured with what is wrong first, and what would be right."""
    for contradictions in (_access, _times, _clients, _apps, _networks, _reporting):
        for contradiction in contradictions(env):
            raise ImproperlyConfigured(contradiction)
    # Several nodes of a broker are several URLs.
    for url in env.BROKER_URL.split(";"):
        checked_url("BROKER_URL", url, BROKER_SCHEMES, BROKER_EXAMPLE)
    if env.CACHE_URL:
        checked_url("CACHE_URL", env.CACHE_URL, (*REDIS_SCHEMES, "unix"), "redis://host:port/1, or be empty")


def _access(env: Environment) -> Iterator[str]:
    if not (env.REQUIRE_AUTH or env.DEBUG or env.ALLOW_UNAUTHENTICATED):
        yield (
            "REQUIRE_AUTH is off while DEBUG is off: anyone who reaches the port could submit and cancel jobs. "
            "Set REQUIRE_AUTH=true, or ALLOW_UNAUTHENTICATED=true if that is what you want."
        )
    if not (names_in(env.ALLOWED_HOSTS) or env.DEBUG):
        yield "ALLOWED_HOSTS is empty, so every request would be refused: list the host names that clients use."


def _times(env: Environment) -> Iterator[str]:
    if env.TOKEN_DEFAULT_DAYS > env.TOKEN_MAX_DAYS:
        yield "TOKEN_DEFAULT_DAYS must be at most TOKEN_MAX_DAYS."
    if env.LEASE_SECONDS < env.HEARTBEAT_SECONDS * 2:
        yield "LEASE_SECONDS must be at least twice HEARTBEAT_SECONDS."


def _clients(env: Environment) -> Iterator[str]:
    first, _, last = env.CLIENT_PRIORITIES.partition("-")
    if first > last:
        yield f"CLIENT_PRIORITIES {env.CLIENT_PRIORITIES!r} begins after its end: write the least first, as in 3-9."


def _apps(env: Environment) -> Iterator[str]:
    for name in names_in(env.EXTRA_APPS):
        if not importable(name):
            yield (
                f"EXTRA_APPS names {name!r}, which cannot be imported: install that Django app, or start in the "
                "folder that contains it."
            )


def _networks(env: Environment) -> Iterator[str]:
    for setting in ("TRUSTED_PROXIES", "WEBHOOK_PRIVATE_NETWORKS"):
        for network in names_in(getattr(env, setting)):
            try:
                ip_network(network)
            except ValueError as error:
                yield (
                    f"{setting} names {network!r}: {error}; write addresses or networks, such as "
                    "10.0.0.5,172.20.0.0/16."
                )


def _reporting(env: Environment) -> Iterator[str]:
    if env.SENTRY_DSN and not importable("sentry_sdk"):
        yield "SENTRY_DSN is set, and sentry-sdk is not installed: see docs/observability.md, or leave it empty."


def importable(name: str) -> bool:
    """Whether there is a module of that name, or a module with a class of that name."""
    try:
        return bool(find_spec(name) or ("." in name and find_spec(name.rpartition(".")[0])))
    except (ImportError, ValueError):
        return False
