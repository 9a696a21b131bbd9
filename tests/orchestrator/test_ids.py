"""Ids of jobs sort by the time and order of their making."""

from __future__ import annotations

import time
from itertools import chain
from uuid import RFC_4122, UUID

import pytest

from orchestrator.ids import hex7s, texts_of, uuid7, uuids7
from tests.orchestrator.workbench import threads


def test_each_id_is_greater_than_the_one_before() -> None:
    ids = [uuid7() for _ in range(20_000)]

    assert ids == sorted(set(ids))


def test_ids_made_together_are_in_order_among_the_others() -> None:
    ids = [uuid7(), *uuids7(20_000), uuid7(), *uuids7(1), *uuids7(0), uuid7()]

    assert ids == sorted(set(ids))
    assert {(id.version, id.variant) for id in ids} == {(7, "specified in RFC 4122")}


def test_ids_made_in_threads_differ() -> None:
    with threads(4) as call:
        parts = [call(lambda: [uuid7() for _ in range(5_000)]) for _ in range(4)]
        parts += [call(uuids7, 5_000) for _ in range(4)]
        ids = list(chain.from_iterable(part.result() for part in parts))

    assert len({id.int >> 64 for id in ids}) == 40_000


def test_an_id_is_a_version_7_uuid_of_about_now() -> None:
    made = uuid7()

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert abs((made.int >> 80) / 1000 - time.time()) < 60


@pytest.mark.parametrize("count", [0, 1, 1_000])
def test_ids_as_texts_are_what_str_makes_of_them(count: int) -> None:
    ids = uuids7(count)

    assert texts_of(ids) == [str(id) for id in ids]


def test_digits_are_those_of_ids() -> None:
    ids = [UUID(digits) for digits in [*hex7s(1_000), uuid7().hex]]

    assert ids == sorted(ids)
    assert {id.version for id in ids} == {7}
    assert {id.variant for id in ids} == {RFC_4122}
