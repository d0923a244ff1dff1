"""Random damage to bytes and to nested values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any


def damaged_bytes(random: Random, data: bytes) -> bytes:
    """The bytes with one to three changes: flipped bits, other bytes, a cut, a copy or a removal of a part."""
    content = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(max(1, len(content)))
        length = min(random.choice((1, 2, 4, 8, 100)), len(content) - at)
        kind = random.randrange(6)
        if not content:
            break
        if kind == 0:
            content[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            content[at : at + length] = random.randbytes(length)
        elif kind == 2:
            content[at : at + length] = random.choice((b"\0", b"\xff", b"\x7f")) * length
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            content[at:at] = content[: random.randrange(300)]
        else:
            del content[at : at + length]
    return bytes(content)


def damaged_value(random: Random, value: Any, hostile: Callable[[Random], Any]) -> Any:
    """A copy of nested dicts and lists in which some parts are hostile values, missing, renamed or doubled."""
    holder = {"": copied(value)}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        parent, key = holder, ""
        while isinstance(inside := parent[key], dict | list) and inside and random.random() < 0.9:
            parent, key = inside, random.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        change(random, parent, key, hostile)
        if "" not in holder:
            holder[""] = None
    return holder[""]


def change(random: Random, parent: dict | list, key: Any, hostile: Callable[[Random], Any]) -> None:
    """One change to parent[key]."""
    kind = random.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[random.choice((0, None, "", "x", f"{key}x", (1,)))] = parent.pop(key)
    elif kind == 1:
        parent.append(parent[key])
    elif kind == 2 and isinstance(parent[key], int | float) and abs(parent[key]) < 1e300:
        parent[key] = parent[key] * random.choice((-1, 0, 0.5, 10, 1e9))
    else:
        parent[key] = hostile(random)


def copied(value: Any) -> Any:
    """A copy of nested dicts and lists."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list | tuple) else value


PLAIN: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan),
    *(2**31, 2**63, -(2**63) - 1, 10**30, 10**400),
    *("", "x", "1", "1e3", "a" * 5000, "\0", "\n", "\ud800", "\udcff", "../../../dev/zero", "/dev/zero", "{}", "é"),
    *([], [[]], {}, {"x": 1}, [None], ["x"], [0, 0, 0, 0], [1e308] * 4, [math.nan] * 4, [-1, -1, 5, 5], [[1, 2]] * 3),
)


def hostile_value(random: Random) -> Any:
    """A plain value that is seldom meant."""
    if random.random() < 0.05:
        deep: Any = 1
        for _ in range(random.choice((10, 100, 200))):
            deep = [deep]
        return deep
    return copied(random.choice(PLAIN))
