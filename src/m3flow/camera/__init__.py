"""The camera's motion: finding it, taking it out of the flow, putting it back."""

from m3flow.camera.geometry import camera_flow, camera_motion, put_camera_back, remove_camera

__all__ = ["camera_flow", "camera_motion", "put_camera_back", "remove_camera"]
