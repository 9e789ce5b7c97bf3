"""Cuts: where the picture is another one from one frame to the next, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.scoring.scenes import SCENES, make_scene
from m3flow.settings import FlowSettings
from m3flow.videos.cuts import CutCounter
from m3flow.videos.videolist import Video
from support.clips import write_lossy_video


def cuts(*pieces: np.ndarray) -> int:
    counter = CutCounter()
    for piece in pieces:
        counter.add(piece)
    return counter.count()


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_has_the_cuts_that_it_was_rendered_with(name: str) -> None:
    scene = make_scene(name, frames=9, height=96, width=128)
    assert cuts(scene.frames) == (scene.cut is not None)


def test_scenes_one_after_the_other_in_any_pieces() -> None:
    names = ("affine", "zoom", "noise", "object")
    film = np.concatenate([make_scene(name, frames=6, height=96, width=128).frames for name in names])
    assert cuts(film) == cuts(film[:1], film[1:6], film[6:7], film[7:]) == len(names) - 1


def test_too_short_to_tell() -> None:
    frames = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)])
    assert cuts(frames[:0]) == cuts(frames[:1]) == cuts(frames) == 0


def test_the_record_has_them_also_when_the_flow_is_kept(tmp_path: Path) -> None:
    scene = make_scene("cut", frames=9, height=96, width=128)
    video = Video(str(write_lossy_video(tmp_path / "clip.mkv", scene.frames)), "clip.mkv")
    work = Work(outputs=Outputs(tmp_path / "out"), flow=FlowSettings(camera="none"))
    for status in ("done", "kept"):
        with Extractor(work) as extractor:
            record = extractor(video)
        assert (record.status, record.cuts) == (status, 1)
