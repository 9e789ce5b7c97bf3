"""Small things that our processes have in common."""

from __future__ import annotations

import ctypes
import os
import threading
import time

PARENT_CHECK_SECONDS = 1.0

# Parameters of the C library's `mallopt`, as <malloc.h> numbers them.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The most that the GNU C library takes as a threshold.
LARGEST_KEPT_BYTES = 32 * 2**20
KEPT_BYTES = 256 * 2**20


def exit_with_parent() -> None:
    """End this process when its parent is gone, even while the main thread is inside a library.

    A parent that is killed cannot tell its children; without this they would work on for nobody.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def available_cores() -> int:
    """The CPU cores that this process may use (a Slurm job's share, a taskset), not the machine's."""
    bound = len(os.sched_getaffinity(0))
    # Not every Slurm binds a job to its cores; the job must keep to them all the same.
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return max(1, min(bound, int(given))) if given.isdecimal() else bound


def keep_freed_memory() -> None:
    """Have the C library hand freed memory out again instead of giving it back to the system.

    The estimators allocate and free images of the same sizes for every pair of frames; fetching them fresh
    each time costs OpenCV's Farneback a tenth of its time in page faults. A C library without `mallopt` stays
    as it is.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
