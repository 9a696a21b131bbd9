"""Secrets that are made on first use and kept in files.

`python -m config.local.secret_files FOLDER` makes those of the compose file, in a folder for each that reads them;
what the environment gives has the last word.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

# Read by a server's own user, in a volume that only that server has.
READABLE, ENTERABLE = 0o644, 0o755


def main() -> None:
    make_all(Path(sys.argv[1]))


def make_all(folder: Path) -> None:
    app, roles, migrate, flower, postgres, valkey = (
        folder / name for name in ("app", "roles", "migrate", "flower", "postgres", "valkey")
    )
    given_or_kept(app / "secret_key", os.environ.get("SECRET_KEY"))
    # Neither signs anything for others, so each has a key that is worth nothing elsewhere.
    kept_secret(migrate / "secret_key")
    kept_secret(flower / "secret_key")
    superuser = given_or_kept(postgres / "postgres_password", os.environ.get("POSTGRES_PASSWORD"))
    given_or_kept(roles / "superuser_url", _postgres_url("muster", superuser))
    given = os.environ.get("DATABASE_URL")
    for user, path in {"muster_app": app, "muster_owner": migrate}.items():
        url = given or _postgres_url(user, kept_secret(roles / f"{user}_password"))
        given_or_kept(path / "database_url", url)
        given_or_kept(roles / f"{user}_url", url)
    password = kept_secret(valkey / "password")
    given_or_kept(valkey / "valkey.conf", f"requirepass {password}\n")
    (valkey / "valkey.conf").chmod(READABLE)
    valkey.chmod(ENTERABLE)
    for reader in (app, flower, migrate):
        given_or_kept(reader / "broker_url", f"redis://:{quote(password, safe='')}@valkey:6379/0")
    # Flower splits its list of them at commas, and each at its colon; a secret that is made has neither.
    given_or_kept(
        flower / "basic_auth", os.environ.get("FLOWER_BASIC_AUTH") or f"muster:{kept_secret(flower / 'password')}"
    )


def _postgres_url(user: str, password: str) -> str:
    return f"postgresql://{user}:{quote(password, safe='')}@postgres:5432/muster"


def given_or_kept(path: Path, given: str | None) -> str:
    """The secret that is given, which is kept from now on; else the one in the file."""
    if not given:
        return kept_secret(path)
    unfinished = unfinished_file(path, given)
    unfinished.replace(path)
    return given


def kept_secret(path: Path) -> str:
    """The secret in the file, which is made on first use and only its owner can read."""
    with suppress(FileNotFoundError):
        return path.read_text()
    unfinished = unfinished_file(path, secrets.token_urlsafe(48))
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        pass  # Another process was first: its secret is the one.
    finally:
        unfinished.unlink()
    return path.read_text()


def unfinished_file(path: Path, content: str) -> Path:
    """A file beside the path with that content, for its owner alone, to be moved into place as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    unfinished.touch(mode=0o600)
    unfinished.write_text(content)
    return unfinished


if __name__ == "__main__":
    main()
