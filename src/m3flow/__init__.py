"""Optical flow without the camera's motion, and dense motion trajectories, for whole video data sets."""

from typing import TYPE_CHECKING

import lazy_loader

from m3flow.errors import BadInput, Interrupted, UsageError
from m3flow.version import __version__

if TYPE_CHECKING:
    from m3flow.extraction.extractor import Extractor
    from m3flow.extraction.run import execute
    from m3flow.extraction.work import Work
    from m3flow.layout import Outputs
    from m3flow.results.homographies import camera_of, homographies_of
    from m3flow.results.quantisation import quantise, restore
    from m3flow.results.records import Record, read_records
    from m3flow.results.stored_flow import load_flow, read_provenance
    from m3flow.results.trajectoryfile import Trajectories, load_trajectories, read_made
    from m3flow.settings import FlowSettings, TrajectorySettings
    from m3flow.videos.videolist import Video, VideoList

# Lazily, so that `import m3flow` costs only what is used.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["camera", "data", "flow", "trajectories"],
    submod_attrs={
        "extraction.extractor": ["Extractor"],
        "extraction.run": ["execute"],
        "extraction.work": ["Work"],
        "layout": ["Outputs"],
        "results.stored_flow": ["load_flow", "read_provenance"],
        "results.homographies": ["camera_of", "homographies_of"],
        "results.quantisation": ["quantise", "restore"],
        "results.records": ["Record", "read_records"],
        "results.trajectoryfile": ["Trajectories", "load_trajectories", "read_made"],
        "settings": ["FlowSettings", "TrajectorySettings"],
        "videos.videolist": ["Video", "VideoList"],
    },
)

__all__ = [
    "BadInput",
    "Extractor",
    "FlowSettings",
    "Interrupted",
    "Outputs",
    "Record",
    "Trajectories",
    "TrajectorySettings",
    "UsageError",
    "Video",
    "VideoList",
    "Work",
    "__version__",
    "camera_of",
    "execute",
    "homographies_of",
    "load_flow",
    "load_trajectories",
    "quantise",
    "read_made",
    "read_provenance",
    "read_records",
    "restore",
]
