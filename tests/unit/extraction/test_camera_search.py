"""The search for the camera before the flow: the same decisions, however the frames arrive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.camera import MotionEstimator
from m3flow.camera.selection import Selection
from m3flow.extraction.camera_search import CameraSearch
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.flow import estimator
from m3flow.layout import Outputs
from m3flow.results.homographies import camera_of
from m3flow.results.trajectoryfile import load_trajectories
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video
from support.clips import write_lossy_video


@pytest.fixture(scope="module")
def videos():
    """Frames of two lengths, the longer one with a cut, and one too short for a pair."""
    first, second = (make_scene(name, frames=14).frames for name in ("perspective", "rotation"))
    return {"long": np.concatenate([first, second]), "short": second[:9], "none": first[:1]}


def found(motion, videos, *, block, batch, shared):
    """What the search gives of each video: frames, decisions."""
    search = CameraSearch(motion, shared=shared)
    frames, decisions, ended = {name: [] for name in videos}, {name: [] for name in videos}, []

    def take(stretches):
        for stretch in stretches:
            assert stretch.error is None and stretch.owner not in ended
            assert len(stretch.frames) == len(stretch.decisions)
            frames[stretch.owner].extend(stretch.frames)
            decisions[stretch.owner].extend(stretch.decisions)
            if stretch.last:
                ended.append(stretch.owner)

    for name, video in videos.items():
        for start in range(0, len(video), block):
            take(search.add(name, video[start : start + block], batch))
        take(search.end(name))
    take(search.flush())
    assert sorted(ended) == sorted(videos)  # one without pairs need not wait
    return frames, decisions


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "shared"), [("opencv", False), ("torch", True)])
def test_decisions_do_not_depend_on_blocks_and_batches(videos, backend, shared):
    torch.set_num_threads(1)
    motion = MotionEstimator(estimator("farneback", backend=backend, device="cpu"))
    expected = motion.select(videos["long"])
    assert expected.cut.tolist() == [t == 13 for t in range(27)]
    assert expected.accepted.sum() > 20
    for block, batch in ((5, 3), (28, 40)):
        frames, decisions = found(motion, videos, block=block, batch=batch, shared=shared)
        for name, video in videos.items():
            np.testing.assert_array_equal(frames[name], video)
            assert len(decisions[name]) == len(video)
        selection = Selection.of(decisions["long"][:-1])
        np.testing.assert_allclose(selection.homographies, expected.homographies, atol=1e-4)
        np.testing.assert_allclose(selection.confidence, expected.confidence, atol=1e-4)
        assert (selection.cut == expected.cut).all() and (selection.accepted == expected.accepted).all()


@pytest.mark.parametrize("camera", ["warp", "none"])
def test_a_cut_is_in_the_record_the_flow_file_and_the_trajectories(tmp_path, camera):
    frames = make_scene("cut", frames=14, height=96, width=128).frames
    video = Video(str(write_lossy_video(tmp_path / "clip.mkv", frames)), "clip.mkv")
    outputs = Outputs(tmp_path / "out")
    flow = FlowSettings(camera=camera, codec="h264-lossless")
    once = Work(outputs=outputs, flow=flow, trajectories=TrajectorySettings(length=3))
    from_stored_flow = Work(outputs=outputs, trajectories=TrajectorySettings(length=2))
    for work, status in ((once, "done"), (once, "kept"), (from_stored_flow, "done")):
        with Extractor(work) as extractor:
            record = extractor(video)
        assert record.status == status
        assert record.cuts == (-1 if work is from_stored_flow else 1)
    cut = camera_of(outputs.flow("clip.mkv")).cuts
    assert len(cut) == 1
    for length in (3, 2):
        kinds = load_trajectories(outputs.trajectories("clip.mkv", length)).traj_type
        crosses = [start <= cut[0] < start + length for start in range(len(kinds))]
        assert [not kind.any() for kind in kinds] == crosses
    uncut = Work(outputs=outputs, flow=FlowSettings(camera=camera, cuts=False))
    with Extractor(uncut) as extractor:
        assert extractor(video).cuts == -1
    assert camera_of(outputs.flow("clip.mkv")).cuts is None
