"""One run: load and faults at the same time, then calm, then the reckoning."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2

import tests.chaos.graphs  # noqa: F401 More of what clients ask for.
from tests.chaos import load
from tests.chaos.client import Client, Refused, Unanswered
from tests.chaos.faults import MAX_STEP_SECONDS, Fault
from tests.chaos.ledger import Entry, Ledger
from tests.chaos.room import Looks
from tests.chaos.world import World

# Before the first fault, so that there is something to hurt.
CALM_SECONDS = 2.0
# After the last fault, while the clients are still at work.
REST_SECONDS = 8.0
# Between the starts of two faults: from so much to so much.
MIN_GAP_SECONDS, MAX_GAP_SECONDS = 0.8, 4.0
# How long everything has to come to its end once there are no more faults.
SETTLE_SECONDS = 240
# What has not recovered by then never will. A retry that was put off while the database's clock was ahead waits until
# it is that late.
RECOVERY_SECONDS = 60 + MAX_STEP_SECONDS
LOOK_SECONDS = 0.1
PROBE_PAUSE_SECONDS = 0.25

# What an earlier run has made while the database's clock was ahead is none of the next one's.
IN_THE_PAST = "UPDATE {table} SET created_at = clock_timestamp() WHERE created_at > clock_timestamp()"
DATED = ("orchestrator_job", "scheduler_task")
UNFINISHED = "SELECT id::text FROM orchestrator_job WHERE status IN ('CREATED', 'RUNNING') AND created_at >= %s"


@dataclass(frozen=True)
class Planned:
    """A fault that is to happen, and when."""

    at_seconds: float
    fault: Fault
    seed: str


def plan(seed: int, seconds: float, faults: Iterable[Fault]) -> list[Planned]:
    """The faults of a run, which depend on nothing but the seed: every fault once, in an order of chance in which the
    weighty tend to come early, then all over again, never two at once that touch the same.
    """
    rng = random.Random(seed)
    possible = [fault for fault in faults if not fault.skipped]
    free_at: dict[str, float] = {}
    planned: list[Planned] = []
    left: list[Fault] = []
    at = CALM_SECONDS
    while possible:
        left = left or sorted(possible, key=lambda fault: rng.expovariate(fault.weight))
        fits = [fault for fault in left if free_at.get(fault.touches, 0) <= at and at + fault.seconds <= seconds + 1]
        if fits:
            left.remove(fits[0])
            planned.append(Planned(at, fits[0], f"{seed}/{len(planned)}"))
            free_at[fits[0].touches] = at + fits[0].seconds + MAX_GAP_SECONDS
        at += rng.uniform(MIN_GAP_SECONDS, MAX_GAP_SECONDS)
        if at >= seconds:
            break
    return planned


class Run:
    """A run on a world. Its ledger, and the rows that were made since it began, are all that it is judged by."""

    def __init__(self, world: World, name: str, *, seed: int, works: Mapping[Any, float] | None = None) -> None:
        self.world = world
        self.name = name
        self.seed = seed
        self.works = dict(load.WORK if works is None else works)
        self.ledger = Ledger(world.folder / f"{name}.jsonl")
        for table in DATED:
            world.query(IN_THE_PAST.format(table=table))
        [[self.began_at]] = world.query("SELECT clock_timestamp()")
        [[self.first_effect]] = world.query("SELECT coalesce(max(id), 0) FROM kinds_effect")
        self.outside_from = world.outside.stat().st_size
        self.stopping = threading.Event()
        self._watchers: list[threading.Thread] = []
        # A fault that takes longer than was planned makes others wait that touch the same.
        self._touched: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def client(self) -> Client:
        return Client(self.world.stack.url, self.ledger, self.stopping)

    def go(self, planned: Iterable[Planned], seconds: float) -> None:
        """Load and faults for so many seconds, then load alone, then calm until all is settled."""
        self.ledger.note("began", name=self.name, seed=self.seed, seconds=seconds)
        with self.load():
            began_at = time.monotonic()
            threads = []
            for each in planned:
                time.sleep(max(0, began_at + each.at_seconds - time.monotonic()))
                threads.append(threading.Thread(target=self.hurt, args=(each,), name=each.fault.name, daemon=True))
                threads[-1].start()
            for thread in threads:
                thread.join()
            time.sleep(max(0, began_at + seconds - time.monotonic()))
            self.rest()
        self.settle()

    def rest(self) -> None:
        """Nothing is hurt any more, while the clients go on: what faults excuse they do not excuse then."""
        for watcher in self._watchers:
            watcher.join()
        time.sleep(REST_SECONDS)

    @contextmanager
    def load(self) -> Iterator[None]:
        """The clients are at work for as long as the block lasts; then what they have begun is finished."""
        schedules = [load.a_schedule(self.client(), interval) for interval in (1, 2)]
        threads: list[threading.Thread] = [
            load.Load(self.client(), f"{self.seed}/client {place}", self.stopping, self.works)
            for place in range(load.CLIENTS)
        ]
        threads.append(threading.Thread(target=self._probe, name="prober", daemon=True))
        threads.append(Looks(self.world, self.ledger, self.stopping))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ledger.note("calm")
            self.stopping.set()
            for thread in threads:
                thread.join()
            for schedule_id in schedules:
                self._pause(schedule_id)

    def hurt(self, planned: Planned) -> None:
        """Lets the fault happen, and times the recovery from it beside whatever comes next."""
        fault = planned.fault
        with self._touched[fault.touches]:
            begun = self._hurt(fault, planned.seed)
        # A recovery is timed from the end of the fault, but from its begin where something was killed.
        watcher = threading.Thread(target=self._watch, args=(fault, begun), daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _hurt(self, fault: Fault, seed: str) -> Entry:
        begun = self.ledger.note("fault", fault=fault.name, touches=fault.touches, group=fault.group)
        detail: dict[str, Any] = {}
        try:
            detail = dict(fault.hurt(self.world, random.Random(seed)) or {})
        except Exception as error:
            self.ledger.note("surprise", fault=fault.name, error=repr(error))
        begun |= {"ended_at": time.time(), "detail": detail}
        self.ledger.note("fault_ended", fault=fault.name, begun_at=begun["at"], detail=detail)
        return begun

    def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Waits until all that was accepted has ended, for so long at most."""
        for watcher in self._watchers:
            watcher.join()
        deadline = time.monotonic() + seconds
        while self.unfinished() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        self.ledger.note("settled", unfinished=self.unfinished())

    def unfinished(self) -> list[str]:
        return [id for [id] in self.world.query(UNFINISHED, self.began_at)]

    def _pause(self, schedule_id: str) -> None:
        """Pauses a schedule once it has caught up, and notes up to when it has to have fired."""
        deadline = time.monotonic() + SETTLE_SECONDS
        caught_up = "SELECT next_run_at > clock_timestamp() FROM scheduler_taskschedule WHERE id = %s"
        while not self.world.query(caught_up, schedule_id)[0][0] and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        [[next_run_at]] = self.world.query("SELECT next_run_at FROM scheduler_taskschedule WHERE id = %s", schedule_id)
        self.client().submit(f"/task-schedules/{schedule_id}/pause/")
        self.ledger.note("paused", id=schedule_id, fired_before=next_run_at)

    def _probe(self) -> None:
        """Submits a job four times a second, whatever happens, for the times that this takes."""
        client, rng = self.client(), random.Random(f"{self.seed}/prober")
        while not self.stopping.wait(PROBE_PAUSE_SECONDS):
            try:
                client.job("tests.effect", {"number": load.number(rng)})
            except (Unanswered, Refused):
                continue

    def _watch(self, fault: Fault, begun: Entry) -> None:
        """Times how long jobs submitted after the fault take to complete, and jobs that it interrupted to go on."""
        client = Client(self.world.stack.url, self.ledger)
        since = time.monotonic()
        if fault.group == "kill":
            since -= begun["ended_at"] - begun["at"]
        try:
            waiting = {client.job(kind, {"number": 1}, priority=0): 0 for kind in fault.probes}
        except (Unanswered, Refused):
            waiting = {}
        probes = set(waiting)
        waiting |= begun["detail"].get("affected", {})
        seconds: dict[str, float] = {}
        while waiting and time.monotonic() - since < RECOVERY_SECONDS:
            moved = self._moved_on(waiting, probes)
            seconds |= {id: time.monotonic() - since for id in moved}
            waiting = {id: attempt for id, attempt in waiting.items() if id not in moved}
            time.sleep(LOOK_SECONDS)
        self.ledger.note(
            "recovered",
            fault=fault.name,
            group=fault.group,
            begun_at=begun["at"],
            probe_seconds=max((took for id, took in seconds.items() if id in probes), default=None),
            affected_seconds=max((took for id, took in seconds.items() if id not in probes), default=None),
            never=sorted(waiting),
        )

    def _moved_on(self, waiting: Mapping[str, int], probes: set[str]) -> set[str]:
        """Those that have ended, or whose next attempt has begun."""
        try:
            rows = self.world.query(
                "SELECT id::text, status, attempt FROM orchestrator_job WHERE id = ANY(%s::uuid[])",
                list(waiting),
                patience=0,
            )
        except psycopg2.Error:
            return set()
        return {
            id
            for id, status, attempt in rows
            if status not in ("CREATED", "RUNNING")
            or (id not in probes and status == "RUNNING" and attempt > waiting[id])
        }
