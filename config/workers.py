"""Runs the workers of all queues but those named: `python -m config.workers default io`.

For the container of the queues that have none of their own. When a worker ends, the others are stopped, and so does
this program, so that the container is started again. Without such queues it waits until it is stopped.
"""

import signal
import subprocess
import sys
from collections.abc import Container, Sequence

from config.settings import QUEUES

STOP = (signal.SIGTERM, signal.SIGINT)
AWAITED = (*STOP, signal.SIGCHLD)


def main() -> None:
    sys.exit(run([command(queue) for queue in queues_but(sys.argv[1:])]))


def queues_but(elsewhere: Container[str]) -> list[str]:
    """The declared queues that are not served elsewhere."""
    return [name for name in QUEUES if name not in elsewhere]


def command(queue: str) -> list[str]:
    worker = [sys.executable, "-m", "config", "worker", "-n", f"{queue}@%h", "-Q", queue]
    return [*worker, "--without-mingle", "--without-gossip"]


def run(commands: Sequence[Sequence[str]]) -> int:
    """Runs them until SIGTERM, or until one ends; returns the exit code of that one."""
    # Waited for, not handled: a handler could come just before the wait, which then would not end.
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    workers = [subprocess.Popen(words, preexec_fn=_unblock) for words in commands]
    code = _wait(workers)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait()
    return code


def _unblock() -> None:
    """In the worker's process: it would inherit what is blocked here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    while signal.sigwait(AWAITED) not in STOP:
        for worker in workers:
            if (code := worker.poll()) is not None:
                return code
    return 0


if __name__ == "__main__":
    main()
