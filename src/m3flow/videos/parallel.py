"""Many files decoded side by side, each within limits: threads that wait for decoding processes."""

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

# Enough that no thread waits for the next item; few enough that an interrupt is soon through.
AHEAD = 4


def decoded_side_by_side(
    items: Sequence[Item],
    work: Callable[[Decoder, Item], Result],
    *,
    limits: Limits,
    workers: int = 0,
) -> Iterator[Result]:
    """`work(decoder, item)` for every item, as they are done.

    Each of `workers` threads (0: one a CPU core) has a decoding process of its own, so that a file costs at
    most what the limits allow. An exception of `work` ends the iteration.
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
                if len(pending) >= workers * AHEAD:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                pending.add(threads.submit(call, item))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
