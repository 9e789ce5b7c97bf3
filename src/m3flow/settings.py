"""What an experiment sets, with its defaults: the same names as in config.yaml and on the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from m3flow.errors import UsageError
from m3flow.validation import number, problems_of, refuse, shown

Camera = Literal["warp", "none"]
Scheme = Literal["auto", "one-pass", "prior", "pyramid-prior", "two-pass"]
Codec = Literal["mpeg4", "h264-lossless"]
Job = Literal["trajs_dense", "trajs", "mvs"]
Tracking = Literal["subpixel", "integer"]
Track = Literal["motion", "pixels"]
Confidence = Literal["none", "photometric", "forward-backward"]
Preset = Literal["none", "original"]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    # What the original extractor does (Sun et al., CVPR 2023; warped flow: Wang and Schmid, ICCV 2013).
    "original": {
        "flow": {
            "estimator": "farneback",
            "parameters": {},
            "camera": "warp",
            "scheme": "two-pass",
            "bound": 20.0,
            "step": 1,
            "codec": "mpeg4",
        },
        "trajectories": {"tracking": "integer", "track": "motion", "fine": False},
    },
}
"""Settings that one name stands for."""

FLOW_BACK_NOT_STORED = (
    "confidence forward-backward needs the flow back, which is not stored: make flow and trajectories in one "
    "pass (granularity shard, shard.one_pass), or use photometric"
)


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """How flow is made.

    Attributes
    ----------
    estimator, parameters: see `m3flow.flow.estimator`.
    camera: "warp" removes the camera's own motion, "none" keeps it.
    scheme: how it is removed (see `m3flow.camera.compensation`).
    bound: the largest displacement stored, in pixels; larger ones saturate.
    step: the flow goes from frame t to frame t + step.
    codec: "mpeg4" (small) or "h264-lossless" (levels come back exactly).
    short_side: frames are resized to this short side in pixels before flow; 0 keeps their size.
    """

    estimator: str = "farneback"
    parameters: dict[str, Any] = field(default_factory=dict)
    camera: Camera = "warp"
    scheme: Scheme = "auto"
    bound: float = number(20.0, above=0)
    step: int = number(1, least=1)
    codec: Codec = "mpeg4"
    short_side: int = number(0, least=16, zero=True)

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
                    problems.append(("parameters", f": {error}"))
        refuse(problems)

    def identity(self) -> dict[str, Any]:
        """All that decides what the flow files hold, as plain JSON values; equal for equal results."""
        from m3flow.flow import ESTIMATORS

        values = asdict(self)
        values["parameters"] = (
            ESTIMATORS[self.estimator].parameters.of(self.estimator, self.parameters).as_dict()
        )
        values["bound"] = float(self.bound)
        if self.camera == "none":
            values["scheme"] = ""
        return values


@dataclass(frozen=True, kw_only=True)
class TrajectorySettings:
    """How trajectories are made.

    Attributes
    ----------
    length: how many steps a trajectory has.
    job: "trajs_dense" (a window at every frame), "trajs" (windows end to end), "mvs" (the codec's own
        motion vectors in place of flow).
    tracking: "subpixel" or "integer" (see `m3flow.trajectories.track`).
    track: what a point follows where the camera's motion was taken out: "motion", the stored flow itself, or
        "pixels", the pixel in the video, while the motion without the camera's is what is stored.
    confidence: "photometric" or "forward-backward" adds the confidence of each point to the file (see
        `m3flow.trajectories.confidence`), "none" does not.
    fine: adds the displacements in 1/16 px.
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
                ("fine", " is true, which needs tracking subpixel: integer has whole pixels alone")
            )
        refuse(problems)

    def identity(self) -> dict[str, Any]:
        """All that decides what the trajectory file holds beside the flow it is made from.

        What adds an array is left out where it adds none: files from before these settings stay current.
        """
        values = asdict(self)
        if self.confidence == "none":
            del values["confidence"]
        if not self.fine:
            del values["fine"]
        return values
