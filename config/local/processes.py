"""The processes of `manage.py up`: those of the Procfile, with a worker for each queue."""

from collections.abc import Iterable
from pathlib import Path

from honcho.environ import parse_procfile

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"


def commands(queues: Iterable[str]) -> dict[str, str]:
    """The command of each process by its name; the Procfile's `worker` is `worker-<queue>` for each of the queues."""
    found: dict[str, str] = {}
    for name, command in parse_procfile(PROCFILE.read_text()).processes.items():
        if name == "worker":
            found |= {f"worker-{queue}": command.replace("$QUEUE", queue) for queue in queues}
        else:
            found[name] = command
    return found
