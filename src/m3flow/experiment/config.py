"""An experiment as config.yaml describes it, read into the settings that the library works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from m3flow.errors import UsageError
from m3flow.layout import Outputs
from m3flow.settings import FLOW_BACK_NOT_STORED, FlowSettings, TrajectorySettings
from m3flow.videos.decoder import Limits
from m3flow.videos.videolist import VideoList

GRANULARITIES = ("video", "shard")


def typed(value: Any) -> Any:
    """A configuration whose numbers and booleans may be text, with them as what they are.

    Snakemake hands over the inner values of `--config flow='{step: 2}'` as text. The outer ones it reads
    itself; they are mostly paths and stay as they are.
    """
    if isinstance(value, Mapping):
        return {key: typed(inner) for key, inner in value.items()}
    return _typed_text(value) if isinstance(value, str) else value


def _typed_text(text: str) -> Any:
    value = yaml.safe_load(text)
    return value if isinstance(value, int | float) else text


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.yaml file.

    Raises UsageError for a file that cannot be read or is no mapping.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path}: the configuration must be a mapping of keys to values")
    return config


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How the list is cut into jobs.

    Attributes
    ----------
    videos: videos a shard, or "auto": as many as take `minutes`, by the calibration.
    minutes: the time that a shard should take.
    one_pass: make flow and trajectories in one job, the flow never read back.
    calibration: the file that `m3flow calibrate` wrote; looked for only with `videos: auto`.
    """

    videos: int | str = 256
    minutes: float = 60.0
    one_pass: bool = False
    calibration: str = "calibration.json"

    def __post_init__(self) -> None:
        if self.videos != "auto" and (not isinstance(self.videos, int) or self.videos < 1):
            raise UsageError(f"shard.videos is {self.videos!r}; it must be 1 or more, or auto")
        if not self.minutes > 0:
            raise UsageError(f"shard.minutes is {self.minutes}; it must be more than 0")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How the machine is used; these change no result beyond the last digits.

    Attributes
    ----------
    backend, device: see `m3flow.flow.estimator`.
    batch: frame pairs computed at a time; 0 chooses by the device's memory.
    workers: processes of a shard job; 0 chooses by its cores and GPUs.
    gpus: GPUs of a shard job; 0 takes all that it was given.
    """

    backend: str = "auto"
    device: str = "auto"
    batch: int = 0
    workers: int = 0
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All of config.yaml, under its names; `videos` also holds `root`, `layout.parts` and `exclude`."""

    videos: VideoList
    output: Path = Path("results")
    granularity: str = "video"
    flow: FlowSettings = field(default_factory=FlowSettings)
    keep_flow: bool = True
    trajectories: TrajectorySettings = field(default_factory=TrajectorySettings)
    shard: ShardSettings = field(default_factory=ShardSettings)
    limits: Limits = field(default_factory=Limits)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        one_pass = self.granularity == "shard" and self.shard.one_pass
        if self.trajectories.confidence == "forward-backward" and not one_pass:
            raise UsageError(FLOW_BACK_NOT_STORED)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Experiment:
        """The experiment that a configuration describes; raises UsageError for anything it cannot mean."""
        known = "videos root output exclude layout granularity flow trajectories shard limits run".split()
        for key in config:
            if key not in known:
                raise UsageError(f"the configuration has no key {key!r}; it has: {', '.join(known)}")
        if not config.get("videos"):
            raise UsageError("the configuration names no list of videos; set `videos`")
        flow = dict(config.get("flow") or {})
        keep_flow = flow.pop("keep", True)
        granularity = config.get("granularity", "video")
        if granularity not in GRANULARITIES:
            raise UsageError(f"granularity is {granularity!r}; choose from {', '.join(GRANULARITIES)}")
        return cls(
            videos=VideoList(
                Path(config["videos"]),
                Path(config.get("root", ".")),
                _section("layout", config, Layout).parts,
                Path(config["exclude"]) if config.get("exclude") else None,
            ),
            output=Path(config.get("output", "results")),
            granularity=granularity,
            flow=_settings("flow", flow, FlowSettings),
            keep_flow=bool(keep_flow),
            trajectories=_section("trajectories", config, TrajectorySettings),
            shard=_section("shard", config, ShardSettings),
            limits=_section("limits", config, Limits),
            run=_section("run", config, RunSettings),
        )

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.output)

    @property
    def wants_flow(self) -> bool:
        """Whether flow is computed at all: motion vectors of the codec need none."""
        return self.trajectories.job != "mvs"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`parts`: how many last parts of a video's path name its outputs."""

    parts: int = 3


def _section(name: str, config: Mapping[str, Any], kind: type) -> Any:
    return _settings(name, config.get(name) or {}, kind)


def _settings(name: str, values: Any, kind: type) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(f"{name} is {values!r}; it must be a mapping of keys to values")
    known = [item.name for item in fields(kind)]
    for key in values:
        if key not in known:
            raise UsageError(f"{name} has no key {key!r}; it has: {', '.join(known)}")
    return kind(**values)
