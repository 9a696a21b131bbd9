"""Secrets that are made on first use and kept in files.

`python -m config.kept_secrets FOLDER` makes those of the compose file; what the environment gives has the last word.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote


def main() -> None:
    folder = Path(sys.argv[1])
    given_or_kept(folder / "secret_key", os.environ.get("SECRET_KEY"))
    password = given_or_kept(folder / "postgres_password", os.environ.get("POSTGRES_PASSWORD"))
    url = os.environ.get("DATABASE_URL") or f"postgresql://muster:{quote(password, safe='')}@postgres:5432/muster"
    given_or_kept(folder / "database_url", url)


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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    unfinished.touch(mode=0o600)
    unfinished.write_text(content)
    return unfinished


if __name__ == "__main__":
    main()
