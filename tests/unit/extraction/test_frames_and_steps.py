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
from m3flow.experiment.jobs import due, work_of
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.run import execute
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.homographies import homographies_of
from m3flow.results.stored_flow import load_flow, read_provenance
from m3flow.results.trajectoryfile import load_trajectories
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


class TestRate:
    RATE = FrameSettings(rate=12.5)

    def test_flow_and_trajectories_are_those_of_every_second_frame(self, tmp_path: Path) -> None:
        clip = moving_texture(23, 48, 64, dx=1, dy=1)
        source = write_video(tmp_path / "a.mkv", clip)
        thinned = write_video(tmp_path / "b.mkv", clip[::2].copy())
        more = {"trajectories": TrajectorySettings(length=3)}
        record = make(tmp_path / "rate", replace(FAST, frames=self.RATE), source, **more)
        assert (record.frames, record.claimed) == (12, 12) and not record.reason
        make(tmp_path / "thinned", FAST, thinned, **more)
        assert np.array_equal(flow_of(tmp_path / "rate"), flow_of(tmp_path / "thinned"))
        one, other = (
            load_trajectories(Outputs(tmp_path / name).trajectories(NAME, 3)) for name in ("rate", "thinned")
        )
        assert np.array_equal(one.traj_feat, other.traj_feat)

    def test_confidence_from_stored_flow_sees_the_same_frames(self, tmp_path: Path) -> None:
        source = write_video(tmp_path / "a.mkv", moving_texture(23, 48, 64, dx=1, dy=1))
        flow = replace(FAST, frames=self.RATE)
        settings = TrajectorySettings(length=3, confidence="photometric")
        make(tmp_path / "one", flow, source, trajectories=settings)
        make(tmp_path / "two", flow, source)
        with Extractor(Work(outputs=Outputs(tmp_path / "two"), trajectories=settings)) as extract:
            record = extract(Video(str(source), NAME))
        assert record.status == "done", record.traceback
        one, two = (load_trajectories(Outputs(tmp_path / n).trajectories(NAME, 3)) for n in ("one", "two"))
        assert one.traj_conf is not None and np.array_equal(one.traj_conf, two.traj_conf)

    @pytest.mark.parametrize("step", [1, -1])
    def test_the_data_sets_show_the_frames_of_the_flow(self, tmp_path: Path, step: int) -> None:
        from m3flow.data import FlowClips, TrajectoryClips

        clip = moving_texture(31, 64, 64, dx=1, dy=1)
        source = write_video(tmp_path / "data" / NAME, clip)
        (tmp_path / "list.txt").write_text(f"{NAME} 0\n")
        flow = replace(FAST, step=step, frames=self.RATE)
        made = TrajectorySettings(length=3) if step > 0 else None
        make(tmp_path, flow, source, trajectories=made)
        how = {"root": tmp_path / "data", "frames": 4, "stride": 2, "crop": None, "random": False}
        kept = list(Frames(source, picture="colour"))[::2]
        item = FlowClips(tmp_path / "list.txt", tmp_path, pictures=True, **how)[0]
        whole = flow_of(tmp_path)
        first = next(t for t in range(len(whole)) if np.allclose(whole[t], item["flow"][0], atol=1e-3))
        later = 1 if step < 0 else 0
        for number in range(4):
            expected = kept[first + later + 2 * number].transpose(2, 0, 1)
            assert np.array_equal(item["frames"][number].numpy(), expected)
        if made is not None:
            clips = TrajectoryClips(
                tmp_path / "list.txt", tmp_path, length=3, **{**how, "frames": 8, "stride": 1}
            )
            frames = clips[0]["frames"].numpy()
            start = next(t for t in range(len(kept)) if np.array_equal(kept[t].transpose(2, 0, 1), frames[0]))
            for number in range(8):
                assert np.array_equal(frames[number], kept[start + number].transpose(2, 0, 1))

    def test_status_and_plan_know_of_frames(self, tmp_path: Path, source: Path) -> None:
        (tmp_path / "list.txt").write_text(f"{source}\n")
        config = {
            "videos": str(tmp_path / "list.txt"),
            "output": str(tmp_path / "out"),
            "layout": {"parts": 1},
            "frames": {"store": "jpg"},
            "flow": {"camera": "none", "parameters": {"preset": "ultrafast"}},
        }
        experiment = Experiment.of(config)
        videos = experiment.videos.read()
        for kind in ("flow", "trajectories"):
            execute(kind, videos, work_of(experiment, kind), records=tmp_path / f"out/records/{kind}-0001.csv",
                    log_file=tmp_path / "log", workers=1, gpus=0)  # fmt: skip

        def missing(**changed: Any) -> list[str]:
            other = Experiment.of({**config, **changed})
            return due(other, "video").units["flow"]

        assert missing() == [] and missing(frames={"store": "jpg", "quality": 50}) == [NAME]
        assert missing(frames={"store": "jpg", "rate": 5}) == [NAME]
        (tmp_path / "out/flows" / NAME / "frames/made.json").unlink()
        assert missing() == [NAME]


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
