"""Parallel decoding of many files within limits: one thread and one decoding process per worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TypeVar

from m3flow.system import available_cores
from m3flow.videos.decoder import Decoder, Limits

Item = TypeVar("Item")
Result = TypeVar("Result")

# In-flight items per worker: enough that no thread waits, few enough that an interrupt takes effect soon.
IN_FLIGHT = 4


def decoded_side_by_side(
    items: Sequence[Item],
    work: Callable[[Decoder, Item], Result],
    *,
    limits: Limits,
    workers: int = 0,
) -> Iterator[Result]:
    """Results of `work(decoder, item)` for every item, as they finish.

    Each of `workers` threads (0: one per CPU core) has its own decoding process, so that a file cannot
    exceed the limits. An exception in `work` ends the iteration.
    """
    workers = max(1, min(workers or available_cores(), len(items)))
    own = threading.local()
    with ExitStack() as decoders:

        def call(item: Item) -> Result:
            if not hasattr(own, "decoder"):
                own.decoder = decoders.enter_context(Decoder(limits))
            return work(own.decoder, item)

        threads = decoders.enter_context(ThreadPoolExecutor(workers))
        pending: set[Future[Result]] = set()
        try:
            for item in items:
                if len(pending) >= workers * IN_FLIGHT:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                pending.add(threads.submit(call, item))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
