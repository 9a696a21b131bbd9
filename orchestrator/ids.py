"""Ids of jobs: UUIDs of version 7, which sort by the time and order of their making."""

import os
import struct
import threading
import time
import uuid
from collections.abc import Sequence
from itertools import pairwise

import msgspec

_lock = threading.Lock()
_last = 0

# How many ids there are at least between one and all that its process made before it.
MAX_BEFORE = 1 << 16
# In the random part, room for ten generations of `ids_below`.
ROOM_BELOW = 1 << 61
# So near below an id are those that are added last.
LAST_BELOW = 1 << 54
# What the second half of each has beside what is random: its variant, and room.
_TAIL = 0b10 << 62 | ROOM_BELOW | MAX_BEFORE
# Random numbers that are asked for at once. Whoever asks lets go of the GIL, and waits for it in a busy process.
DRAWN = 128

_drawn: list[int] = []
# Or a child would make the ids of its parent, if it did so at the same moment.
os.register_at_fork(after_in_child=_drawn.clear)


def uuid7() -> uuid.UUID:
    """A version 7 UUID, greater than every one this process made before."""
    first, second = _halves(_take_stamps(1), _random())
    return uuid.UUID(int=first << 64 | second)


def uuids7(count: int) -> list[uuid.UUID]:
    """So many in their order, in a third of the time."""
    return msgspec.convert(hex7s(count), list[uuid.UUID])


def hex7s(count: int) -> list[str]:
    """The hexadecimal digits of so many, in a fourth of the time."""
    first, random = _take_stamps(count), struct.unpack(f">{count}Q", os.urandom(8 * count))
    halves = [half for stamp, each in enumerate(random, first) for half in _halves(stamp, each)]
    digits = struct.pack(f">{2 * count}Q", *halves).hex()
    return [digits[begin : begin + 32] for begin in range(0, 32 * count, 32)]


def texts_of(ids: Sequence[uuid.UUID]) -> list[str]:
    """What `str` returns for each, in a tenth of the time."""
    return msgspec.json.encode(ids)[2:-2].decode().split('","') if ids else []


def _random() -> int:
    try:
        return _drawn.pop()
    except IndexError:
        first, *others = struct.unpack(f"{DRAWN}Q", os.urandom(8 * DRAWN))
        _drawn.extend(others)
        number: int = first
        return number


def _take_stamps(count: int) -> int:
    """The first of so many that follow each other and that nobody else has.

    Layout and the counter in rand_a are those of RFC 9562, sections 5.7 and 6.2 (method 3: the
    sub-millisecond fraction leads, and is moved on by one where the clock has not moved). The engine
    locks rows in the order of their ids, so a pipeline depends on this order.
    """
    global _last
    with _lock:
        # 48 bits of milliseconds and 12 bits of their fraction: 4,096 ids a millisecond, then the future is borrowed.
        first = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        _last = first + count - 1
    return first


def _halves(stamp: int, random: int) -> tuple[int, int]:
    return stamp >> 12 << 16 | 7 << 12 | stamp & 0xFFF, random >> 2 | _TAIL


def ids_before(id: uuid.UUID, count: int) -> list[uuid.UUID]:
    """So many ids in their order, at most MAX_BEFORE: less than this one, and greater than all that its process made
    before it. They are always the same.
    """
    return [uuid.UUID(int=id.int - n) for n in range(count, 0, -1)]


def ids_below(id: uuid.UUID, count: int) -> list[uuid.UUID]:
    """So many new ids in their order, less than this one: for children of a job that is there already.

    They are random within 2^57, so that those of all generations below one job differ: they meet by chance once in
    100,000 families of a million. Before each there is room for its `ids_before`.
    """
    return _ids_below(id, count, LAST_BELOW, 1 << 57)


def last_ids_below(id: uuid.UUID, count: int) -> list[uuid.UUID]:
    """The same, greater than all that `ids_below` returns for it: for what is added to it last."""
    return _ids_below(id, count, 2 * MAX_BEFORE, LAST_BELOW)


def _ids_below(id: uuid.UUID, count: int, least: int, most: int) -> list[uuid.UUID]:
    while True:
        gaps = sorted((least + int.from_bytes(os.urandom(8)) % (most - least) for _ in range(count)), reverse=True)
        # Hardly ever are two of them too near.
        if all(gap - next_gap > MAX_BEFORE for gap, next_gap in pairwise(gaps)):
            return [uuid.UUID(int=id.int - gap) for gap in gaps]
