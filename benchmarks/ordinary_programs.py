"""The programs that run ordinary jobs in the benchmark `ordinary`, each set up as its own documentation has it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.servers import WORKER_PROCESSES

# Jobs that run at once: on threads, or as coroutines, of one process or shared out among two.
CONCURRENCY = 32
EACH = CONCURRENCY // WORKER_PROCESSES
MUSTER = "benchmarks.kinds.submit"
ON_THREADS, ON_PROCESSES = "Muster, leased on threads", "Muster, leased on processes"
ASYNC = "Muster, async, 1,000 at once"


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that runs jobs, and how it is set up."""

    name: str
    # What submits jobs, as benchmarks/ordinary_jobs.py has it.
    module: str
    workers: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    # How many jobs it has noted as completed; "" if it notes none.
    completed: str = ""
    # Its jobs, which are forgotten before the next measurement.
    table: str = ""
    takes_many: bool = False
    has_schema: bool = False
    # In how many processes its handlers run.
    processes: int = WORKER_PROCESSES

    def program(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", self.module, *arguments]


def by_muster(name: str, kind: str, worker: str, **settings: str) -> Program:
    return Program(
        name=name,
        module=MUSTER,
        workers=dict.fromkeys((worker, "control", "beat"), ""),  # As in the Procfile.
        settings={"KIND": kind, **settings},
        completed="SELECT count(*) FROM orchestrator_job WHERE status = 'COMPLETED' AND attempt = 1",
        table="orchestrator_job",
        takes_many=True,
        processes=1 if worker == "worker-io" else WORKER_PROCESSES,
    )


def by_celery(name: str, tracking: str, pool: str) -> Program:
    with_results = tracking == "results"
    return Program(
        name=f"Celery, {pool}, {name}",
        module="benchmarks.baselines.celery_jobs",
        workers={
            "worker": f"exec celery -q -A benchmarks.baselines.celery_jobs worker -P {pool}"
            f" -c {CONCURRENCY if pool == 'threads' else WORKER_PROCESSES}"
            " --without-mingle --without-gossip -l WARNING"
        },
        settings={"TRACKING": tracking, **(django("django_celery_results") if with_results else {})},
        completed="SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'"
        if with_results
        else "",
        table="django_celery_results_taskresult" if with_results else "",
        takes_many=True,
        has_schema=with_results,
        processes=1 if pool == "threads" else WORKER_PROCESSES,
    )


def django(app: str) -> dict[str, str]:
    return {"DJANGO_SETTINGS_MODULE": "benchmarks.baselines.django_settings", "APP": app}


def twice(command: str) -> dict[str, str]:
    """As many processes as Muster's prefork has."""
    return {f"worker-{number}": f"exec python -m {command}" for number in range(WORKER_PROCESSES)}


CELERY_TRACKING = {"untracked": "none", "acks_late": "acks_late", "results in the database": "results"}
PROGRAMS = (
    by_muster(ON_THREADS, "bench.threads", "worker-io"),
    by_muster(ON_PROCESSES, "bench.prefork", "worker-default"),
    by_muster(ASYNC, "bench.async", "worker-io"),
    by_muster(
        "Muster, async, as many at once as the others", "bench.async", "worker-io", ASYNC_SLOTS=str(CONCURRENCY)
    ),
    by_muster("Muster, transactional", "bench.transactional", "worker-default"),
    *(
        by_celery(name, tracking, pool)
        for pool in ("threads", "prefork")
        for name, tracking in CELERY_TRACKING.items()
    ),
    Program(
        name="procrastinate",
        module="benchmarks.baselines.procrastinate_jobs",
        workers=twice(f"benchmarks.baselines.procrastinate_jobs work {EACH}"),
        completed="SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
        table="procrastinate_jobs",
        takes_many=True,
        has_schema=True,
    ),
    Program(
        name="pgqueuer",
        module="benchmarks.baselines.pgqueuer_jobs",
        # It wants to run twice as many as it takes at once.
        workers=twice(
            "pgqueuer run benchmarks.baselines.pgqueuer_jobs:worker"
            f" --batch-size {EACH} --max-concurrent-tasks {2 * EACH} --log-level WARNING"
        ),
        completed="SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
        table="pgqueuer_log",
        takes_many=True,
        has_schema=True,
    ),
    Program(
        name="django-tasks-db",
        module="benchmarks.baselines.django_tasks_jobs",
        # It looks ten times as often as by default, since it is not woken.
        workers=twice("django db_worker --interval 0.1 --no-startup-delay --verbosity 0"),
        settings=django("django_tasks_db"),
        completed="SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status = 'SUCCESSFUL'",
        table="django_tasks_database_dbtaskresult",
        takes_many=True,
        has_schema=True,
    ),
    Program(
        name="dramatiq",
        module="benchmarks.baselines.dramatiq_jobs",
        workers={
            "worker": f"exec python -m dramatiq benchmarks.baselines.dramatiq_jobs -p {WORKER_PROCESSES} -t {EACH}"
        },
    ),
    Program(
        name="huey, threads",
        module="benchmarks.baselines.huey_jobs",
        workers={
            "worker": "exec python -m huey.bin.huey_consumer benchmarks.baselines.huey_jobs.huey"
            f" -k thread -w {CONCURRENCY} --no-periodic -q"
        },
        processes=1,
    ),
    Program(
        name="huey, processes",
        module="benchmarks.baselines.huey_jobs",
        workers={
            "worker": "exec python -m huey.bin.huey_consumer benchmarks.baselines.huey_jobs.huey"
            f" -k process -w {WORKER_PROCESSES} --no-periodic -q"
        },
    ),
)
