"""Per-video measurements of the records, with their titles in the page.

A new column of the records needs one line here to get a chart, a column in the page's list, or both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A column of the records.

    Attributes
    ----------
    column: its name in the records. A negative value means "not measured".
    made_with: the kind of run that measures it: flow, trajectories, or either.
    title: of its chart; "" for none. unit: of the chart's axis.
    heading: of its column in the page's list; "" for none.
    share: whether it is a share from 0 to 1.
    """

    column: str
    made_with: Literal["flow", "trajectories", "either"]
    title: str
    unit: str
    heading: str = ""
    share: bool = False


SHARE_OF_PIXELS, PIXELS_PER_FRAME = "share of the pixels", "pixels per frame"
MEASURES = (
    Measure("speed", "flow", "Mean motion", PIXELS_PER_FRAME, "Mean px"),
    Measure("speed_p95", "flow", "95th percentile of the motion", PIXELS_PER_FRAME, "p95 px"),
    Measure("camera_shift", "flow", "Camera motion", PIXELS_PER_FRAME),
    Measure("saturated", "flow", "Pixels at the bound", SHARE_OF_PIXELS, "At the bound", share=True),
    Measure("still", "flow", "Still pixels", SHARE_OF_PIXELS, "Still", share=True),
    Measure(
        "outside", "trajectories", "Trajectories leaving the frame", "share of the trajectories", "Outside", share=True
    ),
    Measure("reliable", "trajectories", "Reliable trajectories", "share of the trajectories", share=True),
    Measure("camera", "flow", "Camera found", "share of the frame pairs", "Camera found", share=True),
    Measure("camera_confidence", "flow", "Confidence in the camera", "mean probability", "Camera sure", share=True),
    Measure("cuts", "flow", "Cuts", "cuts", "Cuts"),
    Measure("bars", "flow", "Letterbox and pillar bars", "share of the frame", share=True),
    Measure("windows", "trajectories", "", "windows"),
    Measure("frames", "either", "Length", "frames", "Frames"),
    Measure("seconds", "either", "Time taken", "seconds of a worker", "Seconds"),
)  # fmt: skip
LISTED = tuple(measure for measure in MEASURES if measure.heading)


def columns(made_with: str) -> list[str]:
    """The columns measured by one kind of run."""
    return [measure.column for measure in MEASURES if measure.made_with == made_with]
