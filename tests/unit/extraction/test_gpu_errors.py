"""A GPU that becomes unusable in the middle of a run, wherever its error surfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3flow.camera.compensation import MotionEstimator
from m3flow.errors import BadInput
from m3flow.extraction import gpu_errors
from m3flow.extraction.camera_search import SearchedBatches
from m3flow.extraction.downloads import Downloads
from m3flow.extraction.extractor import Extractor, Queue
from m3flow.extraction.frame_buffer import FrameBuffer
from m3flow.extraction.gpu_errors import DeviceLost
from m3flow.extraction.tasks import FrameTask
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.settings import FlowSettings
from m3flow.videos.videolist import Video
from support.clips import clip

FAST = FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="warp")
ILLEGAL = "CUDA error: an illegal memory access was encountered\nsecond line"
PLACES: dict[str, tuple[type, str]] = {
    "upload": (FrameBuffer, "append"),
    "search": (MotionEstimator, "candidates"),
    "flow": (MotionEstimator, "__call__"),
    "quantising": (FrameTask, "derive"),
    "start of a copy": (Downloads, "start"),
    "end of a copy": (Downloads, "start"),
}


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    return [Video(str(clip(tmp_path / f"{n}.mkv", 8 + n, seed=n)), f"{n}.mkv") for n in range(4)]


def extracted(
    monkeypatch: pytest.MonkeyPatch,
    videos: list[Video],
    folder: Path,
    place: str,
    error: Exception,
    lost: bool,
) -> list[Record]:
    """The records of a run on a simulated GPU; from its third call on, the place raises the error."""
    broken: list[bool] = []
    owner, name = (PLACES | BETWEEN_VIDEOS)[place]
    original = getattr(owner, name)

    def fail() -> Any:
        broken.append(True)
        raise error

    def call(*arguments: Any, **how: Any) -> Any:
        calls.append(None)
        if len(calls) < 3:
            return original(*arguments, **how)
        return fail if place == "end of a copy" else fail()

    calls: list[None] = []
    monkeypatch.setattr(owner, name, call)
    monkeypatch.setattr(gpu_errors, "is_usable", lambda _device: not (lost and broken))
    records: list[Record] = []
    with Extractor(Work(outputs=Outputs(folder), flow=FAST, backend="opencv", batch=4)) as extractor:
        extractor.device = "cuda:0"
        extractor.run(Queue(videos), records.append)
    return records


# Outside of what is one video's.
BETWEEN_VIDEOS: dict[str, tuple[type, str]] = {"between videos": (SearchedBatches, "end")}


@pytest.mark.parametrize("place", [*PLACES, *BETWEEN_VIDEOS])
def test_no_video_is_called_failed_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, videos: list[Video], place: str
) -> None:
    with pytest.raises(DeviceLost, match=r"^cuda:0 cannot be used any more: CUDA error: an illegal"):
        extracted(monkeypatch, videos, tmp_path / "out", place, RuntimeError(ILLEGAL), lost=True)


@pytest.mark.parametrize("place", PLACES)
def test_a_video_that_fails_on_a_usable_gpu_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, videos: list[Video], place: str
) -> None:
    records = extracted(monkeypatch, videos, tmp_path / "out", place, RuntimeError("a bug"), lost=False)
    assert [record.video for record in records] == [video.name for video in videos]
    assert records[-1].status == "failed" and "a bug" in records[-1].reason


def test_a_damaged_video_is_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, videos: list[Video]
) -> None:
    """Without asking the GPU, which may have other troubles by then."""
    records = extracted(monkeypatch, videos, tmp_path / "out", "search", BadInput("cut off"), lost=True)
    assert records[-1].status == "rejected"
