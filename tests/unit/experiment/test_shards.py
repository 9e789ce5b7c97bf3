"""Shards: complete, stable when the list grows, cheap to read for a job; and the forecast of their cost."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from m3flow.errors import UsageError
from m3flow.experiment import shards as plan_module
from m3flow.experiment.calibration import Calibration, Throughput, settings_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.cost import shard_size, time_limit
from m3flow.experiment.forecast import forecast
from m3flow.experiment.sample import of_headers, sample
from m3flow.experiment.shards import Plan, make_plan, plan_of, shard_videos
from m3flow.results.provenance import settings_digest, trajectory_digest
from m3flow.results.records import Record, RecordFile
from m3flow.videos.resize import Resize
from m3flow.videos.videolist import VideoList
from support.clips import clip


def names(count: int, start: int = 0) -> list[str]:
    return [f"set/class_{i % 7}/v{i:05d}.avi" for i in range(start, start + count)]


def write_plain(path: Path, paths: list[str]) -> Path:
    path.write_text("".join(f"{name} 3\n" for name in paths))
    return path


def write_csv(path: Path, paths: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path"])
        # A quoted cell over two lines: a line of the file is not an entry of the list.
        writer.writerows([["two\nlines" if i % 3 == 0 else "x, y", name] for i, name in enumerate(paths)])
    return path


def experiment(folder: Path, list_file: Path, **values: object) -> Experiment:
    # Through the CSV's or the list's own form, as config.yaml names it.
    calibration = str(folder / "calibration.json")
    shard = {"videos": 10, "calibration": calibration, **values.pop("shard", {})}  # type: ignore[dict-item]
    return Experiment.of({"videos": str(list_file), "output": str(folder / "out"), "shard": shard, **values})


@pytest.mark.parametrize("write", [write_plain, write_csv])
@pytest.mark.parametrize("count", [1, 9, 10, 11, 95])
def test_shards_hold_the_list_once_and_in_order(tmp_path: Path, write: object, count: int) -> None:
    assert callable(write)
    list_file = write(tmp_path / "list.csv", names(count))
    settings = experiment(tmp_path, list_file)
    plan = plan_of(settings)
    parts = [shard_videos(settings, plan[name]) for name in plan.names]
    assert [video for part in parts for video in part] == VideoList(list_file).read()
    assert [len(part) for part in parts] == [10] * (count // 10) + ([count % 10] if count % 10 else [])
    assert plan.videos == count


@pytest.mark.parametrize("write", [write_plain, write_csv])
def test_shards_stay_when_videos_are_appended(tmp_path: Path, write: object) -> None:
    assert callable(write)
    before = make_plan(VideoList(write(tmp_path / "list.csv", names(10_000))), 256)
    after = make_plan(VideoList(write(tmp_path / "list.csv", names(10_010))), 256)
    assert len(before.shards) == len(after.shards) == 40
    changed = [i for i in range(40) if before.shards[i].digest != after.shards[i].digest]
    assert changed == [39]
    # Over the edge of a shard: the last one is filled and a new one is added.
    more = make_plan(VideoList(write(tmp_path / "list.csv", names(10_250))), 256)
    changed = [i for i in range(40) if before.shards[i].digest != more.shards[i].digest]
    assert changed == [39] and len(more.shards) == 41


def test_a_byte_order_mark_and_blank_lines_do_not_shift_the_shards(tmp_path: Path) -> None:
    list_file = tmp_path / "list.txt"
    text = "\n".join(f"{name} 1\n" for name in names(25))
    list_file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    settings = experiment(tmp_path, list_file)
    plan = plan_of(settings)
    found = [v for name in plan.names for v in shard_videos(settings, plan[name])]
    assert found == VideoList(list_file).read()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*names(30), names(1)[0]], "duplicate video"),
        ([*names(30), "other/" + names(1)[0]], "would write the same output"),
        ([*names(30), "../.."], "would be outside the output folder"),
        (["a/b", *names(20), "a/b/x.mp4"], "would overwrite"),
    ],
)
def test_bad_lists_are_refused_as_a_whole(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        make_plan(VideoList(write_plain(tmp_path / "list.txt", lines)), 4)
    with pytest.raises(UsageError) as whole:
        VideoList(tmp_path / "list.txt").read()
    assert str(refused.value) == str(whole.value)


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        make_plan(VideoList(write_plain(tmp_path / "list.txt", [])), 4)


def test_names_whose_hashes_agree_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_repeats", lambda hashes: True)
    assert make_plan(VideoList(write_plain(tmp_path / "list.txt", names(8))), 4).videos == 8


class TestTheKeptPlan:
    def test_is_read_and_not_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(25)))
        first = plan_of(settings)
        monkeypatch.setattr(plan_module, "make_plan", lambda *_: pytest.fail("the list was read again"))
        assert plan_of(settings) == first

    def test_is_made_again_for_another_list(self, tmp_path: Path) -> None:
        settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(25)))
        assert plan_of(settings).videos == 25
        write_plain(settings.videos.file, names(40))
        assert plan_of(settings).videos == 40

    def test_damaged_is_made_again(self, tmp_path: Path) -> None:
        settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(25)))
        first = plan_of(settings)
        path = tmp_path / "out/shards/list.txt/plan.json"
        for text in ("", "[]", path.read_text()[:50]):
            path.write_text(text)
            assert plan_of(settings) == first

    def test_where_the_folder_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("a file where the output folder should be")
        settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(25)))
        assert plan_of(settings).videos == 25

    def test_a_list_that_changes_under_a_job_is_noticed(self, tmp_path: Path) -> None:
        settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(25)))
        plan = plan_of(settings)
        settings.videos.file.write_text("".join(f"{name}\n" for name in names(3)))
        with pytest.raises(UsageError, match="changed"):
            shard_videos(settings, plan[plan.names[1]])


def test_excluded_videos_are_in_no_shard_and_shift_none(tmp_path: Path) -> None:
    list_file = write_plain(tmp_path / "list.txt", names(30))
    without = plan_of(experiment(tmp_path, list_file))
    out = [*names(10), names(30)[15]]
    exclude = write_plain(tmp_path / "exclude.txt", out)
    settings = experiment(tmp_path, list_file, exclude=str(exclude))
    plan = plan_of(settings)
    assert plan.names == ["00001", "00002"]
    found = [v for name in plan.names for v in shard_videos(settings, plan[name])]
    assert found == settings.videos.read()
    assert len(found) == 19
    assert [a.digest == b.digest for a, b in zip(plan.shards, without.shards, strict=True)] == [
        False,
        False,
        True,
    ]


def calibrated(settings: Experiment, seconds: float = 0.1) -> Calibration:
    """A calibration with `seconds` per frame at 100x100, and four times as long for four times the pixels."""
    sizes = tuple(
        Throughput(side, side, seconds * (side / 100) ** 2, seconds / 4, seconds, {}, 1000.0, 100.0)
        for side in (100, 200)
    )
    made = {"host": "h", "cluster": "local", "time": "t"}
    return Calibration(made, settings_of(settings), 4, 2, "cpu", "opencv", 4, {"4": 10.0}, 6.0, sizes)


def test_throughput_between_and_beyond_the_sizes_measured(tmp_path: Path) -> None:
    settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(3)))
    calibration = calibrated(settings)
    assert calibration.seconds_per_frame("flow", 100, 100) == pytest.approx(0.1)
    assert calibration.seconds_per_frame("flow", 250, 100) == pytest.approx(0.25)
    assert calibration.seconds_per_frame("flow", 400, 200) == pytest.approx(0.8)
    calibration.write(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == calibration


def test_auto_takes_the_calibration_and_stays(tmp_path: Path) -> None:
    paths = names(20)
    for path in paths[:10]:
        clip(tmp_path / path, frames=9)
    settings = experiment(
        tmp_path,
        write_plain(tmp_path / "list.txt", paths),
        root=str(tmp_path),
        shard={"videos": "auto", "minutes": 0.2},
    )
    with pytest.raises(UsageError, match="m3flow calibrate"):
        plan_of(settings)
    seen = sample(settings, 40)
    assert (seen.frames, seen.width, seen.height) == (9, 64, 48)
    assert seen.missing == pytest.approx(0.5)
    # Half of the videos have nine frames of a tenth of a second; twelve seconds less the start of six.
    calibrated(settings).write(tmp_path / "calibration.json")
    assert shard_size(settings) == 8
    plan = plan_of(settings)
    assert plan.size == 8 and plan.minutes("flow", 8) == pytest.approx((6 + 8 * 0.45) / 60)
    # The list grows by videos that cannot be opened: the shards stay as they are.
    write_plain(settings.videos.file, names(60))
    assert shard_size(settings) > 8
    assert plan_of(settings).size == 8


def test_a_calibration_of_other_settings_is_not_used(tmp_path: Path) -> None:
    settings = experiment(tmp_path, write_plain(tmp_path / "list.txt", names(3)))
    calibrated(settings).write(tmp_path / "calibration.json")
    assert plan_of(settings).pace
    other = experiment(tmp_path, settings.videos.file, flow={"estimator": "farneback"})
    assert plan_of(other).pace == {}
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(UsageError, match="not a calibration"):
        plan_of(settings)


def test_time_limits_grow_with_each_attempt() -> None:
    assert [time_limit(60, attempt) for attempt in (1, 2, 3)] == [100, 200, 300]


def test_sizes_of_the_sample_are_those_after_the_resize() -> None:
    seen = of_headers([(10, 320, 240), (20, 320, 240), None], Resize(120))
    assert (seen.frames, seen.width, seen.height) == (15, 160, 120)
    assert seen.missing == pytest.approx(1 / 3)


@pytest.mark.parametrize(("videos", "said"), [(2000, False), (2001, True)])
def test_the_forecast_of_many_videos_has_what_shards_save(tmp_path: Path, videos: int, said: bool) -> None:
    listed = write_plain(tmp_path / "list.txt", [f"set/c/{number}.mkv" for number in range(videos)])
    found = forecast(experiment(tmp_path, listed, root=str(tmp_path)))
    assert (found.start_hours is not None and found.start_hours > 0) == said


def test_the_forecast_adds_up(tmp_path: Path) -> None:
    paths = names(25)
    for path in paths:
        clip(tmp_path / path, frames=9)
    settings = experiment(
        tmp_path, write_plain(tmp_path / "list.txt", paths), root=str(tmp_path), granularity="shard"
    )
    calibrated(settings).write(tmp_path / "calibration.json")
    # Six videos of the first shard are done already.
    flow = settings_digest(settings.flow.identity())
    trajectories_of = trajectory_digest(settings.trajectories.identity(), flow)
    with RecordFile(tmp_path / "out/records/motion-0001.csv") as records:
        for path in paths[:6]:
            digests = {"flow_settings": flow, "trajectory_settings": trajectories_of}
            records.append(Record(video=path, status="done", frames=12, **digests))
            (tmp_path / "out/flows" / path).mkdir(parents=True)
            trajectories = tmp_path / "out/trajs" / f"{path}_6.gz"
            trajectories.parent.mkdir(parents=True, exist_ok=True)
            trajectories.touch()
    found = forecast(settings)
    assert found.videos == {
        "done": 6,
        "partial": 0,
        "rejected": 0,
        "failed": 0,
        "outdated": 0,
        "missing": 19,
        "all": 25,
    }
    assert found.frames == 6 * 12 + 19 * 9
    assert found.frames_left == 19 * 9
    assert (found.shards, found.open) == (3, 3)
    assert found.longest["shard"] == "00001" and found.longest["videos"] == 10
    # Three flow jobs: their starts, and a tenth of a second per frame.
    assert found.hours is not None
    assert found.hours["flow"] == pytest.approx((3 * 6 + 19 * 9 * 0.1) / 3600)
    assert found.gpu_hours == pytest.approx(2 * found.hours["flow"])
    assert found.cpu_hours == pytest.approx(4 * sum(found.hours.values()))
    assert found.flow_bytes == 19 * 9 * 1000
    assert sum(row["videos"] for row in found.classes.values()) == 25
    assert sum(row["left"] for row in found.classes.values()) == 19


def test_planning_a_large_list_takes_little_memory(tmp_path: Path) -> None:
    """Planning keeps eight bytes per video; its names would take ten times as much."""
    import tracemalloc

    list_file = write_plain(tmp_path / "list.txt", names(50_000))
    tracemalloc.start()
    plan = make_plan(VideoList(list_file), 256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(plan, Plan) and plan.videos == 50_000
    assert peak < list_file.stat().st_size
    assert np.unique([shard.digest for shard in plan.shards]).size == len(plan.shards)
