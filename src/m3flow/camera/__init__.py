"""Camera motion: estimation, removal from the flow, and restoration."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from m3flow.camera.compensation import Motion, MotionEstimator
    from m3flow.camera.geometry import camera_flow, camera_motion, put_camera_back, remove_camera

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compensation": ["Motion", "MotionEstimator"],
        "geometry": ["camera_flow", "camera_motion", "put_camera_back", "remove_camera"],
    },
)

__all__ = [
    "Motion",
    "MotionEstimator",
    "camera_flow",
    "camera_motion",
    "put_camera_back",
    "remove_camera",
]
