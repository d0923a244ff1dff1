"""Reading and writing in threads beside the network. OpenCV and PyTorch run without Python's global lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], threads: int = 1, ahead: int = 4
) -> Iterator[Result]:
    """`map(read, items)`, where up to `ahead` items are read before they are asked for.

    The items themselves are taken in the caller's thread. Close the generator to stop early. Exceptions of `read` are
    raised in place of its result.

    Args:
        threads: that call `read`. 0: the caller reads each item when it is asked for.
    """
    if threads == 0:
        yield from map(read, items)
        return
    pool, waiting = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Runs calls one after the other in a thread. As a context manager, it waits for them at the end.

    An exception of a call is raised at a later call, or at the end. Calls block while `limit` others wait.
    """

    def __init__(self, limit: int = 4):
        self.limit = limit
        self.pool = ThreadPoolExecutor(1)
        self.waiting: deque[Future] = deque()

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        while self.waiting and (len(self.waiting) >= self.limit or self.waiting[0].done()):
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(function, *args))

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.pool.shutdown()
        while self.waiting and kind is None:  # an exception that is under way is not replaced
            self.waiting.popleft().result()
