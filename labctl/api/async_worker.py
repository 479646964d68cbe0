"""Requests to a lab's keeper from an event loop: short, and made by a thread, so that the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """One thread, started when it is first needed. It belongs to no loop: each call uses the one that runs."""

    def __init__(self, name: str, *, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def call(self, function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """What the function returns or raises. When the caller is cancelled, what it returns all the same is undone."""
        future = self._pool.submit(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # The thread may have begun: nobody waits for what it returns any more. A future that is cancelled has not.
            if undo is not None:
                future.add_done_callback(partial(_undo, undo))
            raise

    async def once(self, function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """As `call`, by a worker that is for this one call: its thread ends with it."""
        try:
            return await self.call(function, undo)
        finally:
            self._pool.shutdown(wait=False)

    def later(self, function: Callable[[], object]) -> None:
        """Have it done, and wait for nothing."""
        self._pool.submit(function)

    def close(self) -> None:
        """Wait for what is under way; nothing more can be called. Blocks."""
        self._pool.shutdown(wait=True)


def _undo(undo: Callable[[T], object], future: Future[T]) -> None:
    if not future.cancelled() and future.exception() is None:
        undo(future.result())
