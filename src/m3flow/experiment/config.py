"""Experiments: config.yaml read into the settings of the library."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from m3flow.errors import UsageError
from m3flow.layout import Outputs
from m3flow.results.stored_flow import ExistingFlow
from m3flow.settings import (
    FLOW_BACK_NOT_STORED,
    PRESETS,
    FlowSettings,
    FrameSettings,
    Preset,
    TrajectorySettings,
)
from m3flow.validation import SettingsError, number, problems_of, refuse, shown
from m3flow.videos.limits import Limits
from m3flow.videos.videolist import VideoList

Granularity = Literal["auto", "video", "shard"]
# Allowed instead of a table in `exclude`.
REJECTED = "rejected"


def typed(value: Any) -> Any:
    """A configuration with numbers and booleans that are given as text converted to their types.

    Snakemake passes the nested values of `--config flow='{step: 2}'` as text. It converts the outer ones
    itself; they are mostly paths and stay unchanged.
    """
    if isinstance(value, Mapping):
        return {key: typed(inner) for key, inner in value.items()}
    return typed_text(value) if isinstance(value, str) else value


def typed_text(text: str) -> Any:
    """The number or boolean for a text that is one in YAML, else the text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, int | float) else text


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.yaml file.

    Raises UsageError for a file that cannot be read or is not a mapping.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{where}: not YAML: {' '.join(str(problem).split())}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path}: the configuration must be a mapping of keys to values")
    return config


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Division of the list into jobs.

    Attributes
    ----------
    videos: videos per shard, or "auto": as many as take `minutes`, according to the calibration.
    minutes: the target time of a shard.
    one_pass: make flow and trajectories in one job, without reading the flow back.
    pack: put the results of a shard into a pack when they are made, and remove the single files.
    calibration: the file written by `m3flow calibrate`; required only with `videos: auto`.
    """

    videos: int | Literal["auto"] = number(256, least=1)
    minutes: float = number(60.0, above=0)
    one_pass: bool = False
    pack: bool = False
    calibration: str = "calibration.json"

    def __post_init__(self) -> None:
        refuse(problems_of(self))


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Use of the machine; does not change results beyond the last digits.

    Attributes
    ----------
    backend, device: see `m3flow.flow.estimator`.
    batch: frame pairs per batch; 0 chooses by the device's memory.
    workers: processes of a shard job; 0 chooses by its cores and GPUs.
    gpus: GPUs of a shard job; 0: all that it was given.
    """

    backend: Literal["auto", "torch", "opencv"] = "auto"
    device: str = "auto"
    batch: int = number(0, least=0)
    workers: int = number(0, least=0)
    gpus: int = number(0, least=0)

    def __post_init__(self) -> None:
        problems = problems_of(self)
        if isinstance(self.device, str) and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            problems.append(("device", f" is {shown(self.device)}; choose from auto, cpu, cuda, cuda:N"))
        if not problems and 0 < self.workers < self.gpus:
            text = f" is {self.workers}, fewer than gpus ({self.gpus}): each GPU needs a worker of its own"
            problems.append(("workers", text))
        refuse(problems)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`parts`: number of trailing parts of a video's path that make up its output name."""

    parts: int = number(3, least=1)

    def __post_init__(self) -> None:
        refuse(problems_of(self))


@dataclass(frozen=True, kw_only=True)
class General:
    """The keys outside the sections of config.yaml."""

    videos: str = ""
    root: str = "."
    output: str = "results"
    exclude: str | None = None
    preset: Preset = "none"
    granularity: Granularity = "auto"

    def __post_init__(self) -> None:
        refuse(problems_of(self))


@dataclass(frozen=True, kw_only=True)
class Keep:
    """`keep`: whether to keep the flow files after the trajectories are made."""

    keep: bool = True

    def __post_init__(self) -> None:
        refuse(problems_of(self))


@dataclass(frozen=True, kw_only=True)
class Existing:
    """`existing`: the folder of flow that other programs wrote; "" to compute flow. `form`: how it is stored."""

    existing: str = ""
    form: Literal["images", "flo", "h5", "npz"] = "images"

    def __post_init__(self) -> None:
        refuse(problems_of(self))


# The settings classes of each section; "" is for keys outside the sections.
SECTIONS: dict[str, tuple[type, ...]] = {
    "": (General,),
    "layout": (Layout,),
    "frames": (FrameSettings,),
    "flow": (FlowSettings, Keep, Existing),
    "trajectories": (TrajectorySettings,),
    "shard": (ShardSettings,),
    "limits": (Limits,),
    "run": (RunSettings,),
}


def keys_of(section: str) -> list[str]:
    """The keys of a section of config.yaml."""
    return [name for kind in SECTIONS[section] for name in _names(kind)]


def _names(kind: type) -> list[str]:
    """The fields of a settings class, but those that are a section of their own."""
    return [item.name for item in fields(kind) if "section" not in item.metadata]


def every_key() -> list[str]:
    """The keys of config.yaml, such as `root` and `flow.estimator`."""
    return [f"{section}.{key}" if section else key for section in SECTIONS for key in keys_of(section)]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The content of config.yaml, under the same names; `videos` includes `root`, `layout.parts` and `exclude`.

    `granularity` is "video", "shard", or "auto": shards on a cluster, else one job per video.
    `skip_rejected` is `exclude: rejected`: videos that were rejected before are not retried.
    """

    videos: VideoList
    output: Path = Path("results")
    granularity: Granularity = "auto"
    skip_rejected: bool = False
    flow: FlowSettings = field(default_factory=FlowSettings)
    keep_flow: bool = True
    existing: ExistingFlow | None = None
    trajectories: TrajectorySettings = field(default_factory=TrajectorySettings)
    shard: ShardSettings = field(default_factory=ShardSettings)
    limits: Limits = field(default_factory=Limits)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        one_pass = self.shard.one_pass or not self.keep_flow
        if self.trajectories.confidence == "forward-backward" and not one_pass:
            raise UsageError(FLOW_BACK_NOT_STORED)
        if self.flow.frames.store != "none" and not self.keep_flow:
            raise UsageError("frames.store is jpg, which needs flow.keep: frames are stored next to the flow")

    @classmethod
    def of(cls, config: Mapping[str, Any], kept: Collection[str] = ()) -> Experiment:
        """The experiment of a configuration.

        kept: keys, such as `flow.step`, that its preset does not override.

        Raises SettingsError with every unknown key and every invalid value.
        """
        config = with_preset(config, kept)
        reader = _Reader()
        sections: dict[type, Any] = {}
        for section in SECTIONS:
            sections |= reader.read(section, config if not section else config.get(section))
        general: General = sections[General]
        if not config.get("videos"):
            reader.problems.append(("videos", " is not set: the configuration names no list of videos"))
        refuse(reader.problems)
        return cls(
            videos=VideoList(
                Path(general.videos),
                Path(general.root),
                sections[Layout].parts,
                Path(general.exclude) if general.exclude and general.exclude != REJECTED else None,
            ),
            skip_rejected=general.exclude == REJECTED,
            output=Path(general.output),
            granularity=general.granularity,
            flow=replace(sections[FlowSettings], frames=sections[FrameSettings]),
            keep_flow=sections[Keep].keep,
            existing=_existing(sections[Existing], sections[FlowSettings]),
            trajectories=sections[TrajectorySettings],
            shard=sections[ShardSettings],
            limits=sections[Limits],
            run=sections[RunSettings],
        )

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.output)

    @property
    def wants_flow(self) -> bool:
        """Whether flow is computed at all: motion vectors of the codec and existing flow need none."""
        return self.trajectories.job != "mvs" and self.existing is None


def _existing(existing: Existing, flow: FlowSettings) -> ExistingFlow | None:
    if not existing.existing:
        return None
    return ExistingFlow(root=Path(existing.existing), form=existing.form, bound=flow.bound, step=flow.step)


def with_preset(config: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
    """The configuration overridden by the settings of its `preset`, except for the keys `kept`."""
    values = dict(config)
    name = values.get("preset")
    for section, settings in (PRESETS.get(name, {}) if isinstance(name, str) else {}).items():
        given = values.get(section)
        if given is not None and not isinstance(given, Mapping):
            continue  # the section itself is rejected
        replaced = {
            key: value
            for key, value in settings.items()
            if not any(f"{other}.".startswith(f"{section}.{key}.") for other in kept)
        }
        values[section] = {**(given or {}), **replaced}
    return values


class _Reader:
    """Reads the sections of a configuration and collects their problems."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def read(self, section: str, values: Any) -> dict[type, Any]:
        """The settings of a section; the defaults if it has a problem."""
        kinds = SECTIONS[section]
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            text = (
                f" is {shown(values)}; it must be a mapping of keys to values: {', '.join(keys_of(section))}"
            )
            self.problems.append((section, text))
            values = {}
        before = f"{section}." if section else ""
        known = keys_of(section)
        for key in values:
            if key not in known and (section or key not in SECTIONS):
                self.problems.append((f"{before}{key}", unknown_key(f"{before}{key}", section)))
        found: dict[type, Any] = {}
        for kind in kinds:
            names = _names(kind)
            try:
                found[kind] = kind(**{key: value for key, value in values.items() if key in names})
            except SettingsError as error:
                self.problems += [(before + name, text) for name, text in error.problems]
                found[kind] = kind()
        return found


def nearest_key(key: str) -> str:
    """The key of config.yaml most similar to `key`, or with its name in another section; "" if none."""
    keys = every_key()
    section, _, name = key.rpartition(".")
    if section in SECTIONS:
        # By the name alone: with the section's name, all its keys would be similar.
        near = [f"{section}.{one}" for one in difflib.get_close_matches(name, keys_of(section), 1)]
        near = [one.removeprefix(".") for one in near]
    else:
        near = difflib.get_close_matches(key, keys, 1)
    near = near or [other for other in keys if other.rpartition(".")[2] == name]
    return near[0] if near else ""


def unknown_key(key: str, section: str = "") -> str:
    """The message about an unknown key: the most similar key, else the keys of its section."""
    if near := nearest_key(key):
        return f" is not a key of the configuration; did you mean {near}?"
    known = keys_of(section) + ([] if section else [name for name in SECTIONS if name])
    return f" is not a key of the configuration; {section or 'it'} has: {', '.join(known)}"
