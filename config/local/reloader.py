"""Restarts the processes of `manage.py up` when Python code changes, once the new code can be loaded."""

import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from watchfiles import Change, DefaultFilter, watch

from config.local.supervisor import Supervisor

# Changes are gathered until there was none for so long, so that a burst of saves makes one reload.
QUIET_MILLISECONDS = 200
MAX_GATHER_MILLISECONDS = 2_000
# Imports what any process does, and says in short what is wrong with it.
LOAD = (sys.executable, "-m", "config.load_code")
LOAD_SECONDS = 60
MAX_NAMED = 3


class PythonSource(DefaultFilter):
    """Python files outside of virtual environments and caches."""

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(".py") and super().__call__(change, path)


class Reloader:
    """Watches folders. As long as code in them cannot be loaded the processes keep running the code from before."""

    def __init__(
        self,
        folders: Sequence[Path],
        supervisor: Supervisor,
        names: Collection[str],
        *,
        load: Sequence[str] = LOAD,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
    ) -> None:
        """names: of the processes to restart. load: a command that fails if the code cannot be loaded."""
        self._folders = folders
        self._supervisor = supervisor
        self._names = names
        self._load = load
        self._environment = environment
        self._working_directory = working_directory or Path.cwd()
        # The last reason why the code could not be loaded; it is shown once, however often the file is saved.
        self._shown = ""

    def run(self) -> None:
        """Returns when the supervisor stops."""
        try:
            for changes in watch(
                *self._folders,
                watch_filter=PythonSource(),
                step=QUIET_MILLISECONDS,
                debounce=MAX_GATHER_MILLISECONDS,
                stop_event=self._supervisor.stopping,
                raise_interrupt=False,
            ):
                self.reload(sorted({Path(path) for _, path in changes}))
        # Such as a limit of the system on how many folders are watched.
        except Exception as error:
            self._supervisor.say(f"code changes are not noticed any more, so nothing reloads: {error}")

    def reload(self, changed: Sequence[Path]) -> None:
        """Restarts the processes, unless the code cannot be loaded: then it says why."""
        names = self._named(changed)
        if error := self._loading_error():
            if error != self._shown:
                self._supervisor.say(f"{names} changed, but the code cannot be loaded; the old code keeps running:")
                for line in error.splitlines():
                    self._supervisor.say(line)
            self._shown = error
            return
        self._shown = ""
        self._supervisor.say(f"{names} changed; reloading")
        self._supervisor.restart(self._names)

    def _loading_error(self) -> str:
        """What is wrong with the code; empty if it can be loaded."""
        try:
            ended = subprocess.run(
                self._load,
                env=self._environment,
                cwd=self._working_directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"Importing it takes longer than {LOAD_SECONDS} s."
        return "" if ended.returncode == 0 else ended.stderr.strip() or f"Importing it ended with {ended.returncode}."

    def _named(self, paths: Sequence[Path]) -> str:
        """The first files by their paths within the folder that holds the one that is watched."""
        parents = [folder.parent for folder in self._folders]
        shown = [str(next((path.relative_to(p) for p in parents if path.is_relative_to(p)), path)) for path in paths]
        more = len(shown) - MAX_NAMED
        return ", ".join(shown[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
