"""Settings of an experiment and their defaults, named as in config.yaml and on the command line."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from m3flow.errors import UsageError
from m3flow.validation import number, problems_of, refuse, shown
from m3flow.videos.resize import Resize

# Written into the files with the settings. A release whose results differ under the same settings increments the
# number: results of the earlier number are then made again.
FLOW_VERSION, TRAJECTORY_VERSION = 2, 1

Camera = Literal["warp", "none"]
Scheme = Literal["auto", "one-pass", "two-pass"]
Store = Literal["mp4", "jpg", "png", "npz", "h5", "flo"]
Values = Literal["float16", "uint8"]
FrameStore = Literal["none", "jpg"]
Codec = Literal["mpeg4", "fine", "h264", "h264-lossless"]
Job = Literal["trajs_dense", "trajs", "mvs"]
Tracking = Literal["subpixel", "integer"]
Track = Literal["motion", "pixels"]
Confidence = Literal["none", "photometric", "forward-backward"]
Preset = Literal["none", "original"]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    # The original extractor (Sun et al., CVPR 2023; warped flow: Wang and Schmid, ICCV 2013).
    "original": {
        "flow": {
            "estimator": "farneback",
            "parameters": {},
            "camera": "warp",
            "scheme": "two-pass",
            "cuts": False,
            "bound": 20.0,
            "step": 1,
            "codec": "mpeg4",
            "dither": False,
        },
        "trajectories": {"tracking": "integer", "track": "motion", "fine": False},
    },
}
"""Settings that one name stands for."""

SIZE = re.compile(r"(1[6-9]|[2-9]\d|\d{3,4})x(1[6-9]|[2-9]\d|\d{3,4})")
IMAGE_STORES = ("jpg", "png", "flo")

FLOW_BACK_NOT_STORED = (
    "confidence forward-backward needs backward flow, which is not stored: make flow and trajectories in one "
    "pass (shard.one_pass), or use photometric"
)
BACKWARD = "flow.step is {}: trajectories follow forward flow, with a step of 1 or more"


def resize_of(identity: dict[str, Any]) -> Resize:
    """The resize of flow with these settings (`FlowSettings.identity`)."""
    return Resize(**{key: identity[key] for key in ("short_side", "long_side", "size") if key in identity})


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Settings of the frames that flow is computed from.

    Attributes
    ----------
    rate: sample the video at this many frames per second (see `m3flow.videos.frame_rate`); 0 takes every frame.
    store: "jpg" stores the frames as images next to the flow.
    quality: of these images, from 1 to 100.
    """

    rate: float = number(0.0, above=0, zero=True)
    store: FrameStore = "none"
    quality: int = number(95, least=1, most=100)

    def __post_init__(self) -> None:
        refuse(problems_of(self))

    def identity(self) -> dict[str, Any]:
        """Their part of `FlowSettings.identity`: only what has an effect."""
        stored = {"frames": {"store": self.store, "quality": self.quality}} if self.store != "none" else {}
        return ({"rate": float(self.rate)} if self.rate else {}) | stored


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Settings of flow extraction.

    Attributes
    ----------
    estimator, parameters: see `m3flow.flow.estimator`.
    camera: "warp" removes the camera motion, "none" keeps it.
    scheme: the compensation scheme (see `m3flow.camera.compensation`).
    camera_confidence: a camera less probable than this, from 0 to 1, is not removed.
    cuts: whether to detect cuts; no flow crosses one.
    bound: the largest displacement stored, in pixels; larger ones saturate.
    step: the flow goes from frame t to frame t + step; backward if it is negative.
    codec: "mpeg4" (small, quickly written), "fine" (levels that are closer together where motion is slow), "h264"
        (read alike by every program) or "h264-lossless" (levels are restored exactly).
    store: the form in which flow is stored (see `m3flow.results.forms`); `codec` applies to mp4 alone.
    zip: jpg, png and flo in one zip archive per video instead of a folder.
    values: of npz and h5: "float16" pixels or "uint8" levels.
    dither: whether linear levels are dithered over time, so that their rounding does not accumulate along a
        trajectory (see `m3flow.results.quantisation`).
    short_side, long_side: the side, in pixels, to which frames are resized before flow; 0 keeps their size.
    size: the width and height to which they are resized, as "340x256"; "" keeps their size.
    frames: see `FrameSettings`.
    """

    estimator: str = "dis"
    parameters: dict[str, Any] = field(default_factory=dict)
    camera: Camera = "warp"
    scheme: Scheme = "auto"
    camera_confidence: float = number(0.4, least=0, most=1)
    cuts: bool = True
    bound: float = number(20.0, above=0)
    step: int = 1
    store: Store = "mp4"
    codec: Codec = "mpeg4"
    zip: bool = False
    values: Values = "float16"
    dither: bool = True
    short_side: int = number(0, least=16, zero=True)
    long_side: int = number(0, least=16, zero=True)
    size: str = ""
    frames: FrameSettings = field(default_factory=FrameSettings, metadata={"section": "frames"})

    def __post_init__(self) -> None:
        from m3flow.flow import ESTIMATORS

        problems = problems_of(self)
        if not any(name in ("estimator", "parameters") for name, _ in problems):
            if self.estimator not in ESTIMATORS:
                text = f" is {shown(self.estimator)}; choose from {', '.join(ESTIMATORS)}"
                problems.append(("estimator", text))
            else:
                try:
                    ESTIMATORS[self.estimator].parameters.of(self.estimator, self.parameters)
                except UsageError as error:
                    problems += [("parameters", f": {line}") for line in str(error).splitlines()]
        if self.step == 0:
            problems.append(("step", " is 0; it must be 1 or more, or -1 or less for backward flow"))
        if self.size and not SIZE.fullmatch(str(self.size)):
            problems.append(("size", f" is {shown(self.size)}; it must be like 340x256, 16 pixels or more"))
        if sum(map(bool, (self.short_side, self.long_side, self.size))) > 1:
            problems.append(("size", ": only one of short_side, long_side and size can be set"))
        if self.zip is True and self.store not in IMAGE_STORES:
            problems.append(("zip", f" is true, which needs store jpg, png or flo, not {self.store}"))
        if self.store == "h5" and find_spec("h5py") is None:
            problems.append(("store", " is h5, which needs h5py: pip install m3flow[h5]"))
        refuse(problems)

    @property
    def resize(self) -> Resize:
        """The size to which frames are resized."""
        return Resize(self.short_side, self.long_side, self.size)

    @property
    def distance(self) -> int:
        """The number of frames from one frame of a pair to the other."""
        return abs(self.step)

    @property
    def _linear_levels(self) -> bool:
        if self.store in ("npz", "h5"):
            return self.values == "uint8"
        return self.codec != "fine" if self.store == "mp4" else self.store != "flo"

    def identity(self) -> dict[str, Any]:
        """Everything that determines the content of the flow files, as JSON values; equal for equal results.

        Settings without effect are left out: files made before these settings existed stay current.
        """
        from m3flow.flow import ESTIMATORS

        values = asdict(self)
        values["parameters"] = (
            ESTIMATORS[self.estimator].parameters.of(self.estimator, self.parameters).identity()
        )
        values["bound"] = float(self.bound)
        if self.camera == "none":
            values["scheme"] = ""
            del values["camera_confidence"]
        del values["store" if self.store == "mp4" else "codec"]
        for key in ("zip", "long_side", "size"):
            if not values[key]:
                del values[key]
        if self.store not in ("npz", "h5"):
            del values["values"]
        if not self.dither or not self._linear_levels:
            del values["dither"]
        del values["frames"]
        return {**values, **self.frames.identity(), "version": FLOW_VERSION}


@dataclass(frozen=True, kw_only=True)
class TrajectorySettings:
    """Settings of trajectory extraction.

    Attributes
    ----------
    length: the number of steps of a trajectory.
    job: "trajs_dense" (a window at every frame), "trajs" (windows end to end), "mvs" (the codec's own
        motion vectors in place of flow).
    tracking: "subpixel" or "integer" (see `m3flow.trajectories.track`).
    track: the path of a point where the camera motion is removed: "motion" follows the stored flow, "pixels"
        the pixel in the video; both store the motion without the camera's.
    confidence: "photometric" or "forward-backward" adds the confidence of each point to the file (see
        `m3flow.trajectories.confidence`), "none" does not.
    fine: add the displacements in 1/16 px.
    """

    length: int = number(6, least=1, most=999)
    job: Job = "trajs_dense"
    tracking: Tracking = "subpixel"
    track: Track = "motion"
    confidence: Confidence = "none"
    fine: bool = False

    def __post_init__(self) -> None:
        problems = problems_of(self)
        if self.track == "pixels" and (self.tracking == "integer" or self.job == "mvs"):
            text = " is pixels, which needs tracking subpixel and flow: not integer, not the job mvs"
            problems.append(("track", text))
        if self.confidence != "none" and self.job == "mvs":
            problems.append(("confidence", f" is {self.confidence}, which needs flow: the job mvs has none"))
        if self.fine and self.tracking == "integer":
            problems.append(
                ("fine", " is true, which needs tracking subpixel: integer has whole pixels only")
            )
        refuse(problems)

    def identity(self) -> dict[str, Any]:
        """Everything but the flow that determines the content of the trajectory file.

        Settings that add an array appear only where they do: files older than these settings stay current.
        """
        values = asdict(self)
        if self.confidence == "none":
            del values["confidence"]
        if not self.fine:
            del values["fine"]
        return {**values, "version": TRAJECTORY_VERSION}
