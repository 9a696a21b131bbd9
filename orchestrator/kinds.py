"""Kinds of job: the decorator that declares one, and the registry that knows them all."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from config.celery import app
from orchestrator.bell import Doorbell

if TYPE_CHECKING:
    from orchestrator.submission import Child


class Problem(NamedTuple):
    """One thing wrong with what a client sent: where (RFC 6901), a code for programs, a sentence for people."""

    pointer: str
    code: str
    detail: str


class UnknownKind(LookupError):
    """No kind has that name."""

    def __init__(self, name: str) -> None:
        near = difflib.get_close_matches(name, _kinds, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else "GET /kinds lists them."
        self.problems = [Problem("/kind", "unknown_kind", f"There is no kind {name!r}. {advice}")]
        super().__init__(self.problems[0].detail)


class BadPayload(ValueError):
    """The payload does not fit the kind's payload type."""

    def __init__(self, error: msgspec.ValidationError) -> None:
        detail, _, path = str(error).partition(" - at `$")
        # msgspec says `$.items[0].name` where a JSON pointer says /items/0/name.
        pointer = "/payload" + re.sub(r"[.\[]", "/", path.rstrip("`").replace("]", ""))
        self.problems = [Problem(pointer, "invalid", f"{detail}.")]
        super().__init__(f"{pointer}: {detail}.")


MOST_ATTEMPTS = 1_000
MOST_KEEP_DAYS = 36_500

Handler = Callable[..., Any]
Plan = Callable[[Any], "Sequence[Child]"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the engine knows of a kind of job. See `job` for the meaning of each field."""

    name: str
    handler: Handler
    queue: str
    payload_type: Any
    execution: Literal["leased", "transactional"]
    takes_batch: bool
    takes_payload: bool
    batch_size: int
    priority: int
    max_attempts: int
    backoff: timedelta
    backoff_ceiling: timedelta
    no_retry: tuple[type[BaseException], ...]
    timeout: timedelta | None
    on_cancel: Literal["rollback", "keep"]
    plan: Plan | None
    max_unfinished_per_owner: int | None
    typical_duration: timedelta
    keep_days: float | None
    description: str = ""
    task: Doorbell = field(repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the handler itself, as a unit test of it does."""
        return self.handler(*args, **kwargs)

    def read_payload(self, payload: Any) -> Any:
        """`payload` as the kind's payload type; raises BadPayload with a pointer to what does not fit."""
        try:
            return msgspec.convert(payload, self.payload_type, strict=True)
        except msgspec.ValidationError as error:
            raise BadPayload(error) from None

    def decode_payload(self, text: str) -> Any:
        """A payload in JSON, as it is stored, as the kind's payload type; raises BadPayload likewise.

        Fields that only a newer release knows are passed over.
        """
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError:
            try:
                return self._tolerant_decoder.decode(text)
            except msgspec.ValidationError as error:
                raise BadPayload(error) from None

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self.payload_type)

    @cached_property
    def _tolerant_decoder(self) -> msgspec.json.Decoder[Any]:
        if not (isinstance(self.payload_type, type) and issubclass(self.payload_type, msgspec.Struct)):
            return self._decoder
        bases = (self.payload_type,)
        return msgspec.json.Decoder(
            msgspec.defstruct(self.payload_type.__name__, [], bases=bases, forbid_unknown_fields=False)
        )

    def payload_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the payload."""
        return msgspec.json.schema(self.payload_type)


_kinds: dict[str, Kind] = {}


def job(
    name: str,
    *,
    queue: str = "default",
    payload: Any = dict[str, Any],
    execution: Literal["leased", "transactional"] = "leased",
    takes_batch: bool = False,
    batch_size: int | None = None,
    priority: int = 5,
    max_attempts: int = 3,
    backoff_seconds: float = 1,
    backoff_ceiling_seconds: float = 300,
    no_retry: tuple[type[BaseException], ...] = (),
    timeout_seconds: float | None = 3_600,
    on_cancel: Literal["rollback", "keep"] = "rollback",
    plan: Plan | None = None,
    max_unfinished_per_owner: int | None = None,
    typical_seconds: float = 60,
    keep_days: float | None = None,
) -> Callable[[Handler], Kind]:
    """Makes a function a kind of job.

    The function takes the running job and, where `payload` is given, the payload as that type; what it returns is
    the result, as JSON. It runs at least once; its writes to the database are committed once, with the completion.

    name: what clients submit and Flower shows: "app.verb_noun".
    queue: which workers run it; "io" has many threads, for waiting, "default" processes, for computing.
    payload: a msgspec.Struct or any type msgspec converts to; submissions that do not fit are refused.
    execution: "leased" for anything that takes time; "transactional" for short work on the database alone, which
        is claimed, run and completed in one transaction for a whole batch.
    takes_batch: a transactional function is given the list of its running jobs at once and returns the list of
        their results, in order.
    batch_size: jobs claimed at once; 1 for leased kinds and 200 for transactional ones if not given.
    priority: of jobs that do not say: 0 is the most urgent, 9 the least.
    max_attempts, backoff_seconds, backoff_ceiling_seconds: after attempt n fails, the next starts within
        backoff * 2^(n-1) seconds, at most the ceiling, at a random moment of that span.
    no_retry: errors that another attempt cannot mend.
    timeout_seconds: an attempt that takes longer has failed; None: never.
    on_cancel: whether the uncommitted writes of a job cancelled midway are rolled back or kept.
    plan: payload -> children; makes every job of this kind a pipeline whose last step is the function.
    max_unfinished_per_owner: more than so many at once are refused.
    typical_seconds: how long it usually takes, for the advice when to try again.
    keep_days: how long a job is kept after its end, 0: for ever; RETENTION_DAYS if not given, and
        RETENTION_DAYS_BY_KIND has the last word. A child is kept as long as its parent.
    """

    def declare(handler: Handler) -> Kind:
        if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", name) or len(name) > 100:
            raise ValueError(f"The kind {name!r} needs a name like 'billing.send_invoice'.")
        if name in _kinds and inspect.getsourcefile(_kinds[name].handler) != inspect.getsourcefile(handler):
            raise ValueError(f"The kind {name!r} is declared twice.")
        if queue not in settings.QUEUES:
            raise ImproperlyConfigured(
                f"The kind {name!r} names the queue {queue!r}, which QUEUES leaves out: {', '.join(settings.QUEUES)}."
            )
        if (takes_batch or batch_size) and execution != "transactional":
            raise ValueError(f"The kind {name!r} takes batches, so it must be transactional.")
        if type(priority) is not int or not 0 <= priority <= 9:
            raise ValueError(f"The kind {name!r} needs a priority from 0 (most urgent) to 9, not {priority!r}.")
        if not 1 <= max_attempts <= MOST_ATTEMPTS:
            raise ValueError(f"The kind {name!r} needs 1 to {MOST_ATTEMPTS:,} attempts, not {max_attempts!r}.")
        if keep_days is not None and not 0 <= keep_days <= MOST_KEEP_DAYS:
            raise ValueError(f"The kind {name!r} needs 0 (for ever) to {MOST_KEEP_DAYS:,} days, not {keep_days!r}.")
        if min(backoff_seconds, backoff_ceiling_seconds, batch_size or 1, timeout_seconds or 1) < 0:
            raise ValueError(f"The kind {name!r} needs times and a batch size that are not negative.")
        _kinds[name] = Kind(
            name=name,
            handler=handler,
            queue=queue,
            payload_type=payload,
            execution=execution,
            takes_batch=takes_batch,
            takes_payload=not takes_batch and len(inspect.signature(handler).parameters) > 1,
            batch_size=batch_size or (200 if execution == "transactional" else 1),
            priority=priority,
            max_attempts=max_attempts,
            backoff=timedelta(seconds=backoff_seconds),
            backoff_ceiling=timedelta(seconds=backoff_ceiling_seconds),
            no_retry=no_retry,
            timeout=None if timeout_seconds is None else timedelta(seconds=timeout_seconds),
            on_cancel=on_cancel,
            plan=plan,
            max_unfinished_per_owner=max_unfinished_per_owner,
            typical_duration=timedelta(seconds=typical_seconds),
            keep_days=keep_days,
            description=inspect.cleandoc(handler.__doc__ or ""),
            task=_doorbell(name, queue),
        )
        return _kinds[name]

    return declare


def _doorbell(name: str, queue: str) -> Doorbell:
    """The Celery task of the kind's name. Arguments it does not know come from newer senders."""

    @app.task(name=name, answered_in=queue, bind=True, base=Doorbell)
    def answer(self: Doorbell, *args: Any, **kwargs: Any) -> None:
        from orchestrator.engine import answer_bell

        answer_bell(_kinds[name], celery_task_id=self.request.id or "")

    return answer


def kind_named(name: str) -> Kind:
    """The kind of that name; raises UnknownKind."""
    try:
        return _kinds[name]
    except KeyError:
        raise UnknownKind(name) from None


def all_kinds() -> list[Kind]:
    return sorted(_kinds.values(), key=lambda kind: kind.name)
