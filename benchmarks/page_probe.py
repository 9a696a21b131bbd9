"""Opens pages of the admin in this process and prints, as JSON, what each costs: `page_probe ROUNDS`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import django

PAGES_DOWN, ROWS_A_PAGE = 1_000, 50


def main() -> None:
    django.setup()
    from django.contrib.auth.models import User
    from django.db.models.functions import Now
    from django.test import Client

    from orchestrator.models import Job, Upkeep

    Upkeep.objects.update_or_create(part="tick", defaults={"ran_at": Now()})
    client = Client(headers={"Accept-Encoding": "gzip", "Host": "127.0.0.1"})
    client.force_login(User.objects.create_superuser("root"))
    down = (PAGES_DOWN - 1) * ROWS_A_PAGE
    last_seen = Job.objects.order_by("-id").values_list("id", flat=True)[down - 1]
    paths = {
        "the home page": "/admin/",
        "the list of jobs, page 1": "/admin/orchestrator/job/",
        "the list of jobs, page 1,000": f"/admin/orchestrator/job/?p=older-than-{last_seen}",
    }
    rounds = int(sys.argv[1])
    print(json.dumps({name: cost(client, path, rounds) for name, path in paths.items()}))


def cost(client: Any, path: str, rounds: int) -> dict[str, float]:
    from django.db import connection

    statements: list[str] = []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append(sql)
        return execute(sql, params, many, context)

    # Templates are compiled once.
    client.get(path)
    with connection.execute_wrapper(count):
        response = client.get(path)
    assert response.status_code == 200, response.status_code
    processor, wall = [], []
    for _ in range(rounds):
        began, began_wall = time.process_time(), time.perf_counter()
        client.get(path)
        processor.append(time.process_time() - began)
        wall.append(time.perf_counter() - began_wall)
    return {
        "ms": statistics.median(processor) * 1_000,
        "wall_ms": statistics.median(wall) * 1_000,
        "statements": len(statements),
        "bytes": len(response.content),
    }


if __name__ == "__main__":
    main()
