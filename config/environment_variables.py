"""Reads what is set from outside of environment variables."""

import re
import warnings
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import get_type_hints

import msgspec
from django.core.exceptions import ImproperlyConfigured

from config.environment import Environment

# Their values may hold passwords, which belong in no log.
SECRET = ("SECRET_KEY", "DATABASE_URL", "BROKER_URL", "CACHE_URL", "FLOWER_BASIC_AUTH", "METRICS_TOKEN", "SENTRY_DSN")

# Old names, by which a setting can still be given for one release, and the new ones.
RENAMED = {"ALLOW_ANYONE": "ALLOW_UNAUTHENTICATED", "DEAF_SECONDS": "CONSUMER_STALL_SECONDS"}

# What msgspec says a variable should be, in plain words.
PLAIN_WORDS = {
    r"Expected `bool`, got `\w+`": "Expected true or false",
    r"Expected `int`, got `\w+`": "Expected a whole number",
    r"Expected `float`, got `\w+`": "Expected a number",
    r"Expected `(?:int|float)` ([<>]=?) ([\d.]+)": r"Expected a number \1 \2",
    r"Expected `str` of length >= (\d+)": r"Expected \1 characters or more",
    r"Expected `str` matching regex": "Expected text matching",
}


def exports_traces(variables: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables say that spans are exported."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporters := names_in(variables.get("OTEL_TRACES_EXPORTER", "")):
        return "otlp" in exporters
    return any(variables.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT"))


def names_in(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def use_new_names(variables: MutableMapping[str, str]) -> None:
    """Moves the values of renamed settings to their new names, with a warning; a new name that is set wins."""
    for old, new in RENAMED.items():
        for suffix in ("", "_FILE"):
            if f"{old}{suffix}" in variables:
                value = variables.pop(f"{old}{suffix}")
                variables.setdefault(f"{new}{suffix}", value)
                warnings.warn(
                    f"The setting {old}{suffix} is now {new}{suffix}; the old name stops working in the next release.",
                    FutureWarning,
                    stacklevel=2,
                )


def read_environment(variables: dict[str, str]) -> Environment:
    """The settings in `variables`, converted and checked. NAME_FILE names a file with the value instead, as secrets
    are often handed to containers.

    Raises ImproperlyConfigured with the variable's name and what would be right.
    """
    given = {}
    for name in Environment.__struct_fields__:
        if name in variables:
            given[name] = variables[name]
        elif path := variables.get(f"{name}_FILE"):
            given[name] = _content(name, Path(path))
    try:
        return msgspec.convert(given, Environment, strict=False)
    except msgspec.ValidationError as error:
        raise ImproperlyConfigured(_in_words(error, given)) from None


def _content(name: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(
            f"{name}_FILE must name a file with the value of {name}; {path} cannot be read: {error}."
        ) from None


def _in_words(error: msgspec.ValidationError, given: dict[str, str]) -> str:
    """The error as a sentence, with the setting's description."""
    detail, _, _ = str(error).partition(" - at `")
    name = re.findall(r"`(?:\$\.)?([A-Z_]+)`", str(error))[-1]
    meaning = get_type_hints(Environment, include_extras=True)[name].__metadata__[-1].description
    if name not in given:
        return f"{name} is not set. {meaning}"
    for theirs, plain in PLAIN_WORDS.items():
        detail = re.sub(theirs, plain, detail)
    value = "" if name in SECRET else f" {given[name]!r}"
    return f"{name}{value} is not valid: {detail}. {meaning}"
