"""The one worker thread of a backend, and the lane that overtakes in it: urgent work comes between a batch's parts."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Worker:  # emgate.backend.ingest.Pause
    """One thread: the backend has one writer, and a batch is ingested before the next is looked at."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backend")
        self._first: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run in the worker."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    async def work_first(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run in the worker, before the rest of a batch that is being ingested."""
        future: Future[Any] = Future()
        self._first.append((future, function, arguments))
        self._worker.submit(self.take)
        return await asyncio.wrap_future(future)

    def wanted(self) -> bool:
        """See ingest.Pause."""
        return bool(self._first)

    def take(self) -> None:
        """See ingest.Pause. In the worker."""
        while self._first:
            future, function, arguments = self._first.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except Exception as error:
                    future.set_exception(error)

    def close(self) -> None:
        """Wait for what is under way."""
        self._worker.shutdown(wait=True)
