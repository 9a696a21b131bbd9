"""References: `{"$from": "extract.rows.0"}` in a step's payload stands for a part of an earlier step's result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

FROM, DEFAULT, LITERAL = "$from", "default", "$literal"
MAX_PATH = 20


class BadReference(ValueError):
    """What looks like a reference is none."""

    def __init__(self, pointer: str, detail: str) -> None:
        self.pointer = pointer
        super().__init__(detail)


class MissingValue(LookupError):
    """A result has nothing at the path of a reference."""


class Reference(NamedTuple):
    """A step's name, and the keys and indexes that lead to the value in its result."""

    step: str
    path: tuple[str | int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, (self.step, *self.path)))


def parsed(given: Any, pointer: str) -> Reference:
    """What stands after `$from`: "step.key.0", or a list of the same for names and keys that contain dots."""
    parts = given.split(".") if isinstance(given, str) else given
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PATH:
        raise BadReference(pointer, f'Name a step and the keys to a value, as "extract.rows.0", not {given!r:.100}.')
    name, *path = parts
    if not isinstance(name, str) or not all(type(key) in (str, int) and key != "" for key in parts):
        raise BadReference(pointer, f"A step's name and its keys must be texts or whole numbers, not {given!r:.100}.")
    return Reference(name, tuple(path))


def is_reference(value: dict[str, Any], pointer: str) -> bool:
    """Raises BadReference for an object that has more than a reference may have."""
    if FROM not in value:
        return False
    if value.keys() <= {FROM, DEFAULT}:
        return True
    more = next(key for key in value if key not in (FROM, DEFAULT))
    raise BadReference(
        pointer,
        f'Beside "{FROM}" only "{DEFAULT}" is allowed, not {more!r:.100}; an object that really has such a key is '
        f'written {{"{LITERAL}": {{…}}}}.',
    )


def is_literal(value: dict[str, Any]) -> bool:
    return value.keys() == {LITERAL}


def found(value: Any, pointer: str = "") -> Iterator[tuple[str, Reference]]:
    """The references in a payload, each with its JSON pointer. Raises BadReference."""
    if isinstance(value, dict):
        if is_literal(value):
            return
        if is_reference(value, pointer):
            yield pointer, parsed(value[FROM], f"{pointer}/{FROM}")
            return
        for key, item in value.items():
            yield from found(item, f"{pointer}/{escaped(key)}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from found(item, f"{pointer}/{position}")


def is_plain(value: Any) -> bool:
    """Whether it is what it says: without references, and without literals that stand for something else."""
    if isinstance(value, dict):
        return FROM not in value and not is_literal(value) and all(map(is_plain, value.values()))
    return all(map(is_plain, value)) if isinstance(value, list) else True


def resolved(value: Any, results: Mapping[str, Any]) -> Any:
    """The value with what its references stand for. Raises MissingValue."""
    if isinstance(value, dict):
        if is_literal(value):
            return value[LITERAL]
        if is_reference(value, ""):
            return looked_up(value, results)
        return {key: resolved(item, results) for key, item in value.items()}
    return [resolved(item, results) for item in value] if isinstance(value, list) else value


def looked_up(value: Mapping[str, Any], results: Mapping[str, Any]) -> Any:
    """What a reference stands for. Raises MissingValue where it has no default."""
    reference = parsed(value[FROM], "")
    try:
        return at(reference, results)
    except MissingValue:
        if DEFAULT in value:
            return value[DEFAULT]
        raise


def at(reference: Reference, results: Mapping[str, Any]) -> Any:
    """Raises MissingValue, which says how far the path leads."""
    if reference.step not in results:
        raise MissingValue(f"{reference}: there is no result of {reference.step!r}.")
    value, so_far = results[reference.step], reference.step
    for key in reference.path:
        try:
            value = _inside(value, key)
        except (LookupError, TypeError, ValueError):
            raise MissingValue(f"{reference}: {so_far} is {described(value)}, which has no {key!r}.") from None
        so_far = f"{so_far}.{key}"
    return value


def _inside(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value[str(key)]
    if isinstance(value, list):
        place = int(key)
        if place >= 0:
            return value[place]
    raise LookupError


def described(value: Any) -> str:
    if isinstance(value, dict):
        keys = ", ".join(map(repr, list(value)[:5]))
        return f"an object with {keys or 'no keys'}{' …' if len(value) > 5 else ''}"
    return f"a list of {len(value):,}" if isinstance(value, list) else f"{value!r:.60}"


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
