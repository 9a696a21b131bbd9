"""Whether a container is healthy, for its health check: `python -m config.healthcheck worker`, or `workers default io`
for all queues but these, or `beat`, or a URL.

It is asked every few seconds by every container, so without Django, whose start would take a second of the processor.
"""

import sys
import urllib.request
from contextlib import closing

import psycopg2

from config.server_urls import connection_parameters
from config.settings import ALLOWED_HOSTS, DATABASES, ENV, TICK_STOPPED_AFTER_SECONDS
from config.workers import queues_but
from orchestrator.host import host

PATIENCE_SECONDS = 10

# A worker process of this container that renews its lease.
WORKER_IS_ALIVE = """
SELECT FROM orchestrator_worker
WHERE host = %(host)s AND ended_at IS NULL AND seen_at > clock_timestamp() - make_interval(secs => %(lease)s)
LIMIT 1
"""

# The queues that worker processes of this container serve.
SERVED_HERE = """
SELECT FROM unnest(%(queues)s::text[]) AS queue
WHERE EXISTS (
    SELECT FROM orchestrator_worker
    WHERE host = %(host)s AND ended_at IS NULL AND seen_at > clock_timestamp() - make_interval(secs => %(lease)s)
      AND queues ? queue
)
"""

# Beat's ticks arrive and run.
TICKS_RUN = """
SELECT FROM orchestrator_upkeep
WHERE part = 'tick' AND ran_at > clock_timestamp() - make_interval(secs => %(limit)s)
"""


def main() -> None:
    match sys.argv[1:]:
        case ["worker"]:
            healthy = found(WORKER_IS_ALIVE, host=host(), lease=ENV.LEASE_SECONDS) > 0
        case ["workers", *elsewhere]:
            healthy = all_served(queues_but(elsewhere))
        case ["beat"]:
            healthy = found(TICKS_RUN, limit=TICK_STOPPED_AFTER_SECONDS) > 0
        case [url] if url.startswith("http://"):
            healthy = serves(url)
        case _:
            sys.exit(f"{__doc__}")
    sys.exit(0 if healthy else "unhealthy")


def all_served(queues: list[str]) -> bool:
    """Whether this container has a worker process for each of them."""
    return not queues or found(SERVED_HERE, queues=queues, host=host(), lease=ENV.LEASE_SECONDS) == len(queues)


def found(sql: str, **parameters: object) -> int:
    """How many rows there are."""
    try:
        with closing(psycopg2.connect(**connection_parameters(DATABASES["default"]))) as connection:
            cursor = connection.cursor()
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)
    except psycopg2.Error as error:
        sys.exit(f"The database query failed: {error}")


def serves(url: str) -> bool:
    """Whether the page is served, to a host that is allowed and as if by the proxy that is in charge of HTTPS."""
    allowed = next(iter(ALLOWED_HOSTS), "").lstrip(".*") or "localhost"
    request = urllib.request.Request(url, headers={"Host": allowed, "X-Forwarded-Proto": "https"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
