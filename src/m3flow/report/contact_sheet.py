"""Contact sheet: moments of a video in columns; frame, motion and trajectories in rows."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3flow.report import colour_wheel, drawing
from m3flow.report.canvas import FAINT, Canvas
from m3flow.report.clip import Clip, Moment

NARROWEST = 820  # minimum width in pixels, for the text of the heading
LABEL_TEXT = 76  # height of a row's name and note
PANEL = (300, 400)  # bounding box of a panel, height and width in pixels
MARGIN, GAP, ROW_GAP, LABELS, HEADER, HEADINGS, WHEEL = 28, 8, 20, 236, 84, 26, 96


@dataclass(frozen=True)
class Row:
    """A row of panels: its name, its explanation, the wheel's edge (0 for none), and a mark on each panel."""

    title: str
    note: str
    panels: list[np.ndarray]
    largest: float = 0.0
    edge: str = ""
    marks: tuple[str, ...] = ()


def contact_sheet(clip: Clip, columns: int = 4) -> np.ndarray:
    """A picture of `columns` moments of a clip: uint8 [H, W, 3], RGB."""
    moments = list(clip.moments(clip.spread(columns)))
    return _compose(clip, moments, _rows(clip, moments))


def encoded(picture: np.ndarray, kind: str = "png", quality: int = 80) -> bytes:
    """A picture uint8 [H, W, 3] as the bytes of a PNG ("png"), JPEG ("jpeg") or WebP ("webp") file."""
    from PIL import Image

    file = io.BytesIO()
    options: dict[str, dict[str, Any]] = {
        "png": {"optimize": True},
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality, "method": 5},
    }
    Image.fromarray(picture).save(file, kind, **options[kind])
    return file.getvalue()


def panel_size(moment: Moment, box: tuple[int, int] = PANEL) -> tuple[int, int]:
    """Height and width in pixels of a moment's panel, fitted into the box with its aspect ratio."""
    height, width = moment.size
    scale = min(box[0] / height, box[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _rows(clip: Clip, moments: list[Moment]) -> list[Row]:
    size = panel_size(moments[0])
    rows = []
    if any(moment.frame is not None for moment in moments):
        rows.append(Row("Frame", "", [drawing.frame(moment, *size) for moment in moments]))
    flows = [moment.flow for moment in moments if moment.flow is not None]
    cameras = [moment.camera for moment in moments if moment.camera is not None]
    if flows:
        note = "motion not explained by the camera" if cameras else "including camera motion"
        marks = tuple("a cut: no motion" if moment.cut else "" for moment in moments)
        rows.append(_flow_row(clip, "Flow", note, flows, size, marks if any(marks) else ()))
    if cameras:
        marks = tuple(_camera_mark(moment) for moment in moments)
        rows.append(_flow_row(clip, "Camera", "the motion that was removed", cameras, size, marks))
    largest = colour_wheel.scale_for(
        np.concatenate([np.hypot(*(m.points[-1] - m.points[0])[m.inside].T) for m in moments])
    )
    steps = len(moments[0].points) - 1
    path = "following the video's pixels" if clip.with_camera else "starting at the dots"
    rows.append(
        Row(
            "Trajectories",
            f"over {steps} steps, {path}; grey ones leave the frame or cross a cut",
            [drawing.trajectories(moment, largest, *size) for moment in moments],
            largest,
            f"{largest:g} px\nin {steps} steps",
        )
    )
    return rows


def _camera_mark(moment: Moment) -> str:
    if moment.cut:
        return "a cut"
    if not moment.accepted:
        return "no camera motion found"
    return "static camera" if moment.camera is not None and not moment.camera.any() else ""


def _flow_row(
    clip: Clip,
    title: str,
    note: str,
    fields: list[np.ndarray],
    size: tuple[int, int],
    marks: tuple[str, ...] = (),
) -> Row:
    largest = colour_wheel.scale_for(np.concatenate([np.hypot(*field).ravel() for field in fields]))
    frames = "per frame" if clip.step == 1 else f"in {clip.step} frames"
    panels = [drawing.flow(field, largest, *size) for field in fields]
    return Row(title, note, panels, largest, f"{largest:g} px\n{frames}", marks)


def _compose(clip: Clip, moments: list[Moment], rows: list[Row]) -> np.ndarray:
    height, width = rows[0].panels[0].shape[:2]
    left, top = MARGIN + LABELS, HEADER + HEADINGS
    canvas = Canvas(
        top + len(rows) * (height + ROW_GAP) - ROW_GAP + MARGIN,
        max(NARROWEST, left + len(moments) * (width + GAP) - GAP + MARGIN),
    )
    canvas.text(MARGIN, 24, canvas.shortened(clip.video.name, 15, "bold"), 15, weight="bold")
    canvas.text(MARGIN, 54, canvas.shortened(description(clip, moments[0]), 10), 10, FAINT)
    for column, moment in enumerate(moments):
        heading = f"frame {moment.number} · {float(moment.number / clip.rate):.2f} s"
        canvas.text(left + column * (width + GAP), HEADER + 4, heading, 10, FAINT)
    for index, row in enumerate(rows):
        y = top + index * (height + ROW_GAP)
        _label(canvas, row, y, height)
        for column, panel in enumerate(row.panels):
            x = left + column * (width + GAP)
            canvas.paste(drawing.framed(panel), x, y)
            if row.marks:
                canvas.text(x + 10, y + 8, row.marks[column], 10, FAINT)
    return canvas.picture()


def _label(canvas: Canvas, row: Row, y: int, height: int) -> None:
    canvas.text(MARGIN, y - 2, row.title, 12, weight="bold")
    canvas.text(MARGIN, y + 20, textwrap.fill(row.note, 28), 9.5, FAINT)
    size = min(WHEEL, height - LABEL_TEXT)
    if row.largest and size > 0:
        canvas.paste(colour_wheel.legend(size), MARGIN, y + height - size)
        text = f"edge of the\nwheel: {row.edge}"
        canvas.text(MARGIN + size + 10, y + height - size // 2 - 24, text, 9.5, FAINT)


def description(clip: Clip, moment: Moment) -> str:
    """One line on how the motion of a clip was computed."""
    height, width = moment.size
    settings: dict[str, Any] = clip.settings
    parts = [f"{width}×{height}", f"{float(clip.rate):.4g} frames/s"]
    if settings:
        parts.append(settings["estimator"])
        parts.append("camera motion removed" if settings["camera"] == "warp" else "camera motion included")
        parts.append(f"stored up to ±{settings['bound']:g} px")
    elif moment.flow is None:
        parts.append("trajectories of the codec's own motion vectors")
    else:
        parts.append("flow files without provenance")
    if clip.computed:
        parts.append("computed for this picture")
    return " · ".join(parts)
