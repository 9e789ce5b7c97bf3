"""The GPUs of one machine, shared by processes that know nothing of each other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def free_gpu(devices: Sequence[str], places: int) -> Iterator[str]:
    """The device among `devices` with the fewest jobs, held within the block.

    Parameters
    ----------
    devices: such as ("cuda:0", "cuda:1"). Devices that are no GPUs are not counted: the first one is given.
    places: the number of jobs that are counted on a GPU; beyond that all count as equally busy.

    A place is a locked file in the folder of temporary files, so that one of a process that was killed is free
    at once.
    """
    if not devices[0].startswith("cuda"):
        yield devices[0]
        return
    folder = Path(tempfile.gettempdir(), f"m3flow-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    for place in range(places):
        for device in devices:
            index = int(device.partition(":")[2] or 0)
            physical = visible[index] if index < len(visible) else str(index)
            file = (folder / f"{physical}-{place}").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            with file:
                yield device
            return
    yield devices[os.getpid() % len(devices)]
