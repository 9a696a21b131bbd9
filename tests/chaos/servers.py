"""The servers that faults are injected into: the brokers, and a database with a disk and a clock of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Any

import redis
from amqp import NotFound
from kombu import Connection

from config.local.ports import free_port
from config.local.postgres import Postgres
from config.local.unprivileged import is_root
from config.local.valkey import Valkey
from tests.system.rabbitmq import RabbitMQ

QUEUES = ("default", "io", "control")
RABBITMQCTL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")

# The library that gives a process a clock of its own, where it is installed, as Python and as PostgreSQL need it.
FAKETIME_THREADS = next(iter(glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), "")
FAKETIME = FAKETIME_THREADS.replace("MT", "")

# The database's disk, where it has one of its own. Its log of changes stays well below.
DISK_BYTES, MAX_WAL_SIZE = 1_500_000_000, "256MB"

# What lies in the queues although no worker of ours has sent it.
BAD_MESSAGES = (
    b"",
    b"not JSON",
    b"\x80\x04\x95 a pickle \x94.",
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b"17",
    b"{}",
    b'{"body": "bm8=", "headers": {}, "properties": {}}',
    b'{"body": 5, "headers": null, "properties": null, "content-type": "application/json"}',
    b'{"body": "%%%", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"task": "no.such",'
    b' "id": "1"}, "properties": {"body_encoding": "base64", "delivery_tag": "1", "delivery_info": {}}}',
)

Tampering = Callable[[], Any]


class ValkeyBroker(Valkey):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())

    def flush(self) -> None:
        with self._client() as client:
            client.flushall()

    def forget(self) -> None:
        """Makes the next life of the killed server begin with nothing."""
        shutil.rmtree(self.data_dir)

    def destroy(self) -> None:
        self.stop()

    def send_bad_messages(self) -> int:
        with self._client() as client:
            for queue in QUEUES:
                client.lpush(f"muster:{queue}", *BAD_MESSAGES)
        return len(QUEUES) * len(BAD_MESSAGES)

    # What makes it answer with errors: each lasts as long as its block.

    @property
    def tamperings(self) -> dict[str, Tampering]:
        return {
            "READONLY": self._read_only,
            "WRONGTYPE": self._wrong_types,
            "NOAUTH": self._password,
            "OOM": self._no_memory,
            "BUSY": self._busy,
        }

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        with self._client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            try:
                yield
            finally:
                client.execute_command("REPLICAOF", "NO", "ONE")

    @contextmanager
    def _wrong_types(self) -> Iterator[None]:
        keys = [f"muster:{name}" for name in (*QUEUES, "unacked", "unacked_index", "unacked_mutex")]
        with self._client() as client:
            for key in keys:
                client.delete(key)
                client.geoadd(key, (1, 1, "place")) if key.endswith("mutex") else client.hset(key, "no", "queue")
            try:
                yield
            finally:
                client.delete(*keys)

    @contextmanager
    def _password(self) -> Iterator[None]:
        with self._client() as client:
            client.config_set("requirepass", "changed")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            try:
                yield
            finally:
                client.config_set("requirepass", "")

    @contextmanager
    def _no_memory(self) -> Iterator[None]:
        with self._client() as client:
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """A script that somebody left running: everyone else is refused."""
        with self._client() as client:
            client.config_set("busy-reply-threshold", 10)
            script = threading.Thread(target=self._loop_for_ever, name="busy script", daemon=True)
            script.start()
            try:
                yield
            finally:
                client.execute_command("SCRIPT", "KILL")
                script.join()

    def _loop_for_ever(self) -> None:
        with closing(redis.Redis.from_url(self.url)) as client, suppress(redis.RedisError):
            client.eval("while true do end", 0)

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        with closing(redis.Redis.from_url(self.url, socket_timeout=2, single_connection_client=True)) as client:
            yield client


class RabbitBroker(RabbitMQ):
    def flush(self) -> None:
        self._in_each_queue("queue_purge")

    def forget(self) -> None:
        """Makes the next life of the killed node begin with nothing."""
        shutil.rmtree(self.data_dir / "mnesia")

    def send_bad_messages(self) -> int:
        with Connection(self.url, connect_timeout=2) as connection:
            producer = connection.Producer()
            for queue in QUEUES:
                for message in BAD_MESSAGES:
                    producer.publish(
                        message, routing_key=queue, content_type="application/x-none", content_encoding="binary"
                    )
        return len(QUEUES) * len(BAD_MESSAGES)

    @property
    def tamperings(self) -> dict[str, Tampering]:
        return {
            "queues deleted": self._without_queues,
            "ACCESS_REFUSED": self._without_permissions,
            "memory alarm": self._no_memory,
        }

    @contextmanager
    def _without_queues(self) -> Iterator[None]:
        self._in_each_queue("queue_delete")
        yield

    @contextmanager
    def _without_permissions(self) -> Iterator[None]:
        self._control("set_permissions", "guest", "^$", "^$", "^$")
        try:
            yield
        finally:
            self._control("set_permissions", "guest", ".*", ".*", ".*")

    @contextmanager
    def _no_memory(self) -> Iterator[None]:
        self._control("set_vm_memory_high_watermark", "0.000001")
        try:
            yield
        finally:
            self._control("set_vm_memory_high_watermark", "0.4")

    def _in_each_queue(self, method: str) -> None:
        with Connection(self.url, connect_timeout=2) as connection:
            for queue in QUEUES:
                # Nobody has declared it yet since the node began with nothing.
                with suppress(NotFound), connection.channel() as channel:
                    getattr(channel, method)(queue)

    def _control(self, *command: str) -> None:
        subprocess.run(
            [str(RABBITMQCTL), *command], env=self._environment(), check=True, capture_output=True, timeout=30
        )


Broker = ValkeyBroker | RabbitBroker

BROKERS: dict[str, type[Broker]] = {"valkey": ValkeyBroker, "rabbitmq": RabbitBroker}


class Database(Postgres):
    """PostgreSQL with a disk and a clock of its own, where the machine allows that."""

    def __init__(self, folder: Path) -> None:
        self._disk = folder / "disk"
        self._ballast = self._disk / "ballast"
        self._clock = folder / "clock"
        self.has_disk = self._mount()
        self.step_clock(0)
        settings = {"max_wal_size": MAX_WAL_SIZE, "min_wal_size": "64MB", "logging_collector": "off"}
        super().__init__(self._disk / "postgres", free_port(), folder / "postgres.log", settings=settings)

    def destroy(self) -> None:
        super().destroy()
        if self.has_disk:
            subprocess.run(["umount", "--lazy", str(self._disk)], check=False)

    def step_clock(self, seconds: int) -> None:
        """Its clock differs by so much from everyone else's, from about a second later on."""
        unfinished = self._clock.with_suffix(".new")
        unfinished.write_text(f"{seconds:+d}\n")
        unfinished.chmod(0o644)
        unfinished.rename(self._clock)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Not a byte is free for as long as the block lasts."""
        try:
            with self._ballast.open("wb", buffering=0) as ballast, suppress(OSError):
                while ballast.write(b"\0" * 1_000_000):
                    pass
            yield
        finally:
            self._ballast.unlink(missing_ok=True)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "env": {**os.environ, **self._wrong_clock()}} if FAKETIME else super().identity()

    def _wrong_clock(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def _mount(self) -> bool:
        self._disk.mkdir(mode=0o711)
        if not is_root():
            return False
        options = f"size={DISK_BYTES},mode=0711"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._disk)], check=False, capture_output=True
        )
        return mounted.returncode == 0
