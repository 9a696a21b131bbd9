"""What has to hold after every run, whatever was done to it: each is one small function that tells what broke it."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import psutil

from orchestrator.host import process_started
from tests.chaos.ledger import Entry
from tests.chaos.run import Run

FINAL = ("COMPLETED", "FAILED", "CANCELLED")
# Outcomes that use up no attempt.
FREE_OUTCOMES = ("INTERRUPTED", "UNAVAILABLE")
# What a handler here raises when it was meant to.
MEANT_ERRORS = ("Hopeless:", "NotYet:")
# What time.sleep raises now and then where libfaketime gives a process another clock: it passes on a negative time.
# Only processes of that fault have one.
FAKED_SLEEP, FAKED = "OSError: [Errno 22] Invalid argument", "-extra-"
# How the kinds begin whose jobs add up what their children return.
SUMS = ("tests.family", "tests.spread")
# How those begin whose handlers do not end in time.
ENDLESS = ("tests.overdue", "tests.hang")

# Requests may fail while one of these is hurt, which lasts until it answers again, and for a moment after.
EXCUSED = ("web", "database")
EXCUSED_SECONDS = 2
SUBMISSION_P99_SECONDS = 1.5
# Of the recovery after kills, and after a broker came back.
RECOVERY_MEDIANS = {"kill": 20, "broker": 3}
# Fewer say nothing about a percentile.
MIN_SUBMISSIONS, MIN_RECOVERIES = 100, 5
# What is still under way when the last job has ended is done by then.
TIDY_SECONDS = 20

JOB_COLUMNS = (
    "id", "kind", "status", "attempt", "max_attempts", "payload", "result", "error", "parent_id", "name", "worker_id",
    "ready", "unwinding", "unfinished_dependencies", "progress_done", "cancel_requested_at", "created_at",
    "started_at", "finished_at", "worker_name", "unique_key", "unique_until", "owner",
)  # fmt: skip


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold, and the job it does not hold for, if it is about one."""

    invariant: str
    text: str
    job_id: str = ""


class GraphStep(NamedTuple):
    """What a job is in a graph. undoes: the id of what it compensates."""

    outcome: str
    undoes: str | None
    can_be_undone: bool

    @property
    def is_passed(self) -> bool:
        """It has failed, or was cancelled as a compensation, and counts as done."""
        return self.outcome == "PASSED"


@dataclass
class Books:
    """Everything that was written down, by the system and outside it."""

    run: Run
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    effects: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    outside: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    children: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    steps: dict[str, GraphStep] = field(default_factory=dict)

    def __post_init__(self) -> None:
        query = self.run.world.query
        columns = ", ".join(
            f"{name}::text" if name in ("id", "parent_id", "unique_key") else name for name in JOB_COLUMNS
        )
        for row in query(f"SELECT {columns} FROM orchestrator_job WHERE created_at >= %s", self.run.began_at):
            job = dict(zip(JOB_COLUMNS, row, strict=True))
            self.jobs[job["id"]] = job
            if job["parent_id"]:
                self.children[job["parent_id"]].append(job)
        for job_id, *rest in query(
            "SELECT job_id::text, number, outcome, error, worker_name, started_at, ended_at FROM orchestrator_attempt"
            " ORDER BY id"
        ):
            names = ("number", "outcome", "error", "worker_name", "started_at", "ended_at")
            self.attempts[job_id].append(dict(zip(names, rest, strict=True)))
        for job_id, attempt, number in query(
            "SELECT job_id::text, attempt, number FROM kinds_effect WHERE id > %s ORDER BY id", self.run.first_effect
        ):
            self.effects[job_id].append((attempt, number))
        for job_id, outcome, undoes, can_be_undone in query(
            "SELECT job_id::text, outcome, compensates::text, compensate IS NOT NULL AND each IS NULL AND outcome = ''"
            " FROM orchestrator_step"
        ):
            if job_id in self.jobs:
                self.steps[job_id] = GraphStep(outcome, undoes, can_be_undone)
        with self.run.world.outside.open() as lines:
            lines.seek(self.run.outside_from)
            for line in lines:
                entry = json.loads(line)
                self.outside[entry["key"]].append(entry)

    def accepted(self, what: str) -> list[Entry]:
        return [entry for entry in self.run.ledger.entries("accepted") if entry["what"] == what]

    def counted_attempts(self, job_id: str) -> int:
        return sum(attempt["outcome"] not in FREE_OUTCOMES for attempt in self.attempts[job_id])


Invariant = Callable[[Books], Iterator[tuple[str, str]]]
INVARIANTS: list[Invariant] = []


def invariant(function: Invariant) -> Invariant:
    """Makes a function one of the invariants. It yields what breaks it, with the id of the job concerned or ""."""
    INVARIANTS.append(function)
    return function


def violations(books: Books) -> list[Violation]:
    return [
        Violation(check.__name__.replace("_", " "), text, job_id)
        for check in INVARIANTS
        for text, job_id in check(books)
    ]


# What was accepted.


@invariant
def every_accepted_job_is_in_a_final_state(books: Books) -> Iterator[tuple[str, str]]:
    for entry in books.accepted("job") + books.accepted("ingestion"):
        job = books.jobs.get(entry["id"])
        if job is None:
            yield "It was accepted and is not there.", entry["id"]
    for job in books.jobs.values():
        if job["status"] not in FINAL:
            yield f"It is {job['status']} for good.", job["id"]


@invariant
def nothing_was_accepted_twice(books: Books) -> Iterator[tuple[str, str]]:
    known = {entry["id"] for entry in books.accepted("job") + books.accepted("ingestion")}
    tasks = {entry["id"] for entry in books.accepted("task")}
    schedules = {entry["id"] for entry in books.accepted("schedule")}
    for task_id, job_id, schedule_id in books.run.world.query(
        "SELECT id::text, job_id::text, schedule_id::text FROM scheduler_task WHERE created_at >= %s",
        books.run.began_at,
    ):
        if task_id in tasks or schedule_id in schedules:
            known.add(job_id)
        else:
            yield f"The task {task_id} is nobody's.", job_id
    for job in books.jobs.values():
        if not job["parent_id"] and job["id"] not in known:
            yield "It was submitted once more than it was accepted.", job["id"]


@invariant
def nothing_was_refused_or_surprising(books: Books) -> Iterator[tuple[str, str]]:
    for entry in books.run.ledger.entries("refused", "unanswered", "surprise"):
        yield json.dumps(entry), ""


# Effects.


@invariant
def every_database_effect_is_there_exactly_once(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        expected = expected_effects(job, books)
        found = books.effects.get(job["id"], [])
        if Counter(number for _, number in found) != Counter(expected):
            yield f"{job['status']}, it left {found} instead of {expected}.", job["id"]
    for job_id in books.effects.keys() - books.jobs.keys():
        yield "There are effects of a job that is not there.", job_id


def expected_effects(job: dict[str, Any], books: Books) -> list[int]:
    """The numbers of the rows that the job has to have left."""
    completed, payload = job["status"] == "COMPLETED", job["payload"]
    if job["kind"] == "tests.steps":
        return list(range(payload["steps"] if completed else job["progress_done"] or 0))
    if job["kind"] == "tests.tell":
        return []
    if job["kind"].startswith(SUMS):
        return [sum(payload["numbers"])] if completed else []
    if job["kind"].startswith("tests.") and completed:
        return [payload.get("number", 0)]
    return []


@invariant
def what_is_left_was_written_by_the_attempt_that_completed_the_job(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        if job["status"] == "COMPLETED" and job["kind"] != "tests.steps":
            for attempt, _ in books.effects.get(job["id"], []):
                if attempt != job["attempt"]:
                    yield f"Attempt {attempt} wrote it, and attempt {job['attempt']} is the last.", job["id"]


@invariant
def what_was_completed_was_told_the_outside_world(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        if job["status"] == "COMPLETED" and job["kind"].startswith(("tests.effect", "tests.tell")):
            told = {entry["attempt"] for entry in books.outside.get(job["id"], []) if entry["event"] == "done"}
            if job["attempt"] not in told:
                yield f"Attempt {job['attempt']} completed it and told nobody; told were {sorted(told)}.", job["id"]


# Ends.


@invariant
def every_job_ends_as_it_was_meant_to(books: Books) -> Iterator[tuple[str, str]]:
    cancelled = {entry["id"] for entry in books.run.ledger.entries("cancelled")}
    for entry in books.accepted("job"):
        job = books.jobs.get(entry["id"])
        if job is None or job["status"] not in FINAL:
            continue
        allowed = {"COMPLETED", "FAILED"} if entry["meant"] == "EITHER" else {entry["meant"]}
        if entry["id"] in cancelled:
            allowed.add("CANCELLED")
        if job["status"] == "FAILED":
            continue  # Whether it may is the next invariant.
        if job["status"] not in allowed:
            yield f"It is {job['status']} and was meant to be {entry['meant']}.", job["id"]


@invariant
def nothing_failed_before_its_attempts_were_used_up(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        if job["status"] != "FAILED" or any(child["status"] == "FAILED" for child in books.children[job["id"]]):
            continue
        attempts = books.attempts[job["id"]]
        if attempts and attempts[-1]["error"].startswith("Hopeless:"):
            continue
        free = len(attempts) - books.counted_attempts(job["id"])
        if books.counted_attempts(job["id"]) < job["max_attempts"] - free:
            yield f"It failed after {books.counted_attempts(job['id'])} attempts: {job['error']}", job["id"]


@invariant
def no_attempt_failed_but_by_being_meant_to_or_by_a_crash(books: Books) -> Iterator[tuple[str, str]]:
    for job_id in books.jobs:
        for attempt in books.attempts.get(job_id, []):
            meant = attempt["outcome"] != "RAISED" or attempt["error"].startswith(MEANT_ERRORS)
            meant |= attempt["error"] == FAKED_SLEEP and FAKED in attempt["worker_name"]
            overdue = attempt["outcome"] == "TIMED_OUT" and not books.jobs[job_id]["kind"].startswith(ENDLESS)
            if not meant or overdue:
                yield f"Attempt {attempt['number']} {attempt['outcome']}: {attempt['error'][:200]}", job_id


@invariant
def no_living_worker_was_taken_for_dead(books: Books) -> Iterator[tuple[str, str]]:
    """Which would charge what it ran. One that was not heard from may have lived, and what it ran is not charged."""
    for name, pid, started in books.run.world.query(
        "SELECT name, pid, process_started FROM orchestrator_worker WHERE lost AND NOT silent AND started_at >= %s",
        books.run.began_at,
    ):
        if process_started(pid) == started:
            yield f"{name} [{pid}] lives and was given up as dead.", ""


@invariant
def an_attempt_is_lost_only_with_a_worker_that_died(books: Books) -> Iterator[tuple[str, str]]:
    died = {name for [name] in books.run.world.query("SELECT name FROM orchestrator_worker WHERE lost AND NOT silent")}
    for job_id in books.jobs:
        for attempt in books.attempts.get(job_id, []):
            if attempt["outcome"] == "LOST" and attempt["worker_name"] not in died:
                yield f"Attempt {attempt['number']} is lost, and {attempt['worker_name']} has not died.", job_id


@invariant
def attempts_rise_and_never_exceed_what_is_allowed(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        numbers = [attempt["number"] for attempt in books.attempts.get(job["id"], [])]
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            yield f"The attempts are numbered {numbers}.", job["id"]
        if job["attempt"] > job["max_attempts"] or (numbers and numbers[-1] > job["attempt"]):
            yield f"{job['attempt']} attempts of {job['max_attempts']}; {numbers} did not complete it.", job["id"]


@invariant
def a_job_that_kills_workers_kills_no_more_than_it_has_attempts(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        if job["payload"] and job["payload"].get("kills"):
            killed = {entry["pid"] for entry in books.outside.get(job["id"], [])}
            if len(killed) > len(books.attempts.get(job["id"], [])):
                yield (
                    f"It began in {len(killed)} processes and has {len(books.attempts[job['id']])} attempts.",
                    job["id"],
                )


@invariant
def nothing_ran_that_was_cancelled_before_it_started(books: Books) -> Iterator[tuple[str, str]]:
    retried = {entry["id"] for entry in books.run.ledger.entries("retried")}
    for entry in books.run.ledger.entries("cancelled"):
        if entry["status"] != 200 or entry["attempt"] != 0 or entry["id"] in retried:
            continue
        job = books.jobs.get(entry["id"])
        if job is None or job["status"] != "CANCELLED" or job["attempt"] != 0:
            yield "It was answered CANCELLED before its first attempt, and that has changed.", entry["id"]
        elif any(line["at"] > entry["at"] for line in books.outside.get(entry["id"], [])):
            yield "It began after it was answered CANCELLED.", entry["id"]


# Sums, counts, records, occurrences.


@invariant
def every_sum_is_right(books: Books) -> Iterator[tuple[str, str]]:
    for job in books.jobs.values():
        if job["status"] == "COMPLETED":
            expected = expected_result(job, books)
            if expected is not None and job["result"] != expected:
                yield f"Its result is {job['result']} instead of {expected}.", job["id"]


def expected_result(job: dict[str, Any], books: Books) -> Any:
    """The result that the job has to have; None where any will do."""
    results = {child["name"]: child["result"] for child in books.children[job["id"]]}
    if job["kind"] == "orchestration.two_batches":
        first, second = (
            sum(results[f"{batch}_draw_{place}"]["number"] for place in range(1, 6)) for batch in ("first", "second")
        )
        return {"first_batch": {"aggregated_sum": first}, "second_batch": {"aggregated_sum": second}}
    if job["kind"].startswith(SUMS):
        return {"sum": sum(job["payload"]["numbers"])}
    if job["kind"].startswith("tests.effect"):
        return {"number": job["payload"].get("number", 0)}
    if job["kind"] == "tests.steps":
        return {"steps": job["payload"]["steps"]}
    return None


@invariant
def every_parent_fits_its_children(books: Books) -> Iterator[tuple[str, str]]:
    for parent_id, children in books.children.items():
        parent = books.jobs[parent_id]
        statuses = Counter(child["status"] for child in children)
        passed = sum(child["id"] in books.steps and books.steps[child["id"]].is_passed for child in children)
        waited_for = len(children) - statuses["COMPLETED"] - passed
        if parent["unfinished_dependencies"] != waited_for:
            yield f"It waits for {parent['unfinished_dependencies']} of {dict(statuses)}.", parent_id
        if parent["status"] == "COMPLETED" and waited_for:
            yield f"It is COMPLETED and its children are {dict(statuses)}.", parent_id


@invariant
def every_task_has_one_result_and_it_is_right(books: Books) -> Iterator[tuple[str, str]]:
    found = {
        id: (status, job_id, results)
        for id, status, job_id, results in books.run.world.query(
            "SELECT task.id::text, job.status, job.id::text,"
            " array(SELECT result FROM scheduler_taskresult result WHERE result.task_id = task.id)"
            " FROM scheduler_task task JOIN orchestrator_job job ON job.id = task.job_id WHERE task.created_at >= %s",
            books.run.began_at,
        )
    }
    for entry in books.accepted("task"):
        status, job_id, results = found.get(entry["id"], ("missing", "", []))
        if status != "COMPLETED" or [int(result) for result in results] != [entry["sum"]]:
            yield f"The task {entry['id']} is {status}: {results} instead of {entry['sum']}.", job_id


@invariant
def every_record_is_stored_once_and_counted(books: Books) -> Iterator[tuple[str, str]]:
    for entry in books.accepted("ingestion"):
        job_id, good = entry["id"], entry["good"]
        prefix = good[0].partition("-")[0] if good else ""
        stored = books.run.world.query(
            "SELECT student_id FROM ingestion_record WHERE student_id LIKE %s", f"{prefix or '?'}-%"
        )
        if sorted(id for [id] in stored) != sorted(good):
            yield f"{len(stored)} records are stored instead of {len(good)}.", job_id
        [counts] = books.run.world.query(
            "SELECT coalesce(sum(stored_records), 0), coalesce(sum(failed_records), 0),"
            " (SELECT count(*) FROM ingestion_recorderror WHERE ingestion_id = max(chunk.ingestion_id))"
            " FROM ingestion_chunk chunk JOIN ingestion_ingestion ON ingestion_ingestion.id = ingestion_id"
            " WHERE job_id = %s",
            job_id,
        )
        if tuple(counts) != (len(good), entry["bad"], entry["bad"]):
            yield f"Stored, failed and reported are {counts} instead of {len(good)}, {entry['bad']}.", job_id


@invariant
def no_occurrence_is_missing_or_double(books: Books) -> Iterator[tuple[str, str]]:
    paused = {entry["id"]: entry for entry in books.run.ledger.entries("paused")}
    for entry in books.accepted("schedule"):
        start, step = datetime.fromisoformat(entry["scheduled_at"]), timedelta(seconds=entry["interval"])
        rows = books.run.world.query(
            "SELECT scheduled_for FROM scheduler_task WHERE schedule_id = %s ORDER BY 1", entry["id"]
        )
        found = [at for [at] in rows]
        # Those that were due when it was paused, and maybe one more that was just then.
        due = math.ceil((paused[entry["id"]]["fired_before"] - start) / step)
        expected = [start + step * place for place in range(max(due, len(found)))]
        if found != expected or len(found) > due + 2:
            missing, more = sorted(set(expected) - set(found)), Counter(found) - Counter(expected)
            yield f"The schedule {entry['id']} misses {missing[:5]} and has {dict(more)} too often.", ""


# What is left.


def left_behind(books: Books) -> list[str]:
    """What there should be no more of once all has ended."""
    world = books.run.world
    checks = {
        "jobs that are leased": "SELECT id FROM orchestrator_job WHERE worker_id IS NOT NULL",
        "jobs that are ready, or unwinding, though they ended": "SELECT id FROM orchestrator_job WHERE (ready OR"
        " unwinding) AND status IN ('COMPLETED', 'FAILED', 'CANCELLED')",
        "jobs noted as about to run": "SELECT id, name, trying FROM orchestrator_worker WHERE trying <> '{}'",
        "locks of the application": "SELECT locktype, pid FROM pg_locks WHERE locktype = 'advisory' OR NOT granted",
        "transactions that stay open": "SELECT pid, state, query FROM pg_stat_activity WHERE state LIKE 'idle in%'"
        " AND xact_start < clock_timestamp() - interval '3 seconds' AND application_name <> 'chaos'",
        "prepared transactions": "SELECT gid FROM pg_prepared_xacts",
        "waiting records of what has ended": "SELECT chunk.id FROM ingestion_chunk chunk JOIN ingestion_ingestion"
        " ingestion ON ingestion.id = ingestion_id JOIN orchestrator_job job ON job.id = job_id WHERE"
        " records IS NOT NULL AND status = 'COMPLETED'",
    }
    found = [f"{what}: {rows[:5]}" for what, sql in checks.items() if (rows := world.query(sql))]
    alive = world.query("SELECT id, name, pid FROM orchestrator_worker WHERE ended_at IS NULL")
    found += [f"a worker row of a process that is gone: {row}" for row in alive if not psutil.pid_exists(row[2])]
    return found + connections_of_nobody(books)


def connections_of_nobody(books: Books) -> list[str]:
    """Sessions of the database whose client is no process any more."""
    before = ports_in_use()
    sessions = books.run.world.query(
        "SELECT client_port, pid, state, backend_start, query FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND application_name <> 'chaos'"
    )
    owned = before | ports_in_use()
    return [f"a session of nobody: {row}" for row in sessions if row[0] not in owned]


def ports_in_use() -> set[int]:
    return {each.laddr.port for each in psutil.net_connections("tcp4") if each.laddr and each.pid}


@invariant
def nothing_is_left_behind(books: Books) -> Iterator[tuple[str, str]]:
    deadline = time.monotonic() + TIDY_SECONDS
    while (left := left_behind(books)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for each in left:
        yield each, ""


# The API, and recovery.


def excused(books: Books, entry: Entry) -> bool:
    """Whether the web server or the database was being hurt, or was just getting well, while the request ran."""
    began, ended = entry["began_at"], entry["began_at"] + entry["seconds"]
    return any(
        fault["at"] - 0.5 <= ended and began <= fault.get("ended_at", math.inf) + EXCUSED_SECONDS
        for fault in books.run.ledger.entries("fault")
        if fault["touches"] in EXCUSED
    )


@invariant
def the_api_answered_whenever_it_could(books: Books) -> Iterator[tuple[str, str]]:
    for entry in books.run.ledger.entries("answer"):
        if (entry["status"] == 0 or entry["status"] >= 500) and not excused(books, entry):
            yield json.dumps(entry), ""


def submissions_without_broker(books: Books) -> list[float]:
    """How long submissions took while the broker was down or hung, and neither web nor database was hurt."""
    spans = [
        (fault["at"], fault.get("ended_at", math.inf))
        for fault in books.run.ledger.entries("fault")
        if fault["group"] == "broker"
    ]
    return [
        entry["seconds"]
        for entry in books.run.ledger.entries("answer")
        if entry["method"] == "POST"
        and any(begin <= entry["began_at"] <= end for begin, end in spans)
        and not excused(books, entry)
    ]


@invariant
def submissions_are_quick_without_the_broker(books: Books) -> Iterator[tuple[str, str]]:
    seconds = submissions_without_broker(books)
    if len(seconds) >= MIN_SUBMISSIONS and (p99 := percentile(seconds, 99)) > SUBMISSION_P99_SECONDS:
        yield f"The 99th percentile of {len(seconds)} is {p99:.2f} s.", ""


@invariant
def all_faults_are_recovered_from(books: Books) -> Iterator[tuple[str, str]]:
    recovered = books.run.ledger.entries("recovered")
    for entry in recovered:
        if entry["never"] or entry["probe_seconds"] is None:
            yield f"After {entry['fault']} these did not go on: {entry['never']}", (entry["never"] or [""])[0]


@invariant
def recovery_is_quick(books: Books) -> Iterator[tuple[str, str]]:
    for group, limit in RECOVERY_MEDIANS.items():
        seconds = recoveries(books, group)
        if len(seconds) >= MIN_RECOVERIES and statistics.median(seconds) > limit:
            yield f"The median after {group} is {statistics.median(seconds):.1f} s: {sorted(seconds)}", ""


def recoveries(books: Books, group: str) -> list[float]:
    """How long it took each time until all that was asked or interrupted went on."""
    return [
        max(entry["probe_seconds"] or 0, entry["affected_seconds"] or 0)
        for entry in books.run.ledger.entries("recovered")
        if entry["group"] == group
    ]


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def fenced_off(books: Books) -> int:
    """Attempts that came to their end after they had been taken for lost: what they wrote was refused."""
    lost = {
        (job_id, attempt["number"]): attempt["ended_at"].timestamp()
        for job_id in books.jobs
        for attempt in books.attempts.get(job_id, [])
        if attempt["outcome"] in ("LOST", "TIMED_OUT", "UNAVAILABLE")
    }
    done = (line for job_id in books.jobs for line in books.outside.get(job_id, []) if line["event"] == "done")
    return sum(line["at"] > lost.get((line["key"], line["attempt"]), math.inf) for line in done)
