"""Whether a container does its work, for its health check: `python -m config.alive worker`, or `beat`, or a URL.

It is asked every few seconds by every container, so without Django, whose start would take a second of the processor.
"""

import sys
import urllib.request
from contextlib import closing

import psycopg2

from config.settings import ALLOWED_HOSTS, ENV, TICK_STOPPED_AFTER_SECONDS
from orchestrator.host import host

PATIENCE_SECONDS = 10

# A worker process of this container that renews its lease.
WORKER_LIVES = """
SELECT FROM orchestrator_worker
WHERE host = %(host)s AND ended_at IS NULL AND seen_at > clock_timestamp() - make_interval(secs => %(lease)s)
LIMIT 1
"""

# Beat's ticks arrive and are answered.
TICKS_ARRIVE = """
SELECT FROM orchestrator_upkeep
WHERE part = 'tick' AND ran_at > clock_timestamp() - make_interval(secs => %(limit)s)
"""


def main() -> None:
    match sys.argv[1:]:
        case ["worker"]:
            well = found(WORKER_LIVES, host=host(), lease=ENV.LEASE_SECONDS)
        case ["beat"]:
            well = found(TICKS_ARRIVE, limit=TICK_STOPPED_AFTER_SECONDS)
        case [url] if url.startswith("http://"):
            well = answers(url)
        case _:
            sys.exit(f"{__doc__}")
    sys.exit(0 if well else "It does not do its work.")


def found(sql: str, **parameters: object) -> bool:
    try:
        with closing(psycopg2.connect(ENV.DATABASE_URL, connect_timeout=PATIENCE_SECONDS)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql, parameters)
            return bool(cursor.rowcount)
    except psycopg2.Error as error:
        sys.exit(f"The database does not tell: {error}")


def answers(url: str) -> bool:
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
