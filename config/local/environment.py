"""The environment of `manage.py up`, and of whatever is run beside it."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from config.environment_variables import use_new_names
from config.queues import declare_by_old_settings

BASE_DIR = Path(__file__).resolve().parents[2]

# What suits a stack that listens on this machine alone. Whoever sets one of these has the last word.
DEFAULTS = {
    "DATA_DIR": "data",
    "POSTGRES_PORT": "54320",
    "VALKEY_PORT": "63790",
    "REQUIRE_AUTH": "false",
    "ALLOW_UNAUTHENTICATED": "true",
    "SECURE_COOKIES": "false",
    "ORCHESTRATION_STEP_SECONDS": "1",
    "SHUTDOWN_GRACE_SECONDS": "5",
    # A killed worker is noticed soon, since people kill workers here to see what happens.
    "HEARTBEAT_SECONDS": "2",
    "LEASE_SECONDS": "8",
}

# What says which code is yours. A command beside the stack needs it as well.
OWN_CODE = ("EXTRA_APPS", "QUEUES", "DJANGO_SETTINGS_MODULE")


def set_environment(command: str | None = None) -> None:
    """Completes os.environ before the settings are read from it; what is set already is left alone."""
    use_new_names(os.environ)
    declare_by_old_settings(os.environ)
    if command in ("up", "demo"):
        _prepare()
    elif not {"SECRET_KEY", "SECRET_KEY_FILE", "DATABASE_URL", "DATABASE_URL_FILE"} & os.environ.keys():
        _adopt()


def data_dir() -> Path:
    return BASE_DIR / os.environ.get("DATA_DIR", DEFAULTS["DATA_DIR"])


def _prepare() -> None:
    """Completes the environment of a stack that is about to start."""
    from config.local.postgres import postgres_url
    from config.local.secret_files import kept_secret
    from config.local.valkey import valkey_url

    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    folder = data_dir()
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o711)  # PostgreSQL, another user when root starts it, must pass through.
    os.environ.setdefault("SECRET_KEY", kept_secret(folder / "secret_key"))
    os.environ.setdefault("DATABASE_URL", postgres_url(folder / "postgres", os.environ["POSTGRES_PORT"]))
    os.environ.setdefault("BROKER_URL", valkey_url(os.environ["VALKEY_PORT"]))


def write_environment() -> None:
    """Writes the environment of the stack that is starting down for what is run beside it."""
    path = data_dir() / "env"
    path.touch(mode=0o600)
    own_code = [name for name in OWN_CODE if name in os.environ]
    names = ("SECRET_KEY", "DATABASE_URL", "BROKER_URL", *DEFAULTS, *own_code)
    path.write_text("".join(f"{name}={shlex.quote(os.environ[name])}\n" for name in names))


def _adopt() -> None:
    """Takes over the environment that the last `up` wrote, if there was one."""
    with suppress(FileNotFoundError):
        for line in (data_dir() / "env").read_text().splitlines():
            name, _, value = shlex.split(line)[0].partition("=")
            os.environ.setdefault(name, value)
