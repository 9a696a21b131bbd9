"""Kinds and what their users write of them, without a type error."""

from __future__ import annotations

from typing import Annotated

import msgspec

from orchestrator.async_running import AsyncRunningJob
from orchestrator.ended import EndedJob
from orchestrator.kinds import Child, Kind, job
from orchestrator.running import RunningJob
from orchestrator.spawning import AfterChildren
from orchestrator.submission import Submission, submit, submit_many
from orchestrator.testing import ended_job, fake_job


class Order(msgspec.Struct):
    number: int


Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


@job("shop.confirm", queue="io", payload=Order)
def confirm(job: RunningJob, payload: Order) -> dict[str, int]:
    return {"number": payload.number}


@job("shop.count")
def count(job: RunningJob) -> int:
    return 1


@job("shop.discount", payload=Percent | None)
def discount(job: RunningJob, payload: int | None) -> int:
    return payload or 0


@job("shop.ship", payload=Order, execution="transactional", takes_batch=True)
def ship(jobs: list[RunningJob]) -> list[str]:
    return [job.id for job in jobs]


@job("shop.track", queue="io", payload=Order)
async def track(job: AsyncRunningJob, payload: Order) -> dict[str, int]:
    async with job.step(1, 2):
        await job.sleep(1)
    return {"number": payload.number, "inputs": len(await job.inputs())}


def plan(payload: list[int]) -> list[Child]:
    return [Child(name=str(number), kind=confirm.name, payload={"number": number}) for number in payload]


@job("shop.confirm_all", payload=list[int], plan=plan)
def confirm_all(job: RunningJob, payload: list[int]) -> int:
    return len(payload)


def refund(job: EndedJob[Order], error: str) -> int:
    return job.payload.number


def note(job: EndedJob, error: str) -> None: ...


@job("shop.charge", payload=Order, on_failure=refund, on_retry=note)
def charge(job: RunningJob, payload: Order) -> None: ...


@job("shop.tidy", on_failure=note, on_retry=lambda job, error: job.owner + error)
def tidy(job: RunningJob) -> None: ...


def use(running: RunningJob) -> int:
    submit(confirm, Order(1), priority=0)
    submit(confirm, {"number": 1})
    submit(count)
    submit(discount, 5)
    submit(discount)
    submit(confirm_all, [1, 2])
    submit("shop.confirm", {"number": 1})
    submit("shop.confirm", Order(1))
    submit_many(ship, [Order(1), Order(2)])
    submit_many(ship, [{"number": 2}])
    submit_many(ship, [Submission(payload=Order(3), owner="ada")])
    submit_many(ship, (Order(number) for number in range(3)))
    return confirm(running, Order(1))["number"] + confirm(running, payload=Order(2))["number"] + count(running)


def of_any_kind(kind: Kind) -> str:
    submit(kind, {})
    return kind.name


def of_orders(kind: Kind[Order, dict[str, int]]) -> dict[str, int]:
    return kind.handler(None, kind.read_payload({"number": 1}))


def of_tests() -> int:
    refund(ended_job(charge, Order(1)), "no money")
    return fake_job(confirm, Order(1), attempt=2).run()["number"] + fake_job(count).run()


async def awaits(running: AsyncRunningJob) -> int:
    submit(track, Order(1))
    return (await track(running, Order(1)))["number"] + fake_job(track, Order(1)).run()["number"]


@job("shop.confirm_many", payload=list[int])
def confirm_many(job: RunningJob, payload: list[int]) -> AfterChildren[int]:
    for number in payload:
        job.spawn(confirm, Order(number), on_failure="continue")
        job.spawn(confirm, {"number": number}, priority=1)
    job.spawn("shop.count")
    return job.after_children(confirmed)


@confirm_many.after_children
def confirmed(job: RunningJob) -> int:
    return len([child.name for child in job.children if child.status == "COMPLETED"])


@job("shop.count_down", queue="io", payload=int)
async def count_down(job: AsyncRunningJob, payload: int) -> AfterChildren[int] | int:
    if await job.children():
        return 0
    job.spawn(count_down, payload - 1)
    return job.after_children()


NAMES = [of_any_kind(confirm), of_any_kind(ship)]
RESULT = of_orders(confirm)
