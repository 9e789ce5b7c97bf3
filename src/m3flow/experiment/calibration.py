"""Calibration: throughput and bytes per frame, measured on the target machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.atomic import write_text
from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment


@dataclass(frozen=True)
class Throughput:
    """The throughput of one job at one frame size.

    Attributes
    ----------
    width, height: in pixels.
    flow, trajectories, motion: seconds per frame of a whole job of that kind, with the best number of workers;
        `motion` is both in one pass.
    stages: frames per second of each stage in one worker: decode, flow, encode, track.
    flow_bytes, trajectory_bytes: bytes per frame.
    """

    width: int
    height: int
    flow: float
    trajectories: float
    motion: float
    stages: dict[str, float]
    flow_bytes: float
    trajectory_bytes: float


@dataclass(frozen=True)
class Calibration:
    """The measurements of `m3flow calibrate`, with the machine and the settings.

    Attributes
    ----------
    made: m3flow's version, time, host, cluster, partition.
    settings: the identities of `flow` and `trajectories`.
    cores, gpus, device, backend: resources of the measuring job.
    workers: the best number of worker processes with them; rates: frames per second by number of workers.
    start: seconds from a job's start to its first video.
    sizes: by frame size.
    """

    made: dict[str, str]
    settings: dict[str, Any]
    cores: int
    gpus: int
    device: str
    backend: str
    workers: int
    rates: dict[str, float]
    start: float
    sizes: tuple[Throughput, ...]

    def seconds_per_frame(self, kind: str, width: float, height: float) -> float:
        """Seconds per frame of this size in a job of this kind, interpolated between the measured sizes."""
        return self._at([getattr(size, kind) for size in self.sizes], width * height)

    def bytes_per_frame(self, width: float, height: float) -> tuple[float, float]:
        """Bytes of flow and of trajectories per frame of this size."""
        pixels = width * height
        return (
            self._at([size.flow_bytes for size in self.sizes], pixels),
            self._at([size.trajectory_bytes for size in self.sizes], pixels),
        )

    def _at(self, values: Sequence[float], pixels: float) -> float:
        known = [size.width * size.height for size in self.sizes]
        if pixels > known[-1]:
            return values[-1] * pixels / known[-1]
        return float(np.interp(pixels, known, values))

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a calibration; raises UsageError for any other file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["sizes"] = tuple(Throughput(**size) for size in values["sizes"])
            return cls(**values)
        except OSError as error:
            raise UsageError(f"{path}: cannot read the calibration: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: not a calibration; make it again with m3flow calibrate") from error


def calibration_of(experiment: Experiment) -> Calibration | None:
    """The experiment's calibration, if it exists and was measured with the same settings."""
    path = Path(experiment.shard.calibration)
    if not path.is_file():
        return None
    calibration = Calibration.read(path)
    return calibration if calibration.settings == settings_of(experiment) else None


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """The settings of an experiment that determine its throughput, as JSON values."""
    return {
        "flow": json.loads(json.dumps(experiment.flow.identity())) if experiment.wants_flow else {},
        "trajectories": experiment.trajectories.identity(),
    }
