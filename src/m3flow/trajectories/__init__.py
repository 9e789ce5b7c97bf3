"""Motion trajectories: grid points tracked through optical flow or a codec's motion vectors."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from m3flow.trajectories.motion_vectors import (
        MotionVectors,
        read_motion_vectors,
        trajectories_from_motion_vectors,
    )
    from m3flow.trajectories.tracking import Tracker, track

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "motion_vectors": ["MotionVectors", "read_motion_vectors", "trajectories_from_motion_vectors"],
        "tracking": ["Tracker", "track"],
    },
)

__all__ = [
    "MotionVectors",
    "Tracker",
    "read_motion_vectors",
    "track",
    "trajectories_from_motion_vectors",
]
