"""Data sets for training, as torch Datasets: clips with their trajectories or flow, and their batches."""

from m3flow.data.clip_stream import ClipStream
from m3flow.data.flow_clips import FlowClips
from m3flow.data.trajectory_clips import TrajectoryClips

__all__ = ["ClipStream", "FlowClips", "TrajectoryClips"]
