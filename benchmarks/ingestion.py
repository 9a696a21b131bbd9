"""How fast one io worker stores validated records with the outside call off, next to a bare COPY of the same rows.

    python benchmarks/ingestion.py [--records 20000] [--rounds 5] [--threads 8]

It starts a PostgreSQL of its own, which syncs to disk as in production. Both are timed in turn within one run, and the
ratio is what counts: this machine may be busy with other things. The COPY goes into a table with the same columns,
constraints and indexes, of rows that are ready in memory: in one transaction, and in one for every 100 rows, as the
ingestion commits them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BASE_DIR))

from config.embedded import Postgres, Valkey, free_port  # noqa: E402 The path comes first.

COLUMNS = (
    "owner", "student_id", "first_name", "last_name", "email", "grade", "phone", "section", "roll_number", "address",
    "city", "state", "postal_code", "country", "date_of_birth", "ingestion_id",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=8)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
    folder.chmod(0o711)
    postgres, valkey = Postgres(folder / "postgres", free_port()), Valkey(folder / "valkey", free_port())
    try:
        postgres.start()
        valkey.start()
        prepare(postgres.url, valkey.url)
        compare(asked.records, asked.rounds, asked.threads)
    finally:
        valkey.stop()
        postgres.stop()
        postgres.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def prepare(database_url: str, broker_url: str) -> None:
    os.environ.update(
        SECRET_KEY="only-for-benchmarks-0123456789-abcdefghijklmnopqrstuv",
        DATABASE_URL=database_url,
        BROKER_URL=broker_url,
        REQUIRE_AUTH="false",
        ALLOW_ANYONE="true",
        SECURE_COOKIES="false",
        INGESTION_EXTERNAL_CALL_SECONDS="0",
        LOG_LEVEL="WARNING",
        DJANGO_SETTINGS_MODULE="config.settings",
    )
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bare (LIKE ingestion_record INCLUDING ALL)")


def compare(records: int, rounds: int, threads: int) -> None:
    ratios, step_ratios, speeds = [], [], []
    for number in range(rounds):
        students = [student(number, index) for index in range(records)]
        at_once, in_steps = records / copy(students, records), records / copy(students, 100)
        stored = records / ingest(students, threads)
        ratios.append(stored / at_once)
        step_ratios.append(stored / in_steps)
        speeds.append(stored)
        print(f"COPY {at_once:>9,.0f}/s   COPY by 100s {in_steps:>9,.0f}/s   ingestion {stored:>9,.0f}/s")
    print(
        f"median: {statistics.median(speeds):,.0f} records/s; {statistics.median(ratios):.2f} of the COPY, "
        f"{statistics.median(step_ratios):.2f} of the COPY in transactions of 100"
    )


def student(number: int, index: int) -> dict[str, Any]:
    return {
        "student_id": f"S-{number}-{index:07}",
        "first_name": "Asha",
        "last_name": "Rao",
        "email": f"asha.rao.{index}@example.org",
        "grade": str(index % 12 + 1),
        "phone": "+91 22 5550 100",
        "section": "B",
        "roll_number": str(index),
        "address": "1 Hill Road, Bandra West",
        "city": "Mumbai",
        "state": "Maharashtra",
        "postal_code": "400050",
        "country": "India",
        "date_of_birth": "2015-06-30",
    }


def copy(students: list[dict[str, Any]], size: int) -> float:
    """Seconds that a bare COPY takes, in transactions of that size. The rows are gone after that."""
    from django.db import connection, transaction

    rows = ["\t".join(("", *each.values(), "1")) + "\n" for each in students]
    transactions = [StringIO("".join(rows[first : first + size])) for first in range(0, len(rows), size)]
    began_at = time.perf_counter()
    for each in transactions:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.cursor.copy_from(each, "bare", columns=COLUMNS)
    took = time.perf_counter() - began_at
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE bare")
    return took


def ingest(students: list[dict[str, Any]], threads: int) -> float:
    """Seconds from when a worker with so many threads begins until it has stored all that was accepted before."""
    from ingestion import services
    from ingestion.models import Record
    from orchestrator.workers import WorkerProcess

    for first in range(0, len(students), 1_000):
        services.accept(students[first : first + 1_000])
    before = Record.objects.count()
    process = WorkerProcess("bench@here", ["io"]).start()
    assert process.registered.wait(10)
    workers = [threading.Thread(target=work, args=[process]) for _ in range(threads)]
    began_at = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began_at
    process.end()
    assert Record.objects.count() - before == len(students)
    return took


def work(process: Any) -> None:
    """As an answered bell does."""
    from django.db import connection

    from ingestion import services
    from orchestrator import engine
    from orchestrator.kinds import kind_named

    try:
        while engine.run_leased(kind_named(services.KIND), process, ""):
            pass
    finally:
        connection.close()


if __name__ == "__main__":
    main()
