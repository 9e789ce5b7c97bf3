"""Frames next to the flow, flow at a rate, and backward flow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from m3flow.camera import put_camera_back
from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import due
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.homographies import homographies_of
from m3flow.results.stored_flow import load_flow, read_provenance
from m3flow.results.verify import Wanted, verify
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings, FrameSettings, TrajectorySettings
from m3flow.videos.decoder import Decoder
from m3flow.videos.frames import Frames
from m3flow.videos.videolist import Video
from support.clips import image_folder, moving_texture, write_lossy_video, write_video

NAME = "clip.mkv"
FAST = FlowSettings(parameters={"preset": "ultrafast"}, camera="none", store="flo")
STORED = replace(FAST, frames=FrameSettings(store="jpg"))


def make(out: Path, flow: FlowSettings, source: Path, **more: Any) -> Any:
    with Extractor(Work(outputs=Outputs(out), flow=flow, **more)) as extract:
        return extract(Video(str(source), NAME))


def flow_of(out: Path) -> np.ndarray:
    return load_flow(out / "flows" / NAME)


def problems(out: Path) -> list[str]:
    wanted = Wanted(outputs=Outputs(out), trajectories=False)
    with Decoder() as decoder:
        return verify(decoder, Video("/nowhere", NAME), wanted).problems


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_video(tmp_path / NAME, moving_texture(12, 48, 64, dx=2, dy=1))


class TestStoredFrames:
    @pytest.mark.parametrize("kind", ["video", "images"])
    def test_they_are_those_of_the_flow(self, tmp_path: Path, kind: str) -> None:
        clip = moving_texture(11, 80, 112, dx=2, dy=1)
        source = (
            write_lossy_video(tmp_path / "a.mp4", clip)
            if kind == "video"
            else image_folder(tmp_path / "a", clip)
        )
        flow = replace(FAST, short_side=48, frames=FrameSettings(store="jpg", rate=10))
        record = make(tmp_path / "out", flow, source)
        assert record.status == "done", record.traceback
        folder = tmp_path / "out/flows" / NAME
        names = sorted(path.name for path in (folder / "frames").iterdir())
        assert names == [*(f"img_{number:05d}.jpg" for number in range(5)), "made.json"]
        for number, frame in enumerate(Frames(source, flow.resize, picture="colour", rate=10)):
            stored = cv2.cvtColor(cv2.imread(str(folder / f"frames/img_{number:05d}.jpg")), cv2.COLOR_BGR2RGB)
            assert stored.shape == frame.shape == (48, 67, 3)
            assert np.abs(stored.astype(int) - frame).mean() < 3
        made = read_provenance(folder)
        assert made["settings"]["frames"] == {"store": "jpg", "quality": 95}
        assert (made["settings"]["rate"], made["source"]["rate"]) == (10, "10")
        assert made["source"]["video_rate"] == "25" and made["source"]["frames"] == 5
        # The flow is that of a run without frames.
        make(tmp_path / "other", replace(flow, frames=FrameSettings(rate=10)), source)
        assert np.array_equal(flow_of(tmp_path / "out"), flow_of(tmp_path / "other"))
        assert not (tmp_path / "other/flows" / NAME / "frames").exists()

    def test_quality(self, tmp_path: Path, source: Path) -> None:
        sizes = {}
        for quality in (40, 95):
            out = tmp_path / str(quality)
            make(out, replace(FAST, frames=FrameSettings(store="jpg", quality=quality)), source)
            sizes[quality] = (out / "flows" / NAME / "frames/img_00003.jpg").stat().st_size
        assert sizes[40] < 0.7 * sizes[95]

    def test_they_are_kept_and_made_again(self, tmp_path: Path, source: Path) -> None:
        assert make(tmp_path, STORED, source).status == "done"
        assert make(tmp_path, STORED, source).status == "kept"
        (tmp_path / "flows" / NAME / "frames/made.json").unlink()
        assert make(tmp_path, STORED, source).status == "done"
        assert problems(tmp_path) == []

    @pytest.mark.parametrize("damage", ["a byte", "an image", "made.json", "other flow"])
    def test_damage_is_found(self, tmp_path: Path, source: Path, damage: str) -> None:
        make(tmp_path, STORED, source)
        folder = tmp_path / "flows" / NAME / "frames"
        image = folder / "img_00004.jpg"
        if damage == "a byte":
            content = bytearray(image.read_bytes())
            content[len(content) // 2] ^= 1
            image.write_bytes(bytes(content))
        elif damage == "an image":
            image.unlink()
        elif damage == "made.json":
            (folder / "made.json").unlink()
        else:
            made = json.loads((folder / "made.json").read_text())
            (folder / "made.json").write_text(json.dumps({**made, "settings": {}}))
        (found,) = problems(tmp_path)
        words = {
            "a byte": "its content is not what was written",
            "an image": "img_00004.jpg: no such frame",
            "made.json": "made.json: no such flow file",
            "other flow": "not made together with the flow",
        }
        assert words[damage] in found

    def test_a_rejected_video_leaves_none(self, tmp_path: Path) -> None:
        single = write_video(tmp_path / NAME, moving_texture(1, 48, 64))
        assert make(tmp_path / "out", STORED, single).status == "rejected"
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]

    def test_they_need_flow_that_is_kept(self) -> None:
        config = {"videos": "list.csv", "frames": {"store": "jpg"}, "flow": {"keep": False}}
        with pytest.raises(UsageError, match=r"frames\.store is jpg, which needs flow\.keep"):
            Experiment.of(config)


class TestBackwardFlow:
    @pytest.mark.parametrize("step", [-1, -2])
    @pytest.mark.parametrize("backend", ["opencv", "torch"])
    def test_it_is_the_flow_of_the_reversed_video(self, tmp_path: Path, step: int, backend: str) -> None:
        clip = moving_texture(9, 48, 64, dx=2, dy=1)
        video = write_video(tmp_path / "a.mkv", clip)
        mirrored = write_video(tmp_path / "b.mkv", clip[::-1].copy())
        how = {"backend": backend, "device": "cpu", "batch": 3}
        make(tmp_path / "back", replace(FAST, step=step), video, **how)
        make(tmp_path / "forth", replace(FAST, step=-step), mirrored, **how)
        assert np.allclose(flow_of(tmp_path / "back"), flow_of(tmp_path / "forth")[::-1], atol=1e-4)
        assert problems(tmp_path / "back") == []

    @pytest.mark.parametrize("backend", ["opencv", "torch"])
    def test_the_camera_is_that_from_the_later_to_the_earlier_frame(
        self, tmp_path: Path, backend: str
    ) -> None:
        scene = make_scene("rotation", frames=5)
        video = write_video(tmp_path / "a.mkv", scene.frames)
        settings = FlowSettings(store="flo", step=-1)
        assert make(tmp_path, settings, video, backend=backend, device="cpu").camera == 1.0
        found = homographies_of(tmp_path / "flows" / NAME)
        assert found is not None
        whole = put_camera_back(flow_of(tmp_path), found[0])
        reversed_scene = write_video(tmp_path / "b.mkv", scene.frames[::-1].copy())
        make(tmp_path / "plain", FlowSettings(camera="none", store="flo"), reversed_scene)
        inner = np.s_[:, :, 24:-24, 24:-24]
        difference = np.abs(whole - flow_of(tmp_path / "plain")[::-1])[inner]
        assert np.median(difference) < 0.1
        assert np.abs(flow_of(tmp_path))[inner].mean() < 0.3 * np.abs(whole)[inner].mean()

    def test_images_have_denseflows_names(self, tmp_path: Path, source: Path) -> None:
        make(tmp_path, replace(FAST, store="jpg", step=-2), source)
        names = sorted(path.name for path in (tmp_path / "flows" / NAME / "jpg").glob("flow_x*"))
        assert names == [f"flow_x_m2_{number:05d}.jpg" for number in range(2, 12)]

    def test_no_trajectories_go_through_it(self, tmp_path: Path, source: Path) -> None:
        make(tmp_path, replace(FAST, step=-1), source)
        with Extractor(Work(outputs=Outputs(tmp_path), trajectories=TrajectorySettings())) as extract:
            record = extract(Video(str(source), NAME))
        assert record.status == "rejected" and "trajectories follow forward flow" in record.reason
        with pytest.raises(UsageError, match="trajectories follow forward flow"):
            Work(outputs=Outputs(tmp_path), flow=replace(FAST, step=-1), trajectories=TrajectorySettings())
        (tmp_path / "list.txt").write_text(f"{source}\n")
        config = {"videos": str(tmp_path / "list.txt"), "output": str(tmp_path), "flow": {"step": -1}}
        with pytest.raises(UsageError, match="`m3flow flow` alone makes backward flow"):
            due(Experiment.of(config), "video")
