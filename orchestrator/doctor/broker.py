"""Whether the broker and the cache can be reached, and keep what they are given."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from orchestrator.diagnostics.checks import NEARLY_FULL, Finding, check, fail, first_line, ok, warn
from orchestrator.diagnostics.probes import impatient_link, impatient_redis, is_redis


@check("broker", needs=())
def broker() -> Finding:
    """Reachable, and does not evict bells."""
    url = settings.ENV.BROKER_URL
    try:
        found = _redis_facts(url) if is_redis(url) else _rabbitmq_facts(url)
    except Exception as error:
        return fail(
            f"It cannot be reached: {first_line(error)}",
            "Start it, or correct BROKER_URL. Meanwhile jobs are accepted; they start once it is back.",
        )
    if found.get("maxmemory") and found["maxmemory_policy"] != "noeviction":
        return warn(
            f"{found['name']} evicts bells when its memory is full ({found['maxmemory_policy']}).",
            "Set maxmemory-policy to noeviction. No job is lost, but jobs start later.",
        )
    if found.get("used_memory", 0) > NEARLY_FULL * found.get("maxmemory", 0) > 0:
        return warn(f"{found['name']} has used {NEARLY_FULL:.0%} of its memory.", "Raise maxmemory.")
    return ok(f"{found['name']} is reachable.")


@check("cache", needs=())
def cache() -> Finding:
    """What merges bells is shared by all processes."""
    url = settings.CACHES["default"].get("LOCATION")
    if not url:
        return ok("None is configured, so bells are not merged: everything works, with more messages.")
    try:
        with impatient_redis(str(url)) as redis:
            redis.ping()
    except Exception as error:
        return warn(f"It cannot be reached: {first_line(error)}", "Start it, or correct CACHE_URL.")
    return ok("It is reachable, and merges bells.")


def _redis_facts(url: str) -> dict[str, Any]:
    with impatient_redis(url) as redis:
        facts: dict[str, Any] = {**redis.info("server"), **redis.info("memory")}
    name = facts.get("server_name", "redis").capitalize()
    return facts | {"name": f"{name} {facts.get('valkey_version') or facts['redis_version']}"}


def _rabbitmq_facts(url: str) -> dict[str, Any]:
    with impatient_link(url) as link:
        link.ensure_connection(max_retries=1, timeout=1)
        properties = getattr(link.connection, "server_properties", {})
        return {"name": f"{properties.get('product', 'The broker')} {properties.get('version', '')}".strip()}
