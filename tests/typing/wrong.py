"""What mypy finds wrong in the use of kinds: the code at the end of each line that has an error."""

from __future__ import annotations

from orchestrator.async_running import AsyncRunningJob
from orchestrator.ended import EndedJob
from orchestrator.kinds import Child, job
from orchestrator.running import RunningJob
from orchestrator.spawning import AfterChildren
from orchestrator.submission import submit, submit_many
from orchestrator.testing import fake_job
from tests.typing.right import Order, confirm, confirm_all, confirmed, count, of_orders, refund, ship, track


class Refund:
    pass


def submissions() -> None:
    submit(confirm, Refund())  # expected: misc
    submit(confirm, [1])  # expected: misc
    submit(confirm_all, ["1"])  # expected: misc
    submit_many(ship, [Refund()])  # expected: misc


def calls(running: RunningJob) -> None:
    confirm(running)  # expected: call-arg
    confirm(running, Refund())  # expected: arg-type
    confirm(running, order=Order(1))  # expected: call-arg
    count(running, {})  # expected: call-arg
    ship(running)  # expected: arg-type


def results(running: RunningJob) -> str:
    confirm(running, Order(1)).upper()  # expected: attr-defined
    of_orders(count)  # expected: arg-type
    return count(running)  # expected: return-value


async def awaited(running: AsyncRunningJob) -> str:
    submit(track, Refund())  # expected: misc
    await track(running, Refund())  # expected: arg-type
    track(running, Order(1))["number"]  # expected: index
    with running.step():  # expected: attr-defined
        pass
    fake_job(track, Order(1)).run().upper()  # expected: attr-defined
    return await track(running, Order(1))  # expected: return-value


def spawning(running: RunningJob) -> AfterChildren[str]:
    running.spawn(confirm, Refund())  # expected: misc
    running.spawn(confirm, Order(1), on_failure="ignore")  # expected: arg-type
    return running.after_children(confirmed)  # expected: arg-type


def plan(payload: list[str]) -> list[Child]:
    return []


@job("shop.planned", payload=list[int], plan=plan)  # expected: arg-type
def planned(job: RunningJob, payload: list[int]) -> None: ...


@job("shop.misspelt", querue="io")  # expected: call-arg
def misspelt(job: RunningJob) -> None: ...


@job("shop.charged", payload=list[int], on_failure=refund)  # expected: arg-type
def charged(job: RunningJob, payload: list[int]) -> None: ...


def forget(job: EndedJob) -> None: ...


@job("shop.forgotten", on_failure=forget)  # expected: arg-type
def forgotten(job: RunningJob) -> None: ...
