"""Data sets for training, as torch Datasets: clips with their trajectories, clips with their flow."""

from m3flow.data.flow_clips import FlowClips
from m3flow.data.trajectory_clips import TrajectoryClips

__all__ = ["FlowClips", "TrajectoryClips"]
