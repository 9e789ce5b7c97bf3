"""Sharing of a machine's GPUs between independent processes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def free_gpu(devices: Sequence[str], places: int) -> Iterator[str]:
    """The device among `devices` with the fewest jobs, reserved within the block.

    Parameters
    ----------
    devices: such as ("cuda:0", "cuda:1"). Devices other than GPUs are not reserved: the first one is returned.
    places: the number of jobs counted per GPU; beyond that all GPUs count as equally busy.

    A place is a locked file in the folder of temporary files, so that a killed process frees its place at once.
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
