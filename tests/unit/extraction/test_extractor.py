"""One video from frames to files: outputs made, kept, made again, and rejected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3flow import load_flow, load_trajectories
from m3flow.camera.geometry import put_camera_back
from m3flow.errors import BadInput, Interrupted
from m3flow.extraction.extractor import Extractor, Queue
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.homographies import homographies_of
from m3flow.results.records import Record
from m3flow.results.stored_flow import read_provenance, stored_flow
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.trajectories.tracking import track
from m3flow.videos.decoder import Limits
from m3flow.videos.videolist import Video
from support.clips import clip, image_folder, moving_texture, write_video
from support.flow_files import opencv_video, soft_levels

NAME = "set/class/a.mkv"
FAST = FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="none", codec="h264-lossless")


def work(folder: Path, *, flow: FlowSettings | None = None, **how: Any) -> Work:
    return Work(outputs=Outputs(folder), flow=flow, backend="opencv", **how)


def make(job: Work, source: Path, name: str = NAME) -> Record:
    with Extractor(job) as extractor:
        return extractor(Video(str(source), name))


def streamed(extractor: Extractor, videos: list[Video]) -> list[Record]:
    records: list[Record] = []
    extractor.run(Queue(videos), records.append)
    return records


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return clip(tmp_path / "source" / "a.mkv", 15)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class TestFlow:
    def test_files_record_and_content(self, source: Path, out: Path) -> None:
        record = make(work(out, flow=FAST), source)
        assert (record.status, record.reason, record.frames, record.width, record.height) == (
            "done",
            "",
            15,
            64,
            48,
        )
        assert sorted(files(out)) == [f"flows/{NAME}/x.mp4", f"flows/{NAME}/y.mp4"]
        flow = load_flow(out / "flows" / NAME)
        assert flow.shape == (14, 2, 48, 64) and flow.dtype == np.float32
        # The clip moves by (2, 1) px per frame.
        inner = flow[:, :, 8:-8, 8:-8]
        assert np.median(inner[:, 0]) == pytest.approx(2, abs=0.2)
        assert np.median(inner[:, 1]) == pytest.approx(1, abs=0.2)
        assert record.speed == pytest.approx(np.hypot(flow[:, 0], flow[:, 1]).mean(), rel=0.2)

    @pytest.mark.parametrize("step", [1, 2, 5])
    def test_a_frame_less_for_each_step(self, source: Path, out: Path, step: int) -> None:
        assert make(work(out, flow=replace(FAST, step=step)), source).status == "done"
        flow = load_flow(out / "flows" / NAME)
        assert len(flow) == 15 - step
        if step < 5:  # larger motion is out of this estimator's range in such small frames
            assert np.median(flow[:, 0, 12:-12, 12:-12]) == pytest.approx(2 * step, abs=0.5)

    @pytest.mark.parametrize("batch", [1, 3, 14, 100])
    def test_batches_make_no_difference(self, source: Path, out: Path, batch: int) -> None:
        make(work(out, flow=FAST), source)
        make(work(out / "other", flow=FAST, batch=batch), source)
        assert np.array_equal(load_flow(out / "flows" / NAME), load_flow(out / "other" / "flows" / NAME))

    @pytest.mark.parametrize("camera", ["none", "warp"])
    @pytest.mark.parametrize("codec", ["mpeg4", "h264-lossless"])
    @pytest.mark.parametrize("estimator", ["dis", "farneback"])
    def test_a_still_video_has_no_motion_at_all(
        self, tmp_path: Path, out: Path, camera: Any, codec: Any, estimator: str
    ) -> None:
        still = write_video(tmp_path / "still.mkv", moving_texture(1, 64, 80).repeat(9, 0))
        settings = FlowSettings(estimator=estimator, camera=camera, codec=codec)
        record = make(work(out, flow=settings, trajectories=TrajectorySettings()), still)
        assert (record.status, record.still, record.speed) == ("done", 1.0, 0.0)
        assert (load_flow(out / "flows" / NAME) == 0).all()
        read = load_trajectories(out / "trajs" / f"{NAME}_6.gz")
        assert read.traj_feat.shape == (12, 3, 8, 10)
        assert (read.traj_feat == 0).all() and (read.traj_type == 1).all()

    def test_short_side_and_image_folders(self, tmp_path: Path, out: Path) -> None:
        folder = image_folder(tmp_path / "frames", moving_texture(6, 80, 121))
        record = make(work(out, flow=replace(FAST, short_side=40)), folder)
        assert (record.status, record.width, record.height) == ("done", 60, 40)
        assert load_flow(out / "flows" / NAME).shape == (5, 2, 40, 60)

    def test_homographies_come_back(self, tmp_path: Path, out: Path) -> None:
        scene = make_scene("rotation", frames=5)
        video = write_video(tmp_path / "a.mkv", scene.frames)
        record = make(work(out, flow=replace(FAST, camera="warp")), video)
        assert record.status == "done" and record.camera == 1.0
        found = homographies_of(out / "flows" / NAME)
        assert found is not None
        homographies, accepted = found
        assert homographies.shape == (4, 3, 3) and homographies.dtype == np.float32
        assert accepted.dtype == bool and accepted.all()
        residual = load_flow(out / "flows" / NAME)
        whole = put_camera_back(residual, homographies)
        inner = np.s_[:, :, 16:-16, 16:-16]
        error = np.linalg.norm(whole - scene.flow, axis=1)[:, 16:-16, 16:-16].mean()
        assert error < 0.3 < np.abs(residual - scene.flow)[inner].mean()

    def test_without_the_camera_there_are_none(self, source: Path, out: Path) -> None:
        record = make(work(out, flow=FAST), source)
        assert homographies_of(out / "flows" / NAME) is None and record.camera == -1


class TestKeptAndRemade:
    @pytest.fixture
    def made(self, source: Path, out: Path) -> Iterator[dict[str, bytes]]:
        job = work(out, flow=FAST, trajectories=TrajectorySettings())
        assert make(job, source).status == "done"
        yield files(out)

    def both(self, out: Path) -> Work:
        return work(out, flow=FAST, trajectories=TrajectorySettings())

    def test_kept(self, source: Path, out: Path, made: dict[str, bytes]) -> None:
        assert make(self.both(out), source).status == "kept"
        assert make(work(out, trajectories=TrajectorySettings()), source).status == "kept"
        assert files(out) == made

    def test_a_copy_on_another_disk_with_a_new_time_is_the_same_video(
        self, source: Path, out: Path, made: dict[str, bytes], tmp_path: Path
    ) -> None:
        copy = tmp_path / "elsewhere.mkv"
        shutil.copyfile(source, copy)
        os.utime(copy, (1, 1))
        assert make(self.both(out), copy).status == "kept"
        assert files(out) == made

    def test_another_video_of_the_same_name_is_not(
        self, source: Path, out: Path, made: dict[str, bytes]
    ) -> None:
        status = source.stat()
        clip(source, 15, seed=1)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert make(self.both(out), source).status == "done"
        assert all(files(out)[name] != content for name, content in made.items())

    @pytest.mark.parametrize(
        "change",
        [
            {"bound": 10.0},
            {"step": 2},
            {"camera": "warp"},
            {"codec": "mpeg4"},
            {"short_side": 32},
            {"parameters": {"preset": "fast"}},
            {"estimator": "farneback", "parameters": {}},
        ],
        ids=str,
    )
    def test_another_setting_makes_both_again(
        self, source: Path, out: Path, made: dict[str, bytes], change: dict[str, Any]
    ) -> None:
        job = replace(self.both(out), flow=replace(FAST, **change))
        assert make(job, source).status == "done"
        after = files(out)
        assert sorted(after) == sorted(made)
        assert all(after[name] != content for name, content in made.items())
        assert make(job, source).status == "kept"

    def test_another_length_leaves_the_flow(self, source: Path, out: Path, made: dict[str, bytes]) -> None:
        longer = replace(self.both(out), trajectories=TrajectorySettings(length=8))
        assert make(longer, source).status == "done"
        after = files(out)
        assert {name: after[name] for name in made} == made
        assert sorted(set(after) - set(made)) == [f"trajs/{NAME}_8.gz"]

    def test_another_tracking_leaves_the_flow(self, source: Path, out: Path, made: dict[str, bytes]) -> None:
        other = TrajectorySettings(tracking="integer")
        assert make(work(out, trajectories=other), source).status == "done"
        changed = [name for name, content in files(out).items() if made[name] != content]
        assert changed == [f"trajs/{NAME}_6.gz"]

    @pytest.mark.parametrize("lost", [f"flows/{NAME}/x.mp4", f"flows/{NAME}/y.mp4", f"trajs/{NAME}_6.gz"])
    @pytest.mark.parametrize("how", ["gone", "cut", "empty"])
    def test_what_is_lost_is_made_again(
        self, source: Path, out: Path, made: dict[str, bytes], lost: str, how: str
    ) -> None:
        (out / lost).unlink()
        if how != "gone":
            (out / lost).write_bytes(made[lost][:-100] if how == "cut" and "flows" in lost else b"")
        assert make(self.both(out), source).status == "done"
        after = files(out)
        assert sorted(after) == sorted(made)
        again = load_trajectories(out / "trajs" / f"{NAME}_6.gz")
        (out / "before.gz").write_bytes(made[f"trajs/{NAME}_6.gz"])
        assert np.array_equal(again.traj_feat, load_trajectories(out / "before.gz").traj_feat)
        load_flow(out / "flows" / NAME)


class TestTrajectories:
    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    @pytest.mark.parametrize("job", ["trajs_dense", "trajs"])
    @pytest.mark.parametrize("step", [1, 2])
    def test_in_one_pass_as_in_two_and_as_of_the_loaded_flow(
        self, source: Path, out: Path, tracking: Any, job: Any, step: int
    ) -> None:
        flow = replace(FAST, step=step)
        settings = TrajectorySettings(length=3, tracking=tracking, job=job)
        make(work(out / "one", flow=flow, trajectories=settings), source)
        make(work(out / "two", flow=flow), source)
        record = make(work(out / "two", trajectories=settings), source)
        assert (record.status, record.frames) == ("done", 15)
        one, two = (load_trajectories(out / name / "trajs" / f"{NAME}_3.gz") for name in ("one", "two"))
        assert np.array_equal(one.traj_feat, two.traj_feat) and np.array_equal(one.traj_type, two.traj_type)
        assert files(out / "one") == files(out / "two")
        expected = track(
            load_flow(out / "two" / "flows" / NAME), length=3, job=job, tracking=tracking, step=step
        )
        assert np.array_equal(two.traj_feat, expected[0]) and np.array_equal(two.traj_type, expected[1])
        assert record.windows == len(two.traj_type) > 0
        # The result of one way is current for the other.
        assert make(work(out / "one", trajectories=settings), source).status == "kept"

    def test_without_the_flow_files(self, source: Path, out: Path) -> None:
        job = work(out, flow=FAST, trajectories=TrajectorySettings(), keep_flow=False)
        assert make(job, source).status == "done"
        assert list(files(out)) == [f"trajs/{NAME}_6.gz"]
        make(work(out / "kept", flow=FAST, trajectories=TrajectorySettings()), source)
        assert files(out)[f"trajs/{NAME}_6.gz"] == files(out / "kept")[f"trajs/{NAME}_6.gz"]
        assert make(job, source).status == "kept"

    @pytest.mark.parametrize("frames", [2, 6])
    def test_too_short_for_one_window_is_told_and_not_refused(
        self, tmp_path: Path, out: Path, frames: int
    ) -> None:
        short = clip(tmp_path / "a.mkv", frames)
        record = make(work(out, flow=FAST, trajectories=TrajectorySettings()), short)
        assert (record.status, record.windows) == ("done", 0)
        assert record.reason == "too short for a trajectory of 6 steps"
        assert load_trajectories(out / "trajs" / f"{NAME}_6.gz").traj_feat.shape == (12, 0, 6, 8)

    def test_without_flow_there_is_nothing_to_follow(self, source: Path, out: Path) -> None:
        record = make(work(out, trajectories=TrajectorySettings()), source)
        assert record.status == "rejected" and "make the flow first" in record.reason
        assert not files(out)

    def test_a_very_long_video_is_recognised(self, tmp_path: Path, out: Path) -> None:
        # Its 1999 homographies exceed the first bytes that a reader might inspect.
        frames = moving_texture(4, 16, 24)[np.arange(2000) % 4]
        long = write_video(tmp_path / "a.mkv", frames)
        job = work(
            out,
            flow=FlowSettings(estimator="farneback", parameters={"levels": 0, "iterations": 1}),
            trajectories=TrajectorySettings(),
        )
        assert make(job, long).status == "done"
        assert make(job, long).status == "kept"
        found = homographies_of(out / "flows" / NAME)
        assert found is not None and len(found[0]) == 1999

    def test_flow_of_other_programs(self, source: Path, out: Path) -> None:
        levels = soft_levels(48, 64, 9)
        for channel, name in enumerate(("x.mp4", "y.mp4")):
            opencv_video(out / "flows" / NAME / name, levels[:, channel])
        job = work(out, trajectories=TrajectorySettings())
        assert make(job, source).status == "done"
        assert make(job, source).status == "kept"
        assert load_trajectories(out / "trajs" / f"{NAME}_6.gz").traj_feat.shape == (12, 4, 6, 8)


class TestRefused:
    def test_with_one_line_and_nothing_left(self, tmp_path: Path, out: Path) -> None:
        clip(tmp_path / "one.mkv", 1)
        (tmp_path / "text.mp4").write_text("hello")
        (tmp_path / "empty").mkdir()
        os.mkfifo(tmp_path / "pipe.mp4")
        broken = image_folder(tmp_path / "broken", moving_texture(12))
        (broken / "frame_00010.png").write_bytes(b"")
        job = work(out, flow=FAST, trajectories=TrajectorySettings())
        expected = {
            "one.mkv": "only 1 frame",
            "text.mp4": "not a video",
            "empty": "no frame images",
            "pipe.mp4": "not a file",
            "broken": "frame_00010.png",
            "missing.mp4": "no such file",
        }
        with Extractor(job) as extractor:
            for name, words in expected.items():
                record = extractor(Video(str(tmp_path / name), NAME))
                assert record.status == "rejected" and words in record.reason and "\n" not in record.reason
            assert not files(out)
            assert extractor(Video(str(clip(tmp_path / "good.mkv")), NAME)).status == "done"

    def test_x_and_y_that_were_not_made_together(self, source: Path, out: Path) -> None:
        make(work(out, flow=FAST), source)
        make(work(out / "other", flow=replace(FAST, bound=10.0)), source)
        shutil.copy(out / "other" / "flows" / NAME / "y.mp4", out / "flows" / NAME / "y.mp4")
        with pytest.raises(BadInput, match="not made together"):
            stored_flow(out / "flows" / NAME)


def test_the_provenance_in_the_files(source: Path, out: Path) -> None:
    make(work(out, flow=FAST, trajectories=TrajectorySettings()), source)
    made = read_provenance(out / "flows" / NAME / "x.mp4")
    assert made["settings"] == FAST.identity()
    assert made["source"] | {"frames": 15, "width": 64, "height": 48, "rate": "25"} == made["source"]
    assert {"bytes", "sha256"} <= made["source"].keys()
    assert made["used"]["backend"] == "opencv" and made["m3flow"]
    stored = load_trajectories(out / "trajs" / f"{NAME}_6.gz").made
    assert stored["settings"] == TrajectorySettings().identity()
    assert stored["flow"] == FAST.identity() and stored["source"] == made["source"]


class TestStream:
    """Many videos, several of them in progress at a time."""

    @pytest.mark.parametrize("camera", ["none", "warp"])
    def test_short_videos_that_share_batches_are_as_if_each_were_alone(
        self, tmp_path: Path, out: Path, camera: str
    ) -> None:
        lengths = (5, 2, 9, 1, 4, 7)
        for number, length in enumerate(lengths):
            clip(tmp_path / f"{number}.mkv", length, seed=number)
        write_video(tmp_path / "wide.mkv", moving_texture(6, 48, 80))
        (tmp_path / "bad.mp4").write_text("no video")
        names = ["0.mkv", "1.mkv", "bad.mp4", "2.mkv", "wide.mkv", "3.mkv", "4.mkv", "5.mkv"]
        videos = [Video(str(tmp_path / name), name) for name in names]
        flow = FlowSettings(
            estimator="farneback", parameters={"iterations": 2}, camera=camera, codec="h264-lossless"
        )  # type: ignore[arg-type]

        def job(folder: str, batch: int) -> Work:
            settings = TrajectorySettings()
            return Work(
                outputs=Outputs(out / folder),
                flow=flow,
                trajectories=settings,
                backend="torch",
                device="cpu",
                batch=batch,
            )

        counted: list[int] = []
        with Extractor(job("together", 16), counted.append) as extractor:
            records = streamed(extractor, videos)
        assert [record.video for record in records] == names
        reasons = {record.video: record.reason for record in records if record.status == "rejected"}
        assert list(reasons) == ["bad.mp4", "3.mkv"] and "only 1 frame" in reasons["3.mkv"]
        assert [r.frames for r in records if r.status == "done"] == [5, 2, 9, 6, 4, 7]
        assert sum(counted) == 5 + 2 + 9 + 6 + 4 + 7  # the display and the records count the same

        with Extractor(job("alone", 4)) as extractor:
            alone = [extractor(video) for video in videos]
        for one, other in zip(records, alone, strict=True):
            assert (one.status, one.speed, one.camera, one.windows) == (
                other.status,
                other.speed,
                other.camera,
                other.windows,
            )
            if one.status == "done":
                folders = (out / "together/flows" / one.video, out / "alone/flows" / one.video)
                assert np.array_equal(*(load_flow(folder) for folder in folders))
                cameras = [homographies_of(folder) for folder in folders]
                if camera == "warp":
                    assert all(np.array_equal(*both) for both in zip(*cameras, strict=True))  # type: ignore[arg-type]
        assert len(files(out / "together")) == len(files(out / "alone")) == 6 * 3

    def test_one_that_fails_costs_no_other(self, tmp_path: Path, out: Path) -> None:
        videos = [Video(str(clip(tmp_path / f"{n}.mkv", 40, seed=n)), f"{n}.mkv") for n in range(4)]
        # A file in place of the folder of its flow.
        (out / "flows").mkdir(parents=True)
        (out / "flows/1.mkv").write_text("in the way")
        with Extractor(work(out, flow=FAST)) as extractor:
            records = streamed(extractor, videos)
        assert [record.status for record in records] == ["done", "failed", "done", "done"]
        assert [record.frames for record in records if record.status == "done"] == [40, 40, 40]
        assert records[1].reason and records[1].traceback

    def test_ended_early_it_leaves_nothing_unfinished(self, tmp_path: Path, out: Path) -> None:
        def stop(record: Record) -> None:
            raise Interrupted(f"{record.status} with {record.video}")

        videos = [Video(str(clip(tmp_path / f"{n}.mkv", 40, seed=n)), f"{n}.mkv") for n in range(4)]
        with (
            pytest.raises(Interrupted, match=r"done with 0\.mkv"),
            Extractor(work(out, flow=FAST)) as extractor,
        ):
            extractor.run(Queue(videos), stop)
        found = files(out)
        assert {"flows/0.mkv/x.mp4", "flows/0.mkv/y.mp4"} <= found.keys()
        assert all(name.endswith(("/x.mp4", "/y.mp4")) for name in found) and len(found) < 8

    def test_a_decoder_that_dies_of_the_next_video(self, tmp_path: Path, out: Path) -> None:
        """The next video is prefetched while the current one is computed; a crash there affects only the next."""
        good = clip(tmp_path / "good.mkv", 40)
        huge = write_video(tmp_path / "huge.mkv", moving_texture(3, 480, 640))
        videos = [Video(str(path), name) for name, path in (("a", good), ("b", huge), ("c", good))]
        job = replace(work(out, flow=FAST), limits=Limits(megapixels=0.1))
        with Extractor(job) as extractor:
            records = streamed(extractor, videos)
        assert [record.status for record in records] == ["done", "rejected", "done"]
        assert "megapixels" in records[1].reason
