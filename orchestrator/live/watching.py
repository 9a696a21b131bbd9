"""Who watches jobs in this process, and the one thread that reads for all of them, with one connection."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection

from orchestrator.live import events, reading
from orchestrator.live.moves import JobRow, Place, moves_since
from orchestrator.live.reading import Version
from orchestrator.per_process import PerProcess
from orchestrator.states import FINAL, Status

logger = logging.getLogger(__name__)

# How often the watched jobs are read; after a reading that took long, at most so much of the time.
POLL_SECONDS = 0.25
MAX_BUSY_SHARE = 0.2
# Nothing more is read for a watcher that has so much to read yet.
MAX_UNREAD_BYTES = 256 * 1024
# Owners are read in so many groups at a time, each of those who have been told of everything up to one moment.
MAX_GROUPS = 20
# Jobs that a watcher of owners was told to be running, and is to be told of in any case.
MAX_RUNNING = 1_000
UNKNOWN: Version = (None, "")


class TooManyWatchers(Exception):
    """This process serves no more event streams."""

    retry_after_seconds = 10

    def __init__(self) -> None:
        super().__init__(f"This process serves {settings.ENV.MAX_WATCHERS} event streams already. Try again later.")


class TooManyWatchersOfUser(Exception):
    """This user has as many event streams open here as one may have."""

    retry_after_seconds = 10

    def __init__(self) -> None:
        super().__init__(f"You have {settings.ENV.MAX_WATCHERS_PER_USER} event streams open already. Close one first.")


class Watch:
    """One who watches. The reading thread puts events in, and one who sends them takes them out."""

    def __init__(self, user: int | None, close: Callable[[Watch], None]) -> None:
        self.user = user
        # Called, in any thread, when there is something to take; by the first event at the latest.
        self.wake: Callable[[], object] = lambda: None
        self.ended = False
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._lock = threading.Lock()
        self._close = close

    def put(self, chunk: bytes, *, last: bool = False) -> None:
        with self._lock:
            self._chunks.append(chunk)
            self._unread += len(chunk)
        self.ended = last
        self.wake()

    def take(self) -> bytes:
        with self._lock:
            taken = b"".join(self._chunks)
            self._chunks.clear()
            self._unread = 0
        return taken

    @property
    def is_behind(self) -> bool:
        return self._unread > MAX_UNREAD_BYTES

    @property
    def heartbeat(self) -> bytes:
        """What is sent when there has been nothing else for a while."""
        return events.HEARTBEAT

    def close(self) -> None:
        """Nothing more is read for it. May be called twice."""
        self._close(self)


class JobWatch(Watch):
    """Watches one job, until its end."""

    def __init__(self, user: int | None, close: Callable[[Watch], None], job_id: UUID, seen: Place | None) -> None:
        super().__init__(user, close)
        self.job_id = job_id
        self.seen = seen
        self.version: Version = UNKNOWN
        self._progress: tuple[int | None, int | None, str] | None = None
        self._children: tuple[int, datetime] | None = None

    def tell(self, job: JobRow | None, records: events.Records) -> None:
        """The job is no longer as it was; None: it is gone."""
        if job is None:
            self.put(events.gone(self.job_id), last=True)
            return
        attempts, requests = records
        moves = moves_since(job, self.seen, attempts.get(job.id, ()), requests.get(job.id, ()))
        chunk = b"".join(events.status(job, move) for move in moves)
        if job.status == Status.RUNNING and any(job.progress) and job.progress != self._progress:
            chunk += events.progress(job)
        self._progress = job.progress
        self.seen, self.version = job.place, (job.updated_at, job.status)
        if chunk or job.status in FINAL:
            self.put(chunk, last=job.status in FINAL)

    def tell_of_children(self, running: tuple[int, datetime] | None) -> None:
        """How many of its children run, and when the last of them changed."""
        if running != self._children and not self.ended and self.seen:
            self._children = running
            self.put(events.children(self.job_id, running[0] if running else 0, self.seen))


class OwnersWatch(Watch):
    """Watches the jobs of an owner, who may be known by several names."""

    def __init__(
        self, user: int | None, close: Callable[[Watch], None], owners: Collection[str], since: datetime | None
    ) -> None:
        super().__init__(user, close)
        self.owners = frozenset(owners)
        # Everything up to then was told of.
        self.since = since
        # How much time is read at once; None: all that there is. Less for one who has missed very many changes.
        self.span: timedelta | None = None
        self._told: dict[UUID, Place] = {}
        self._progress: dict[UUID, tuple[int | None, int | None, str]] = {}

    @property
    def running(self) -> list[UUID]:
        """The jobs that it was told to be running."""
        return [id for id, place in self._told.items() if place.status == Status.RUNNING][:MAX_RUNNING]

    @property
    def heartbeat(self) -> bytes:
        return events.mark(self.since) if self.since else events.HEARTBEAT

    def tell(self, jobs: Collection[JobRow], records: events.Records, *, until: datetime) -> None:
        """These have changed, of those that changed up to then."""
        assert self.since
        attempts, requests = records
        told: dict[UUID, Place] = {}
        chunks: list[bytes] = []
        for job in sorted(jobs, key=lambda each: each.updated_at):
            seen = self._told.get(job.id) or Place(-1, "", self.since)
            for move in moves_since(job, seen, attempts.get(job.id, ()), requests.get(job.id, ())):
                chunks.append(events.status(job, move, id=events.mark_id(self.since, len(chunks))))
            if job.status == Status.RUNNING and any(job.progress) and job.progress != self._progress.get(job.id):
                chunks.append(events.progress(job, id=events.mark_id(self.since, len(chunks))))
            told[job.id] = job.place
        self._told = told
        self._progress = {job.id: job.progress for job in jobs if job.status == Status.RUNNING}
        self.since = until
        if chunks:
            self.put(b"".join([*chunks, events.mark(until)]))


class Watching:
    """The watchers of a process. A thread reads for them as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._by_user: Counter[int] = Counter()
        # The one that reads, as long as somebody watches.
        self.thread: threading.Thread | None = None
        self._changed = threading.Event()
        self._failed_at = 0.0

    def watch_job(self, job_id: UUID, *, user_id: int | None, seen: Place | None = None) -> JobWatch:
        """Begins to watch the job from there on; raises TooManyWatchers or TooManyWatchersOfUser."""
        watch = JobWatch(user_id, self._remove, job_id, seen)
        self._add(watch)
        return watch

    def watch_owners(
        self, owners: Collection[str], *, user_id: int | None, since: datetime | None = None
    ) -> OwnersWatch:
        """Begins to watch the jobs of the owners from that time on, or from now; raises as `watch_job` does."""
        watch = OwnersWatch(user_id, self._remove, owners, since)
        self._add(watch)
        return watch

    @property
    def watches(self) -> list[Watch]:
        """Those who watch now."""
        with self._lock:
            return list(self._watches)

    def _add(self, watch: Watch) -> None:
        with self._lock:
            if len(self._watches) >= settings.ENV.MAX_WATCHERS:
                raise TooManyWatchers
            if watch.user is not None:
                if self._by_user[watch.user] >= settings.ENV.MAX_WATCHERS_PER_USER:
                    raise TooManyWatchersOfUser
                self._by_user[watch.user] += 1
            self._watches.add(watch)
            if self.thread is None:
                self.thread = threading.Thread(target=self._serve, name="live events", daemon=True)
                self.thread.start()
        self._changed.set()

    def _remove(self, watch: Watch) -> None:
        with self._lock:
            if watch not in self._watches:
                return
            self._watches.remove(watch)
            if watch.user is not None:
                self._by_user[watch.user] -= 1
                if not self._by_user[watch.user]:
                    del self._by_user[watch.user]
        self._changed.set()

    def _serve(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._watches:
                        self.thread = None
                        return
                self._changed.clear()
                began = time.monotonic()
                self._read_safely()
                took = time.monotonic() - began
                pause = max(POLL_SECONDS, took / MAX_BUSY_SHARE - took)
                # A new watcher is told at once how its job is, but for those that come by the hundreds.
                if self._changed.wait(pause):
                    time.sleep(min(pause, max(0.02, took)))
        finally:
            connection.close()

    def _read_safely(self) -> None:
        try:
            self.read()
        except Exception as error:
            # Whoever watches gets heartbeats meanwhile, and misses nothing.
            if time.monotonic() > self._failed_at + 60:
                logger.warning("The jobs that are watched could not be read, which is tried again: %s", error)
            self._failed_at = time.monotonic()
            with suppress(Exception):
                connection.close()

    def read(self) -> None:
        """Tells each watcher what has changed since it was told last."""
        with self._lock:
            watches = [watch for watch in self._watches if not watch.ended and not watch.is_behind]
        self._read_jobs([watch for watch in watches if isinstance(watch, JobWatch)])
        self._read_owners([watch for watch in watches if isinstance(watch, OwnersWatch)])

    def _read_jobs(self, watches: list[JobWatch]) -> None:
        if not watches:
            return
        changed = reading.changed_jobs({(watch.job_id, watch.version) for watch in watches})
        records = reading.records_of([job for job in changed.values() if job and _has_records(job, watches)])
        for watch in watches:
            job = changed.get(watch.job_id)
            if watch.job_id in changed and (job is None or (job.updated_at, job.status) != watch.version):
                watch.tell(job, records)
        running = reading.running_children({watch.job_id for watch in watches})
        for watch in watches:
            watch.tell_of_children(running.get(watch.job_id))

    def _read_owners(self, watches: list[OwnersWatch]) -> None:
        if not watches:
            return
        now, settled = reading.now()
        for watch in watches:
            if watch.since is None:
                watch.since = settled
                watch.put(events.mark(settled))
        for since in sorted({watch.since for watch in watches if watch.since})[:MAX_GROUPS]:
            self._read_group([watch for watch in watches if watch.since == since], since, now, settled)

    def _read_group(self, group: list[OwnersWatch], since: datetime, now: datetime, settled: datetime) -> None:
        owners = {owner for watch in group for owner in watch.owners}
        running = {id for watch in group for id in watch.running}
        spans = [watch.span for watch in group if watch.span]
        until = max(now, since)
        if spans and since + min(spans) < until:
            until = since + min(spans)
        window = reading.changed_of_owners(owners, since, until, running)
        # Without that, each reading would begin with all of the time again, and take ever so long.
        span = 2 * (window.until - since) if window.until < now else None
        records = reading.records_of([job for job in window.jobs if job.updated_at != job.created_at])
        for watch in group:
            theirs = [job for job in window.jobs if job.owner in watch.owners]
            watch.span = span
            watch.tell(theirs, records, until=max(since, min(window.until, settled)))


def _has_records(job: JobRow, watches: list[JobWatch]) -> bool:
    """Whether more than one move may have been made since one of those who watch it was told."""
    if job.status == Status.RUNNING and job.attempt:
        places = (watch.seen for watch in watches if watch.job_id == job.id)
        return any(seen is not None and seen[:2] != (job.attempt, job.status) for seen in places)
    return True


watching = PerProcess(Watching)
