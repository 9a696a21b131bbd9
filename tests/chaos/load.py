"""What the clients of a run ask for: each piece of work is one small function with a weight."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from tests.chaos.client import Client, Refused, Unanswered

CLIENTS = 4
# A client rests so long between two pieces of work, on the average.
REST_SECONDS = 0.4

Work = Callable[[Client, random.Random], None]
WORK: dict[Work, float] = {}

KINDS = ("tests.effect", "tests.effect_in_thread", "tests.effect_in_child", "tests.effect_on_loop")
LEASED = KINDS[1:]
# Of those in `tests.kinds.hanging`; what a hanging handler has started as a program of its own would be left.
HANGS = ("sleep", "swallow", "compute", "lock", "thread", "c", "query")
HANGS_WITH_GIL = ("gil_in_c", "gil_in_regex")


def work(weight: float) -> Callable[[Work], Work]:
    """Makes a function a piece of work that clients do so often, compared to others."""

    def register(function: Work) -> Work:
        WORK[function] = weight
        return function

    return register


class Load(threading.Thread):
    """A client that asks for one thing after the other until it is told to stop. Its choices come from its seed."""

    def __init__(self, client: Client, seed: str, stopping: threading.Event, works: dict[Work, float]) -> None:
        super().__init__(name=f"client {seed}", daemon=True)
        self._client = client
        self._rng = random.Random(seed)
        self._stopping = stopping
        self._works = works

    def run(self) -> None:
        works, weights = list(self._works), list(self._works.values())
        while not self._stopping.is_set():
            [do] = self._rng.choices(works, weights)
            try:
                do(self._client, self._rng)
            except (Unanswered, Refused):
                pass  # It is in the ledger, where it breaks an invariant.
            except Exception as error:
                self._client.ledger.note("surprise", work=do.__name__, error=repr(error))
            self._stopping.wait(self._rng.expovariate(1 / REST_SECONDS))


def number(rng: random.Random) -> int:
    return rng.randint(1, 1_000_000)


@work(4)
def a_short_job(client: Client, rng: random.Random) -> None:
    client.job("tests.effect", {"number": number(rng)}, priority=rng.randint(0, 9))


@work(1)
def a_burst_of_short_jobs(client: Client, rng: random.Random) -> None:
    for _ in range(10):
        client.job("tests.effect", {"number": number(rng)}, priority=rng.randint(0, 9))


@work(1)
def a_group_of_jobs_that_write_nothing(client: Client, rng: random.Random) -> None:
    """They are due at the same moment, so they are claimed together; two of them keep others waiting for too long."""
    run_at, long = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(), rng.randrange(8)
    for place in range(16):
        seconds = 0.15 if place % 8 == long else 0
        client.job("tests.tell", {"number": number(rng), "seconds": seconds}, run_at=run_at)


@work(3)
def a_leased_job(client: Client, rng: random.Random) -> None:
    kind, seconds = rng.choice(LEASED), rng.uniform(0, 0.8)
    client.job(kind, {"number": number(rng), "seconds": seconds}, priority=rng.randint(0, 9))


@work(1.5)
def a_long_job_that_does_not_listen(client: Client, rng: random.Random) -> None:
    client.job(rng.choice(LEASED), {"number": number(rng), "seconds": rng.uniform(0.5, 2), "deaf": True})


@work(1)
def some_jobs_of_a_limited_kind(client: Client, rng: random.Random) -> None:
    """Some of them die with their worker, are cancelled or fail, and a limit changes meanwhile."""
    for _ in range(4):
        job_id = client.job("tests.effect_limited", keyed(rng), priority=rng.randint(0, 9))
    if rng.random() < 0.3:
        client.cancel(job_id)
    if rng.random() < 0.3:
        client.ask("PATCH", "/kinds/tests.effect_limited", json={"max_running": rng.choice((2, 3, None))})


@work(0.3)
def some_jobs_of_a_limited_kind_steered_together(client: Client, rng: random.Random) -> None:
    """While they wait for their limits they are given other places, or cancelled, and some of those retried."""
    jobs = [{"kind": "tests.effect_limited", "payload": keyed(rng)} for _ in range(8)]
    ids = client.jobs(jobs)
    filter = {"kind": "tests.effect_limited", "status": "CREATED"}
    client.act_on_all("change", filter, change={"priority": rng.randint(0, 9)})
    client.act("cancel", ids[:4])
    if rng.random() < 0.7:
        client.act("retry", ids[:4])


@work(1)
def some_jobs_of_an_owner(client: Client, rng: random.Random) -> None:
    """Many of them are short, so that now their number holds them back, now their rate; both are changed meanwhile."""
    for _ in range(6):
        payload = {"number": number(rng), "seconds": rng.choice((0, 0, rng.uniform(0, 0.5)))}
        client.job("tests.effect_owned", payload, owner=rng.choice(("ann", "ben")), priority=rng.randint(0, 9))
    if rng.random() < 0.3:
        changed = rng.choice(
            ({"max_running_per_owner": rng.choice((1, 3, None))}, {"rate": rng.choice(("6/2s", None))})
        )
        client.ask("PATCH", "/kinds/tests.effect_owned", json=changed)


@work(0.7)
def some_jobs_of_a_kind_with_a_rate(client: Client, rng: random.Random) -> None:
    for _ in range(4):
        client.job("tests.effect_rated", keyed(rng) | {"seconds": 0}, priority=rng.randint(0, 9))
    if rng.random() < 0.3:
        client.ask("PATCH", "/kinds/tests.effect_rated", json={"rate": rng.choice(("4/2s", None))})


def keyed(rng: random.Random) -> dict[str, Any]:
    failures = int(rng.random() < 0.1)
    return {"number": number(rng), "key": rng.choice("abcdef"), "seconds": rng.uniform(0, 0.5), "failures": failures}


@work(0.7)
def some_jobs_that_are_the_same(client: Client, rng: random.Random) -> None:
    """Of which one is unfinished at a time, though some fail, are cancelled or lose their worker."""
    for _ in range(3):
        payload = {"number": number(rng), "seconds": rng.uniform(0, 0.5), "failures": int(rng.random() < 0.2)}
        job_id = client.job("tests.effect_in_thread", payload, unique={"key": rng.choice("xyz")})
    if rng.random() < 0.2:
        client.cancel(job_id)


@work(0.7)
def some_jobs_that_are_the_same_for_a_while(client: Client, rng: random.Random) -> None:
    """Each stays the one for three seconds, and takes the payload of the next, or waits for it; some are retried."""
    how: dict[str, Any] = rng.choice(
        ({"on_conflict": "replace"}, {"on_conflict": "postpone", "wait_seconds": 0.3}, {})
    )
    for _ in range(3):
        unique = {"key": rng.choice("uvw"), "for_seconds": 3} | how
        payload = {"number": number(rng), "failures": int(rng.random() < 0.2)}
        job_id = client.unique_job("tests.effect_in_thread", payload, unique)
    if job_id and rng.random() < 0.3:
        client.act("cancel", [job_id])


@work(0.3)
def many_jobs_at_once(client: Client, rng: random.Random) -> None:
    """They are changed together, some cancelled, and some of those retried."""
    jobs = [{"kind": rng.choice(KINDS), "payload": {"number": number(rng)}} for _ in range(12)]
    ids = client.jobs(jobs)
    client.act("change", ids, change={"priority": rng.randint(0, 9)})
    client.act("cancel", ids[:6])
    if rng.random() < 0.5:
        client.act("retry", ids[:3])


@work(1.5)
def a_job_in_steps(client: Client, rng: random.Random) -> None:
    steps = rng.randint(2, 12)
    client.job("tests.steps", {"steps": steps, "seconds_per_step": 0.1}, max_attempts=30)


@work(1)
def a_job_that_starts_later(client: Client, rng: random.Random) -> None:
    run_at = datetime.now(UTC) + timedelta(seconds=rng.uniform(0.5, 5))
    client.job(rng.choice(KINDS), {"number": number(rng)}, run_at=run_at.isoformat())


@work(1)
def a_job_that_fails_some_times(client: Client, rng: random.Random) -> None:
    client.job(rng.choice(KINDS), {"number": number(rng), "failures": rng.randint(1, 3)})


@work(1)
def a_job_that_fails_for_good(client: Client, rng: random.Random) -> None:
    client.job(rng.choice(KINDS), {"hopeless": True}, meant="FAILED")


@work(0.3)
def a_job_that_takes_too_long(client: Client, rng: random.Random) -> None:
    client.job("tests.overdue", {}, meant="FAILED")


@work(0.1)
def a_job_that_hangs(client: Client, rng: random.Random) -> None:
    kind = rng.choice(("tests.hang_in_thread", "tests.hang_in_child", "tests.hang_in_batch"))
    client.job(kind, {"how": rng.choice(HANGS)}, meant="FAILED")


@work(0.03)
def a_job_that_hangs_with_the_gil(client: Client, rng: random.Random) -> None:
    # Each takes its process along; in threads that is the only one of its queue here, but for the far one.
    kind = rng.choice(("tests.hang_in_thread", "tests.hang_in_child"))
    client.job(kind, {"how": rng.choice(HANGS_WITH_GIL)}, meant="FAILED")


@work(0.2)
def a_job_that_kills_its_worker_each_time(client: Client, rng: random.Random) -> None:
    # Not in threads: each death would take as many others along, and these run out of attempts.
    kind = rng.choice(("tests.effect", "tests.effect_in_child"))
    client.job(kind, {"kills": True}, meant="FAILED", max_attempts=2)


@work(1)
def a_job_cancelled_while_it_waits(client: Client, rng: random.Random) -> None:
    run_at = datetime.now(UTC) + timedelta(seconds=rng.uniform(0, 2))
    job_id = client.job(rng.choice(KINDS), {"number": number(rng)}, run_at=run_at.isoformat())
    time.sleep(rng.uniform(0, 1))
    client.cancel(job_id)


@work(1)
def a_job_cancelled_while_it_runs(client: Client, rng: random.Random) -> None:
    job_id = client.job(rng.choice(LEASED), {"number": number(rng), "seconds": 3})
    time.sleep(rng.uniform(0.2, 2))
    client.cancel(job_id)


@work(0.5)
def a_job_cancelled_and_tried_again(client: Client, rng: random.Random) -> None:
    job_id = client.job("tests.effect_in_thread", {"number": number(rng), "seconds": 2})
    time.sleep(rng.uniform(0, 0.5))
    client.cancel(job_id)
    if (job := client.end_of(job_id)) and job["status"] == "CANCELLED":
        client.retry(job_id)


@work(0.5)
def a_failed_job_tried_again(client: Client, rng: random.Random) -> None:
    job_id = client.job(rng.choice(KINDS), {"number": number(rng), "failures": 1}, meant="EITHER", max_attempts=1)
    if (job := client.end_of(job_id)) and job["status"] == "FAILED":
        client.retry(job_id)


@work(0.7)
def an_orchestration(client: Client, rng: random.Random) -> None:
    answer = client.submit(f"/orchestrate/user{rng.randint(1, 50)}").json()
    client.accept("job", answer["job_id"], kind="orchestration.two_batches", payload={}, meant="COMPLETED")


@work(0.7)
def a_family(client: Client, rng: random.Random) -> None:
    client.job("tests.family", {"numbers": [number(rng) for _ in range(rng.randint(1, 12))]})


@work(0.3)
def a_family_with_a_hopeless_child(client: Client, rng: random.Random) -> None:
    numbers = [number(rng) for _ in range(rng.randint(1, 8))]
    client.job("tests.family", {"numbers": numbers, "hopeless": True}, meant="FAILED")


@work(0.3)
def a_family_cancelled(client: Client, rng: random.Random) -> None:
    job_id = client.job("tests.family", {"numbers": [number(rng) for _ in range(rng.randint(1, 12))]})
    time.sleep(rng.uniform(0, 0.5))
    client.cancel(job_id)


@work(1)
def a_task(client: Client, rng: random.Random) -> None:
    a, b = number(rng), number(rng)
    answer = client.submit("/tasks/", {"a": a, "b": b, "priority": rng.randint(0, 9)}).json()
    client.accept("task", answer["id"], sum=a + b)


@work(2)
def a_batch_of_tasks(client: Client, rng: random.Random) -> None:
    pairs = [(number(rng), number(rng), rng.randint(0, 9)) for _ in range(rng.randint(2, 60))]
    answer = client.submit("/tasks/batch-request/", [{"a": a, "b": b, "priority": p} for a, b, p in pairs]).json()
    for (a, b, _), task in zip(pairs, answer["tasks"], strict=True):
        client.accept("task", task["id"], sum=a + b)


@work(0.5)
def an_ingestion(client: Client, rng: random.Random) -> None:
    records, good, bad = some_records(rng, rng.randint(1, 350))
    answer = client.submit("/api/data/ingest/", {"records": records}).json()
    client.accept("ingestion", answer["task_id"], good=good, bad=bad)


@work(0.15)
def a_stream(client: Client, rng: random.Random) -> None:
    records, good, bad = some_records(rng, rng.randint(1_001, 2_500))
    body = gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in records), 1)
    headers: dict[str, Any] = {"Content_Type": "application/x-ndjson", "Content_Encoding": "gzip"}
    answer = client.submit("/api/data/ingest/stream/", data=body, **headers).json()
    client.accept("ingestion", answer["task_id"], good=good, bad=bad)


def some_records(rng: random.Random, count: int) -> tuple[list[dict[str, Any]], list[str], int]:
    """Records that nobody else sends, the ids of the good ones, and how many are bad."""
    prefix = uuid4().hex[:12]
    records = [
        {
            "student_id": f"{prefix}-{index}",
            "first_name": "Ada",
            "last_name": "Lovelace",
            "email": "ada@example.org" if rng.random() > 0.05 else "nobody",
            "grade": "10",
        }
        for index in range(count)
    ]
    good = [record["student_id"] for record in records if record["email"] != "nobody"]
    return records, good, count - len(good)


def a_schedule(client: Client, interval: int) -> str:
    """A schedule that misses nothing."""
    answer = client.submit("/task-schedules/", {"a": interval, "b": 1, "interval": interval, "misfire_policy": "all"})
    shown = answer.json()
    return client.accept("schedule", shown["id"], interval=interval, scheduled_at=shown["scheduled_at"])
