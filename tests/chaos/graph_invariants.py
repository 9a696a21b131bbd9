"""What has to hold for graphs, and for the jobs of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.invariants import Books, invariant
from tests.chaos.limits import by_a_right_clock


@invariant
def every_graph_ends_as_the_model_says(books: Books) -> Iterator[tuple[str, str]]:
    cancelled = {entry["id"] for entry in books.run.ledger.entries("cancelled")}
    for entry in books.accepted("job"):
        job = books.jobs.get(entry["id"])
        if job is None or entry["kind"] != "pipeline.run":
            continue
        if job["status"] != entry["meant"] and not (job["status"] == "CANCELLED" and entry["id"] in cancelled):
            yield f"It is {job['status']} and was meant to be {entry['meant']}: {job['error']}", job["id"]
        if job["status"] == "COMPLETED" and job["result"] != entry["returns"]:
            yield f"Its result is {job['result']} instead of {entry['returns']}.", job["id"]


@invariant
def what_is_to_be_undone_is_undone_once_and_nothing_else(books: Books) -> Iterator[tuple[str, str]]:
    for parent_id, children in books.children.items():
        undone = Counter(
            books.steps[child["id"]].undoes
            for child in children
            if child["id"] in books.steps and books.steps[child["id"]].undoes
        )
        to_be_undone = Counter(
            child["id"]
            for child in children
            if child["status"] == "COMPLETED" and child["id"] in books.steps and books.steps[child["id"]].can_be_undone
        )
        expected = Counter() if books.jobs[parent_id]["status"] == "COMPLETED" else to_be_undone
        if undone != expected:
            yield f"Undone are {dict(undone)} instead of {dict(expected)}.", parent_id


@invariant
def every_compensation_completes_after_what_it_undoes(books: Books) -> Iterator[tuple[str, str]]:
    for job_id, step in books.steps.items():
        if step.undoes is None or job_id not in books.jobs:
            continue
        job, earlier = books.jobs[job_id], books.jobs[step.undoes]
        if job["status"] != "COMPLETED":
            yield f"It is {job['status']}: {job['error']}", job_id
        elif job["started_at"] < earlier["finished_at"] and by_a_right_clock(
            books, [(job["started_at"], earlier["finished_at"])]
        ):
            yield "It began before what it undoes had ended.", job_id
