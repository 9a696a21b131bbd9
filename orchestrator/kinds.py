"""Kinds of job: the decorator that declares one, and the registry of all of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any, Generic, Literal

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from typing_extensions import TypeForm

from orchestrator.ended import Callback, check_callback

# Whoever declares kinds, or pipelines of them, imports these from here.
from orchestrator.kind import Call, P, R, check_function, declared_at, fields_of
from orchestrator.kind import Kind as Kind
from orchestrator.kind_problems import DemoKind, InternalKind, UnknownKind
from orchestrator.limits import BadLimit, Limits, Scope
from orchestrator.pipeline_steps import Child as Child
from orchestrator.unique import Unique, check_fields

MAX_ATTEMPTS = 1_000
MAX_KEEP_DAYS = 36_500
DEFAULT_BATCH_SIZE = {"leased": 1, "transactional": 200}
# That of a transactional kind is for a whole batch, which keeps its jobs locked and is not asked to stop first.
DEFAULT_TIMEOUT_SECONDS = {"leased": 3_600, "transactional": 120}

_kinds: dict[str, Kind] = {}
callbacks: list[Callable[[Kind], None]] = []


@dataclass(frozen=True, eq=False)
class job(Generic[P]):
    """Makes a function a kind of job.

    The function takes the running job and, where `payload` is given, the payload as that type; what it returns is
    the result, as JSON. It runs at least once; its writes to the database are committed once, with the completion.
    An `async def` function takes an AsyncRunningJob and runs on a worker's event loop, beside thousands of others.

    name: what clients submit and Flower shows: "app.verb_noun".
    queue: which workers run it, one of those that QUEUES declares: "io" has threads, to wait, "default" processes, to
        compute.
    payload: a msgspec.Struct or any type msgspec converts to; submissions that do not match are refused.
    execution: "leased" for anything that takes time; "transactional" for short work on the database alone, which
        is claimed, run and completed in one transaction for a whole batch.
    atomic: whether what a leased function writes is one transaction, committed with the completion. With False it
        commits each statement, or each transaction.atomic(), and what it has committed is kept if it fails.
    takes_batch: a transactional function is given the list of its running jobs at once and returns the list of
        their results, in order.
    batch_size: jobs claimed at once; 1 for leased kinds and 200 for transactional ones if not given.
    priority: of jobs that do not say: 0 is the most urgent, 9 the least.
    max_attempts, backoff_seconds, backoff_ceiling_seconds: after attempt n fails, the next starts within
        backoff * 2^(n-1) seconds, at most the ceiling, at a random moment of that span.
    no_retry: errors that another attempt cannot fix.
    timeout_seconds: an attempt that takes longer has failed, and if the handler does not end, its process is ended;
        None: never. An hour if not given; 2 minutes for transactional kinds, for a whole batch.
    on_cancel: whether the uncommitted writes of a job cancelled midway are rolled back or kept.
    plan: payload -> children; makes every job of this kind a pipeline whose last step is the function.
    key: payload -> the concurrency key, such as a customer's id: what the limits per key go by. None: no key.
    max_running, max_running_per_owner, max_running_per_key: how many run at once, in all, of one owner, of one key.
        More than that wait; none is refused.
    rate, rate_per, burst: how many start in a time: "10/m" in all, or of each "owner" or "key"; burst of them at once.
    max_unfinished_per_owner: more than so many at once are refused.
        Operators may change all limits of a kind while it runs. See docs/limits.md.
    typical_seconds: how long it usually takes, for the advice when to try again.
    keep_days: how long a job is kept after its end, 0: for ever; RETENTION_DAYS if not given, and
        RETENTION_DAYS_BY_KIND has the last word. A child is kept as long as its parent.
    internal: whether only code submits such jobs, because their payload is trusted or because they are steps of a
        pipeline: POST /jobs refuses them. A string names what clients use instead: "POST /tasks/".
    on_failure: f(job, error) is called in the transaction that ends a job without its result, FAILED or CANCELLED.
    on_retry: f(job, error) is called in the transaction that ends an attempt which another one follows.
        What they write or submit is kept; an exception in them is logged. See docs/kinds.md.
    unique: what makes a job the same as another, of which only one is unfinished at any time. True: its payload.
        Children of a pipeline are not compared.
    """

    name: str
    _: KW_ONLY
    queue: str = "default"
    payload: TypeForm[P] = dict[str, Any]  # type: ignore[assignment]  # If P is not given.
    execution: Literal["leased", "transactional"] = "leased"
    atomic: bool = True
    takes_batch: bool = False
    batch_size: int | None = None
    priority: int = 5
    max_attempts: int = 3
    backoff_seconds: float = 1
    backoff_ceiling_seconds: float = 300
    no_retry: tuple[type[BaseException], ...] = ()
    timeout_seconds: float | msgspec.UnsetType | None = msgspec.UNSET
    on_cancel: Literal["rollback", "keep"] = "rollback"
    plan: Callable[[P], Sequence[Child]] | None = None
    key: Callable[[P], Any] | None = None
    max_running: int | None = None
    max_running_per_owner: int | None = None
    max_running_per_key: int | None = None
    rate: str | None = None
    rate_per: Scope | None = None
    burst: int | None = None
    max_unfinished_per_owner: int | None = None
    typical_seconds: float = 60
    keep_days: float | None = None
    internal: bool | str = False
    on_failure: Callback[P] | None = None
    on_retry: Callback[P] | None = None
    unique: Unique | bool = False

    def __call__(self, handler: Callable[Call, R]) -> Kind[P, R, Call]:
        self._check_name(handler)
        check_function(self.name, handler)
        self._check_choices()
        if inspect.iscoroutinefunction(handler):
            self._check_async()
        self._check_numbers()
        self._check_unique()
        timeout = self._timeout_seconds
        return _registered(
            Kind(
                name=self.name,
                handler=handler,
                queue=self.queue,
                payload_type=self.payload,
                execution=self.execution,
                atomic=self.atomic,
                takes_batch=self.takes_batch,
                batch_size=self.batch_size or DEFAULT_BATCH_SIZE[self.execution],
                priority=self.priority,
                max_attempts=self.max_attempts,
                backoff=timedelta(seconds=self.backoff_seconds),
                backoff_ceiling=timedelta(seconds=self.backoff_ceiling_seconds),
                no_retry=self.no_retry,
                timeout=None if timeout is None else timedelta(seconds=timeout),
                on_cancel=self.on_cancel,
                plan=self.plan,
                key=self.key,
                limits=self._limits(),
                typical_duration=timedelta(seconds=self.typical_seconds),
                keep_days=self.keep_days,
                internal=bool(self.internal),
                use_instead=self.internal if isinstance(self.internal, str) else "",
                on_failure=self.on_failure,
                on_retry=self.on_retry,
                unique=Unique() if self.unique is True else self.unique or None,
            )
        )

    @property
    def _timeout_seconds(self) -> float | None:
        given = self.timeout_seconds
        return DEFAULT_TIMEOUT_SECONDS[self.execution] if isinstance(given, msgspec.UnsetType) else given

    def _limits(self) -> Limits:
        try:
            limits = Limits(
                max_running=self.max_running,
                max_running_per_owner=self.max_running_per_owner,
                max_running_per_key=self.max_running_per_key,
                rate=self.rate,
                rate_per=self.rate_per,
                burst=self.burst,
                max_unfinished_per_owner=self.max_unfinished_per_owner,
            )
        except BadLimit as error:
            raise ValueError(f"The kind {self.name!r} has a limit that cannot be kept: {error}") from None
        if limits.needs_key and self.key is None:
            raise ValueError(f"The kind {self.name!r} has a limit per key, so it needs a key: key=lambda payload: …")
        return limits

    def _check_name(self, handler: Callable[..., Any]) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", self.name) or len(self.name) > 100:
            raise ValueError(f"The kind {self.name!r} needs a name like 'billing.send_invoice'.")
        if self.name in _kinds and declared_at(_kinds[self.name].handler) != declared_at(handler):
            raise ValueError(f"The kind {self.name!r} is declared twice.")

    def _check_choices(self) -> None:
        _check_choice(self.name, "execution", self.execution, ("leased", "transactional"))
        _check_choice(self.name, "on_cancel", self.on_cancel, ("rollback", "keep"))
        _check_no_retry(self.name, self.no_retry)
        check_callback(self.name, "on_failure", self.on_failure)
        check_callback(self.name, "on_retry", self.on_retry)
        if self.queue not in settings.QUEUES:
            raise ImproperlyConfigured(
                f"The kind {self.name!r} names the queue {self.queue!r}, which is not in QUEUES: "
                f"{', '.join(settings.QUEUES)}."
            )
        if (self.takes_batch or self.batch_size) and self.execution != "transactional":
            raise ValueError(f"The kind {self.name!r} takes batches, so it must be transactional.")
        _check_choice(self.name, "atomic", self.atomic, (True, False))
        if self.execution == "transactional" and not self.atomic:
            raise ValueError(f"The kind {self.name!r} is transactional, so it must be atomic.")

    def _check_async(self) -> None:
        if self.execution == "transactional":
            raise ValueError(
                f"The kind {self.name!r} needs a function that is not async, or execution='leased': a batch runs in "
                "one transaction, without an event loop."
            )
        if settings.QUEUES[self.queue].pool != "threads":
            queues = ", ".join(queue.name for queue in settings.QUEUES.values() if queue.pool == "threads")
            raise ValueError(
                f"The kind {self.name!r} needs a function that is not async, or a queue of threads "
                f"({queues or 'none'} in QUEUES): the workers of {self.queue!r} are processes that run one job at a "
                "time, without an event loop."
            )

    def _check_unique(self) -> None:
        if not isinstance(self.unique, Unique | bool):
            raise ValueError(f"The kind {self.name!r} needs Unique(…), True or False as unique, not {self.unique!r}.")
        if isinstance(self.unique, bool):
            return
        if self.unique.key is not None:
            raise ValueError(f"The kind {self.name!r} needs fields that make its jobs unique; a key is for one job.")
        if self.plan and self.unique.changes_jobs:
            raise ValueError(f"The kind {self.name!r} plans children, so on_conflict must be return or refuse.")
        known = fields_of(self.payload)
        if self.unique.fields is not None and known is not None:
            check_fields(self.unique.fields, known)

    def _check_numbers(self) -> None:
        if type(self.priority) is not int or not 0 <= self.priority <= 9:
            raise ValueError(
                f"The kind {self.name!r} needs a priority from 0 (most urgent) to 9, not {self.priority!r}."
            )
        if type(self.max_attempts) is not int or not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise ValueError(
                f"The kind {self.name!r} needs 1 to {MAX_ATTEMPTS:,} attempts, not {self.max_attempts!r}."
            )
        if self.keep_days is not None and not 0 <= self.keep_days <= MAX_KEEP_DAYS:
            raise ValueError(
                f"The kind {self.name!r} needs 0 (for ever) to {MAX_KEEP_DAYS:,} days, not {self.keep_days!r}."
            )
        numbers = (self.backoff_seconds, self.backoff_ceiling_seconds, self.batch_size, self._timeout_seconds)
        if any(number is not None and number < 0 for number in numbers):
            raise ValueError(f"The kind {self.name!r} needs times and a batch size that are not negative.")


def _registered(kind: Kind[P, R, Call]) -> Kind[P, R, Call]:
    _kinds[kind.name] = kind
    for callback in callbacks:
        callback(kind)
    return kind


def _check_choice(name: str, option: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"The kind {name!r} needs {' or '.join(map(repr, choices))} as {option}, not {value!r}.")


def _check_no_retry(name: str, types: Any) -> None:
    if not (isinstance(types, tuple) and all(isinstance(each, type) for each in types)):
        raise ValueError(f"The kind {name!r} needs a tuple of exceptions as no_retry, not {types!r}.")


def for_each_kind(callback: Callable[[Kind], None]) -> Callable[[Kind], None]:
    """Registers a function that is called with every kind: now with those declared so far, later with each new one."""
    for kind in all_kinds():
        callback(kind)
    callbacks.append(callback)
    return callback


def kind_named(name: str) -> Kind:
    """The kind of that name; raises UnknownKind."""
    kind = _kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UnknownKind(name, _kinds)
    return kind


def known_kind(name: str) -> Kind | None:
    """None for a kind that other processes run but this one does not know, as during an upgrade."""
    return _kinds.get(name)


def kind_open_to_clients(name: str) -> Kind:
    """The kind of that name; raises UnknownKind, or InternalKind for one that clients may not submit."""
    kind = kind_named(name)
    if kind.internal:
        raise InternalKind(kind.name, kind.use_instead)
    if is_switched_off(kind):
        raise DemoKind(kind.name)
    return kind


def is_switched_off(kind: Kind) -> bool:
    """Whether it is a demo kind where clients may not submit those."""
    return kind.name.startswith("demo.") and settings.ENV.REQUIRE_AUTH and not settings.ENV.DEMO_KINDS


def forget_kind(name: str) -> None:
    """Takes a kind back, as a test does with one that it declared. Its Celery task stays."""
    del _kinds[name]


def all_kinds() -> list[Kind]:
    return sorted(_kinds.values(), key=lambda kind: kind.name)
