"""One kind of job, once it is declared: its handler, its settings, and how it reads payloads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, Literal
from uuid import UUID

import msgspec
from typing_extensions import ParamSpec, TypeForm, TypeVar

from orchestrator.ended import Callback
from orchestrator.ended import P as P  # The payload.
from orchestrator.kind_problems import BadConcurrencyKey, BadPayload
from orchestrator.limits import MAX_KEY_CHARACTERS, Limits
from orchestrator.pg_values import is_storable
from orchestrator.pipeline_steps import Child
from orchestrator.unique import Unique

# Kind without parameters means any payload, result and handler.
R = TypeVar("R", default=Any)  # What the handler returns.
Call = ParamSpec("Call", default=...)  # What the handler is called with.
Resume = TypeVar("Resume", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[P, R, Call]):
    """A declared kind of job. See `job` for the meaning of each field."""

    name: str
    handler: Callable[Call, R]
    queue: str
    payload_type: TypeForm[P]
    execution: Literal["leased", "transactional"]
    atomic: bool
    takes_batch: bool
    batch_size: int
    priority: int
    max_attempts: int
    backoff: timedelta
    backoff_ceiling: timedelta
    no_retry: tuple[type[BaseException], ...]
    timeout: timedelta | None
    on_cancel: Literal["rollback", "keep"]
    plan: Callable[[P], Sequence[Child]] | None
    key: Callable[[P], Any] | None
    limits: Limits
    typical_duration: timedelta
    keep_days: float | None
    internal: bool = False
    use_instead: str = ""
    on_failure: Callback[P] | None = None
    on_retry: Callback[P] | None = None
    unique: Unique | None = None
    # By their names; see `after_children`.
    resumes: dict[str, Callable[..., Any]] = field(default_factory=dict, compare=False)

    def after_children(self, function: Resume) -> Resume:
        """Decorates a function that goes on with a job of this kind, `return job.after_children(function)`, once the
        children have ended that its handler has added. It takes what a handler takes, and is async if that is.

        While jobs wait to go on with it, it must not be renamed: they have kept its name.
        """
        name: str = getattr(function, "__name__", "")
        what = f"The kind {self.name!r} cannot go on with {name or function!r} after its children: "
        check_function(self.name, function)
        if name in self.resumes and declared_at(self.resumes[name]) != declared_at(function):
            raise ValueError(f"{what}another function has that name.")
        if self.execution == "transactional" or len(name) > 100:
            raise ValueError(f"{what}give a leased kind, and a name of at most 100 characters.")
        if inspect.iscoroutinefunction(function) is not self.is_async:
            raise ValueError(f"{what}it must be async if, and only if, the handler is.")
        self.resumes[name] = function
        return function

    def __call__(self, *args: Call.args, **kwargs: Call.kwargs) -> R:
        """Calls the handler itself, as a unit test of it does."""
        return self.handler(*args, **kwargs)

    @cached_property
    def takes_payload(self) -> bool:
        """Whether the handler takes the payload besides the job."""
        return not self.takes_batch and _takes_two(self.handler)

    def called(self, function: Callable[..., Any], running: Any) -> Any:
        """What the handler, or another function of the kind, returns for a running job, with its payload if it takes
        one. Not for kinds that take batches.
        """
        takes_payload = self.takes_payload if function is self.handler else _takes_two(function)
        return function(running, running.payload) if takes_payload else function(running)

    @cached_property
    def is_async(self) -> bool:
        """Whether the handler is a coroutine function, which runs on its worker's event loop."""
        return inspect.iscoroutinefunction(self.handler)

    @property
    def description(self) -> str:
        return inspect.cleandoc(self.handler.__doc__ or "")

    def key_of(self, payload: P) -> str | None:
        """The concurrency key of a job with that payload; None if it has none. Raises BadConcurrencyKey."""
        try:
            value = None if self.key is None else self.key(payload)
        except Exception as error:
            raise BadConcurrencyKey(self.name, error) from error
        if value is None:
            return None
        if not (isinstance(value, str | int | UUID) and is_storable(text := str(value), at_most=MAX_KEY_CHARACTERS)):
            raise BadConcurrencyKey(self.name, value)
        return text

    def read_payload(self, payload: Any) -> P:
        """`payload` as the kind's payload type; raises BadPayload with a pointer to what does not match."""
        try:
            return self._converted(payload)
        except msgspec.ValidationError:
            try:
                return self._converted(with_integers(payload))
            except msgspec.ValidationError as error:
                raise BadPayload(error) from None

    def _converted(self, payload: Any) -> P:
        converted: P = msgspec.convert(payload, self.payload_type, strict=True)
        return converted

    def decode_payload(self, text: str) -> P:
        """A payload in JSON, as it is stored, as the kind's payload type; raises BadPayload likewise.

        Fields that only a newer release has are ignored.
        """
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError:
            try:
                return self._tolerant_decoder.decode(text)
            except msgspec.ValidationError as error:
                raise BadPayload(error) from None

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[P]:
        return msgspec.json.Decoder(self.payload_type)

    @cached_property
    def _tolerant_decoder(self) -> msgspec.json.Decoder[P]:
        if not (isinstance(self.payload_type, type) and issubclass(self.payload_type, msgspec.Struct)):
            return self._decoder
        bases = (self.payload_type,)
        return msgspec.json.Decoder(
            msgspec.defstruct(self.payload_type.__name__, [], bases=bases, forbid_unknown_fields=False)
        )

    @cached_property
    def payload_fields(self) -> tuple[str, ...] | None:
        """The names of the payload's fields; None if its type does not say."""
        return fields_of(self.payload_type)

    def payload_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the payload."""
        return msgspec.json.schema(self.payload_type)


def fields_of(payload_type: Any) -> tuple[str, ...] | None:
    """The names of the fields that a payload of the type has as JSON; None if the type does not say."""
    return getattr(payload_type, "__struct_encode_fields__", None)


def _takes_two(function: Callable[..., Any]) -> bool:
    return len(inspect.signature(function).parameters) > 1


def check_function(name: str, handler: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ValueError(f"The kind {name!r} needs a function that returns its result, not one that yields.")
    # The frame of a handler that hangs is found by its code.
    if not hasattr(inspect.unwrap(handler), "__code__"):
        raise ValueError(f"The kind {name!r} needs a function made by def, which may call {handler!r}.")


def declared_at(handler: Callable[..., Any]) -> tuple[str | None, str]:
    """Where the function is declared; the same after its module is loaded again."""
    code = inspect.unwrap(handler)
    return inspect.getsourcefile(code), code.__qualname__


def with_integers(value: Any) -> Any:
    """The JSON value with 6 for a number written 6.0, which is an integer in JSON Schema."""
    if type(value) is float and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER:
        return int(value)
    if type(value) is dict:
        return {key: with_integers(item) for key, item in value.items()}
    return [with_integers(item) for item in value] if type(value) is list else value


# Above it not every integer has a float of its own, so another integer may have been meant.
MAX_EXACT_INTEGER = 2**53
