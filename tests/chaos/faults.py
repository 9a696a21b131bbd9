"""The faults: each is one small function that hurts the world, and returns when the hurt is over.

To add one, write a function here and register it with `fault`. What it must put right again belongs into `finally`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import psutil
import psycopg2
import redis.exceptions
from kombu.exceptions import KombuError

from tests.chaos.network import PROGRAMS
from tests.chaos.servers import FAKETIME_THREADS
from tests.chaos.world import BEYOND_LEASE_SECONDS, World, affected_jobs, frozen, with_children
from tests.system.stack import until

BROKER_DOWN_SECONDS = 20
# How long a process that was told to stop may take to do so, and what was killed to answer again.
GONE_SECONDS, BACK_SECONDS = 20, 60
# Of the database's clock: far more than a lease, and less than a run waits for what is to start later.
MIN_STEP_SECONDS, MAX_STEP_SECONDS = 60, 90
NO_FAKETIME = "" if FAKETIME_THREADS else "There is no libfaketime: apt-get install faketime"
NOT_ROOT = "" if os.geteuid() == 0 else "It needs root"

Detail = dict[str, object]
Hurt = Callable[[World, random.Random], "Detail | None"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How to hurt the world, and what is known of that beforehand."""

    name: str
    hurt: Hurt
    weight: float
    # Of faults that touch the same part there is one at a time. "web" and "database" excuse requests that fail.
    touches: str
    # About how long it lasts.
    seconds: float
    # What recovers from it: a job of these kinds, submitted when it is over, is timed until it has completed.
    probes: Sequence[str]
    # How the report groups its recovery: after a "kill", after the "broker" came back, or after "other" things.
    group: str
    # Why it cannot be done here; empty if it can.
    skipped: str = ""


FAULTS: dict[str, Fault] = {}

SHORT, THREAD, CHILD = "tests.effect", "tests.effect_in_thread", "tests.effect_in_child"
EVERY = (SHORT, THREAD, CHILD)


def fault(
    *,
    weight: float = 1,
    touches: str,
    seconds: float = 0.1,
    probes: Sequence[str] = EVERY,
    group: str = "other",
    skipped: str = "",
    name: str = "",
) -> Callable[[Hurt], Hurt]:
    """Makes a function a fault. It may return what is worth telling of this time."""

    def register(hurt: Hurt) -> Hurt:
        called = name or hurt.__name__
        FAULTS[called] = Fault(
            name=called,
            hurt=hurt,
            weight=weight,
            touches=touches,
            seconds=seconds,
            probes=probes,
            group=group,
            skipped=skipped,
        )
        return hurt

    return register


# What asking a broker raises that is just then away.
BROKER_ERRORS = (OSError, KombuError, redis.exceptions.RedisError)

# Processes.

TARGETS = {
    "child": (1.5, "workers", (SHORT, CHILD)),
    "worker-default": (1, "workers", (SHORT, CHILD)),
    "worker-io": (1, "workers", (THREAD,)),
    "control": (1, "control", EVERY),
    "beat": (1, "beat", EVERY),
    "web": (1, "web", (SHORT,)),
}


def end_process(target: str, number: signal.Signals, world: World, rng: random.Random) -> Detail:
    """Sends a signal to a process; what it started is seen to by itself, or by whoever starts it again."""
    process = rng.choice(world.processes(target))
    affected = affected_jobs(world, {each.pid for each in with_children(process)})
    with suppress(psutil.Error):
        process.send_signal(number)
    if target == "web":
        until(lambda: not process.is_running(), GONE_SECONDS)
        until(world.api_answers, BACK_SECONDS)
    return {"pid": process.pid, "affected": affected}


for _target, (_weight, _touches, _probes) in TARGETS.items():
    for _number, _group in ((signal.SIGKILL, "kill"), (signal.SIGTERM, "other")):
        fault(
            name=f"{_number.name} {_target}",
            weight=_weight,
            touches=_touches,
            probes=_probes,
            group=_group,
        )(partial(end_process, _target, _number))


def freeze(target: str, world: World, rng: random.Random) -> Detail:
    """A process, with all that it started, hangs for longer than its lease, and then goes on as if nothing was."""
    processes = with_children(rng.choice(world.processes(target)))
    affected = affected_jobs(world, {process.pid for process in processes})
    with frozen(processes):
        time.sleep(BEYOND_LEASE_SECONDS + rng.uniform(0, 2))
    return {"pids": [process.pid for process in processes], "affected": affected}


for _target in ("child", "worker-default", "worker-io", "control"):
    fault(
        name=f"freeze {_target}",
        weight=1.5 if _target in ("child", "worker-io") else 0.7,
        touches="frozen",
        seconds=BEYOND_LEASE_SECONDS + 1,
        probes=EVERY if _target == "control" else TARGETS[_target][2],
    )(partial(freeze, _target))


@fault(touches="beat", seconds=4)
def two_beats(world: World, rng: random.Random) -> None:
    with world.extra("beat"):
        time.sleep(rng.uniform(3, 6))


@fault(touches="control", seconds=4)
def two_controls(world: World, rng: random.Random) -> None:
    with world.extra("control"):
        time.sleep(rng.uniform(3, 6))


@fault(touches="clock", seconds=7, skipped=NO_FAKETIME)
def a_process_whose_clock_is_wrong(world: World, rng: random.Random) -> Detail:
    """One process more, minutes ahead or behind, which at the end is told to stop or killed."""
    name, minutes = rng.choice(("worker-default", "worker-io", "control", "beat")), rng.choice((-7, -3, 3, 7))
    with world.extra(
        name, LD_PRELOAD=FAKETIME_THREADS, FAKETIME=f"{minutes * 60:+d}", FAKETIME_DONT_FAKE_MONOTONIC="1"
    ) as process:
        time.sleep(rng.uniform(5, 8))
        if rng.random() < 0.5:
            process.kill()
    return {"process": name, "minutes": minutes}


# The broker.


@fault(weight=1.5, touches="broker", group="other")
def flush_broker(world: World, rng: random.Random) -> None:
    with suppress(*BROKER_ERRORS):
        world.broker.flush()


@fault(touches="broker", seconds=2, group="broker")
def broker_killed(world: World, rng: random.Random) -> None:
    world.broker.kill()
    world.broker.start()


@fault(touches="broker", seconds=2, group="broker")
def broker_killed_and_empty(world: World, rng: random.Random) -> None:
    world.broker.kill()
    world.broker.forget()
    world.broker.start()


@fault(touches="broker", seconds=BROKER_DOWN_SECONDS + 1, group="broker")
def broker_down(world: World, rng: random.Random) -> None:
    """For so long connections to it are refused."""
    world.broker.kill()
    try:
        time.sleep(BROKER_DOWN_SECONDS)
    finally:
        world.broker.start()


@fault(touches="broker", seconds=6, group="broker")
def broker_hangs(world: World, rng: random.Random) -> None:
    """Connections to it are accepted by the kernel, and nobody answers."""
    with frozen([psutil.Process(world.broker.pid)]):
        time.sleep(rng.uniform(3, 8))


@fault(weight=1.5, touches="broker", seconds=12, group="broker")
def broker_answers_with_errors(world: World, rng: random.Random) -> Detail:
    """It can be reached, and refuses what is asked of it."""
    error, tampering = rng.choice(sorted(world.broker.tamperings.items()))
    try:
        with tampering():
            time.sleep(rng.uniform(6, 12))
    # It refused the suite as well.
    except BROKER_ERRORS as failure:
        return {"error": error, "ended early": repr(failure)}
    return {"error": error}


@fault(touches="broker", seconds=0.5)
def bad_messages(world: World, rng: random.Random) -> Detail:
    """Messages that nobody can read lie in every queue."""
    with suppress(*BROKER_ERRORS):
        return {"messages": world.broker.send_bad_messages()}
    return {"messages": 0}


@fault(touches="messages", seconds=0.5)
def messages_replayed(world: World, rng: random.Random) -> Detail:
    """Messages that were answered long ago come again, some of them many times."""
    rows = world.query("SELECT kind, queue, id::text FROM orchestrator_job ORDER BY random() LIMIT 5")
    sent = 0
    with suppress(*BROKER_ERRORS):
        for kind, queue, id in [*rows, ("orchestrator.tick", "control", "tick")]:
            world.send_again(kind, queue, id, times=rng.choice((1, 2, 20)))
            sent += 1
    return {"messages": sent}


# The database.


@fault(touches="database", seconds=4)
def kill_postgresql(world: World, rng: random.Random) -> None:
    with suppress(psutil.Error):
        world.processes("postgres")[0].kill()
    until(lambda: not world.database_is_up(), GONE_SECONDS)
    until(world.database_is_up, BACK_SECONDS)


@fault(weight=1.5, touches="database")
def terminate_connections(world: World, rng: random.Random) -> Detail:
    [[ended]] = world.query(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'chaos' AND random() < %s",
        rng.choice((0.2, 0.5, 1)),
    )
    return {"connections": ended}


WRITTEN_TABLES = (
    "orchestrator_job", "orchestrator_worker", "orchestrator_attempt", "scheduler_task", "ingestion_record",
    "kinds_effect",
)  # fmt: skip


@fault(touches="database", seconds=3)
def disk_full(world: World, rng: random.Random) -> Detail:
    """Some writes to a table fail as they do on a full disk."""
    table, share = rng.choice(WRITTEN_TABLES), rng.choice((0.3, 1))
    world.query(
        f"""
        CREATE OR REPLACE FUNCTION chaos_disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF random() < {share} THEN
                RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
            END IF;
            RETURN NULL;
        END $$;
        CREATE OR REPLACE TRIGGER chaos_disk_full BEFORE INSERT OR UPDATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION chaos_disk_full()
        """
    )
    try:
        time.sleep(rng.uniform(1, 4))
    finally:
        world.query(f"DROP TRIGGER IF EXISTS chaos_disk_full ON {table}")
    return {"table": table, "share": share}


@fault(touches="database", seconds=8, skipped=NOT_ROOT)
def disk_of_the_database_full(world: World, rng: random.Random) -> Detail:
    """Not a byte is free where the database keeps everything; it may stop, and cannot start again before there is."""
    if not world.database.has_disk:
        return {"skipped": "No file system may be mounted here"}
    with world.database.full_disk():
        time.sleep(rng.uniform(4, 9))
    until(world.database_is_up, BACK_SECONDS)
    return {}


@fault(touches="database", seconds=10, skipped=NO_FAKETIME)
def clock_of_the_database_steps(world: World, rng: random.Random) -> Detail:
    """Forward by many leases, and some seconds later back again."""
    seconds = rng.randint(MIN_STEP_SECONDS, MAX_STEP_SECONDS)
    world.database.step_clock(seconds)
    try:
        time.sleep(rng.uniform(6, 10))
    finally:
        world.database.step_clock(0)
    return {"seconds": seconds}


@fault(touches="database", seconds=3)
def lock_timeouts(world: World, rng: random.Random) -> Detail:
    """Someone locks a table, and nobody waits for longer than a moment."""
    table = rng.choice(WRITTEN_TABLES)
    with ExitStack() as undo:
        connection = world.connect()
        undo.callback(connection.close)
        undo.callback(set_for_everyone, world, "lock_timeout", None)
        set_for_everyone(world, "lock_timeout", "200ms")
        # The server may be killed with the lock, or its connection ended.
        with suppress(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute(f"BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE")
            time.sleep(rng.uniform(1, 3))
            cursor.execute("COMMIT")
    return {"table": table}


def set_for_everyone(world: World, setting: str, value: str | None) -> None:
    """Sets a parameter of PostgreSQL for all sessions there are; None: back to its default."""
    world.query(f"ALTER SYSTEM SET {setting} = '{value}'" if value else f"ALTER SYSTEM RESET {setting}")
    world.query("SELECT pg_reload_conf()")


# The network between some workers and the database.


@fault(weight=1.5, touches="network", seconds=BEYOND_LEASE_SECONDS + 1)
def network_cut_and_healed(world: World, rng: random.Random) -> Detail:
    """Nothing arrives for longer than a lease; then it does, late."""
    return cut(world, rng, then=world.network.heal)


@fault(touches="network", seconds=BEYOND_LEASE_SECONDS + 1)
def network_cut_and_reset(world: World, rng: random.Random) -> Detail:
    """Nothing arrives for longer than a lease; then all connections break, and what was under way is lost."""
    return cut(world, rng, then=world.network.reset)


def cut(world: World, rng: random.Random, *, then: Callable[[], None]) -> Detail:
    affected = affected_jobs(world, world.far_pids())
    world.network.cut()
    try:
        time.sleep(BEYOND_LEASE_SECONDS + rng.uniform(0, 2))
    finally:
        then()
    return {"affected": affected}


@fault(
    weight=1.5,
    touches="network",
    seconds=BEYOND_LEASE_SECONDS + 15,
    skipped=NOT_ROOT or ("" if all(map(shutil.which, PROGRAMS)) else "It needs iproute2 and iptables"),
)
def packets_dropped(world: World, rng: random.Random) -> Detail:
    """A whole host loses every packet to and from the database and the broker; later the network is as before."""
    if world.far_host is None:
        return {"skipped": "No network namespace can be made here"}
    affected = affected_jobs(world, world.far_pids())
    world.far_host.drop_packets()
    try:
        time.sleep(BEYOND_LEASE_SECONDS + rng.uniform(5, 15))
    finally:
        world.far_host.pass_packets()
    return {"affected": affected}


@fault(touches="network")
def connections_reset(world: World, rng: random.Random) -> Detail:
    """Connections break in the middle of whatever they carry."""
    affected = affected_jobs(world, world.far_pids())
    world.network.reset()
    return {"affected": affected}
