"""What an experiment sets, with its defaults: the same names as in config.yaml and on the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from m3flow.errors import UsageError

Camera = Literal["warp", "none"]
Scheme = Literal["auto", "one-pass", "prior", "pyramid-prior", "two-pass"]
Codec = Literal["mpeg4", "h264-lossless"]
Job = Literal["trajs_dense", "trajs", "mvs"]
Tracking = Literal["subpixel", "integer"]
Track = Literal["motion", "pixels"]
Confidence = Literal["none", "photometric", "forward-backward"]


FLOW_BACK_NOT_STORED = (
    "confidence forward-backward needs the flow back, which is not stored: make flow and trajectories in one "
    "pass (granularity shard, shard.one_pass), or use photometric"
)


class SettingsError(UsageError):
    """Settings that cannot be used; one line for each problem.

    Attributes
    ----------
    problems: (name of the setting, what is wrong, as it follows the name) of each.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(name + text for name, text in self.problems))


def number(
    default: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = math.inf,
    zero: bool = False,
) -> Any:
    """A field of a settings class that holds a number.

    Allowed are numbers from `least` on, or above `above`, up to `most` and finite; and 0, if `zero`.
    """
    return field(default=default, metadata={"least": least, "above": above, "most": most, "zero": zero})


def problems_of(settings: Any) -> list[tuple[str, str]]:
    """Every value of a settings object that its field's type or range does not allow, as in SettingsError."""
    hints = get_type_hints(type(settings))
    problems = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        allowed = _violated(value, hints[item.name], dict(item.metadata))
        if allowed:
            problems.append((item.name, f" is {shown(value)}; {allowed}"))
    return problems


def refuse(problems: Sequence[tuple[str, str]]) -> None:
    """Raise SettingsError where there are problems."""
    if problems:
        raise SettingsError(problems)


def shown(value: Any) -> str:
    """A value as a message names it."""
    if value is None:
        return "empty"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _violated(value: Any, hint: Any, limits: dict[str, Any]) -> str:
    """What is allowed where the value is not, else ""."""
    origin = get_origin(hint)
    if origin is Literal:
        return "" if _is_choice(value, hint) else f"choose from {', '.join(get_args(hint))}"
    if origin in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if (value is None and len(kinds) < len(get_args(hint))) or any(
            _is_choice(value, kind) for kind in kinds
        ):
            return ""
        words = "".join(f", or {choice}" for kind in kinds for choice in get_args(kind))
        allowed = _violated(value, kinds[0], limits)
        return allowed + words if allowed else ""
    if hint in (int, float):
        kind = int if hint is int else (int, float)
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        return "" if is_number and _in_range(value, limits) else f"it must be {_range(hint, limits)}"
    if origin is dict or hint is dict:
        return "" if isinstance(value, dict) else "it must be a mapping of keys to values"
    names = {bool: "true or false", str: "text"}
    return "" if isinstance(value, hint) else f"it must be {names[hint]}"


def _is_choice(value: Any, kind: Any) -> bool:
    return get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind)


def _in_range(value: float, limits: dict[str, Any]) -> bool:
    if not limits:
        return math.isfinite(value)
    if limits["zero"] and value == 0:
        return True
    from_below = value >= limits["least"] if limits["least"] is not None else value > limits["above"]
    return from_below and value <= limits["most"] and math.isfinite(value)


def _range(hint: Any, limits: dict[str, Any]) -> str:
    words = "a whole number" if hint is int else "a number"
    if not limits:
        return words
    if limits["most"] < math.inf:
        words += f" from {limits['least']} to {limits['most']}"
    elif limits["least"] is not None:
        words += f", {limits['least']} or more"
    else:
        words += f" of more than {limits['above']}"
    return words + (", or 0" if limits["zero"] else "")


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
