"""Operating-system helpers shared by all processes."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

PARENT_CHECK_SECONDS = 1.0

# Parameters of the C library's `mallopt`, numbered as in <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The largest threshold that the GNU C library accepts.
LARGEST_KEPT_BYTES = 32 * 2**20
KEPT_BYTES = 256 * 2**20


def exit_with_parent() -> None:
    """Exit when the parent process is gone, even while the main thread is inside a library.

    A killed parent cannot stop its children; without this they would keep running as orphans.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def user_cache() -> Path:
    """The folder of what is kept for all runs of a user: in $XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m3flow"


def available_cores() -> int:
    """The number of CPU cores that this process may use (a Slurm job's share, a taskset), not the machine's."""
    bound = len(os.sched_getaffinity(0))
    # Not every Slurm installation binds a job to its cores; the job must respect its share all the same.
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return max(1, min(bound, int(given))) if given.isdecimal() else bound


def keep_freed_memory() -> None:
    """Have the C library reuse freed memory instead of returning it to the system.

    The estimators allocate and free images of the same sizes for every pair of frames; with fresh memory
    each time, OpenCV's Farneback spends a tenth of its time on page faults. Without `mallopt` in the C
    library this has no effect.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
