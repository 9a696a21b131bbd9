"""The queues of jobs, each with the pool and the size of its worker, as the setting QUEUES declares them."""

import re
import warnings
from collections.abc import MutableMapping
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from config.environment import CONTROL_QUEUE, DEFAULT_QUEUES
from config.environment_variables import names_in

# The pools that a queue may have, each with its maximum size.
MAX_SIZE = {"prefork": 512, "threads": 4_096}
LIMITS = ("max_tasks_per_child", "max_memory_per_child")
MAX_LIMIT = 2_147_483_647
MAX_QUEUES = 100
NAME = r"[A-Za-z0-9_.-]{1,50}"

# Settings of the release before that give the size of a queue's pool.
OLD_SIZES = {"default": "WORKER_PROCESSES", "io": "WORKER_THREADS"}
# The pools that queues had when QUEUES gave their names alone; any other had processes.
OLD_POOLS = {"default": ("prefork", "2"), "io": ("threads", "32")}


class Queue(NamedTuple):
    """A declared queue.

    pool: how its workers run jobs: "prefork" in processes, "threads" in threads; "solo" that of `control`.
    size: how many processes or threads each of its workers has.
    max_tasks_per_child: a process is replaced after so many jobs.
    max_memory_per_child: a process is replaced once it has taken more than so many kB of memory.
    """

    name: str
    pool: str
    size: int
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None


CONTROL = Queue(CONTROL_QUEUE, "solo", 1)


def declared_queues(text: str) -> dict[str, Queue]:
    """The queues that a value of QUEUES declares, by their names in its order.

    Raises ImproperlyConfigured with the entry that is not valid, and what would be right.
    """
    entries = names_in(text)
    if not 1 <= len(entries) <= MAX_QUEUES:
        raise ImproperlyConfigured(
            f"QUEUES {text!r} is not valid: declare 1 to {MAX_QUEUES} queues as name:pool:size, separated by commas, "
            f"such as {DEFAULT_QUEUES}."
        )
    queues: dict[str, Queue] = {}
    for entry in entries:
        queue = _declared(entry)
        if queue.name in queues:
            raise _invalid(entry, f"{queue.name} is declared twice")
        queues[queue.name] = queue
    return queues


def _declared(entry: str) -> Queue:
    name, _, rest = entry.partition(":")
    pool, _, rest = rest.partition(":")
    size, *limits = rest.split(":")
    if name == CONTROL_QUEUE:
        raise _invalid(entry, f"{CONTROL_QUEUE} is reserved")
    if not re.fullmatch(NAME, name):
        raise _invalid(entry, "a name has 1 to 50 letters, digits, dots, underscores and hyphens")
    if pool not in MAX_SIZE:
        raise _invalid(entry, "after the name comes the pool, prefork (processes, to compute) or threads (to wait)")
    processes_or_threads = _number(entry, f"the size of a {pool} pool", size, MAX_SIZE[pool])
    return Queue(name, pool, processes_or_threads, **_limits(entry, pool, limits))


def _limits(entry: str, pool: str, texts: list[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in LIMITS or name in limits:
            raise _invalid(entry, f"after the size may come {' and '.join(f'{each}=…' for each in LIMITS)}, each once")
        if pool != "prefork":
            raise _invalid(entry, f"{name} is for the processes of a prefork pool")
        limits[name] = _number(entry, name, value, MAX_LIMIT)
    return limits


def _number(entry: str, what: str, text: str, maximum: int) -> int:
    if not (re.fullmatch(r"[0-9]{1,10}", text) and 1 <= int(text) <= maximum):
        raise _invalid(entry, f"{what} is a whole number from 1 to {maximum:,}, not {text!r}")
    return int(text)


def _invalid(entry: str, why: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"QUEUES is not valid at {entry!r}: {why}. A queue is declared as name:pool:size, such as {DEFAULT_QUEUES}."
    )


def declare_by_old_settings(variables: MutableMapping[str, str]) -> None:
    """Replaces names without pools in QUEUES, WORKER_PROCESSES and WORKER_THREADS by what QUEUES says of them now, and
    warns. A size in QUEUES wins.
    """
    sizes = {name: variables.pop(setting, "") for name, setting in OLD_SIZES.items()}
    given = names_in(variables.get("QUEUES", ",".join(OLD_POOLS) if any(sizes.values()) else ""))
    if not (any(sizes.values()) or any(":" not in entry for entry in given)):
        return
    variables["QUEUES"] = ",".join(entry if ":" in entry else _with_pool(entry, sizes) for entry in given)
    warnings.warn(
        f"{', '.join(OLD_SIZES.values())} and names without pools in QUEUES stop working in the next release: "
        f"set QUEUES={variables['QUEUES']} instead.",
        FutureWarning,
        stacklevel=2,
    )


def _with_pool(name: str, sizes: dict[str, str]) -> str:
    pool, size = OLD_POOLS.get(name, OLD_POOLS["default"])
    given = sizes.get(name if name in OLD_POOLS else "default")
    return f"{name}:{pool}:{given or size}"
