"""Packs: against the files that went in, read by tarfile and by the webdataset library."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from rich.console import Console

from m3flow.cli.status import _picture
from m3flow.errors import BadInput, UsageError
from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import due
from m3flow.experiment.status import Status, status_of, summary
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.packs import archive
from m3flow.packs.archive import key_of, read_table
from m3flow.packs.packing import PackReport, pack_shard, rewrite_without, verify_packs
from m3flow.packs.store import Packs, with_packs
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video, VideoList
from support.clips import clip

pytest.importorskip("pyarrow")

NAMES = ["a.mkv", "b c.mkv", "ü%.x.mkv", "d.mkv"]
LENGTH = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of four videos."""
    base = tmp_path_factory.mktemp("made")
    for number, name in enumerate(NAMES):
        clip(base / "set" / name, seed=number)
    lines = "".join(f'"set/{name}",{number}\n' for number, name in enumerate(NAMES))
    (base / "list.csv").write_text("path,label\n" + lines)
    with Extractor(work(base / "out")) as extractor:
        for video in videos(base):
            assert extractor(video).status == "done"
    return base


def work(output: Path) -> Work:
    return Work(
        outputs=Outputs(output),
        flow=FlowSettings(estimator="dis", camera="none"),
        trajectories=TrajectorySettings(length=LENGTH),
    )


def videos(base: Path) -> list[Video]:
    return VideoList(base / "list.csv", base, 2).read()


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Outputs:
    """A copy of the results that a test may change."""
    subprocess.run(["cp", "-r", made / "out", tmp_path / "out"], check=True)
    return Outputs(tmp_path / "out")


def experiment(made: Path, outputs: Outputs, estimator: str = "dis") -> Experiment:
    return Experiment.of(
        {
            "videos": str(made / "list.csv"),
            "root": str(made),
            "output": str(outputs.folder),
            "layout": {"parts": 2},
            "flow": {"estimator": estimator, "camera": "none"},
            "trajectories": {"length": LENGTH},
            "shard": {"videos": 4, "pack": True},
        }
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for top in ("flows", "trajs")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


def pack(outputs: Outputs, chosen: list[Video], **options: bool) -> PackReport:
    return pack_shard(outputs, "list", "00000", chosen, LENGTH, **options)


def unpacked(outputs: Outputs) -> dict[str, bytes]:
    """What the packs hold, by the paths that the files had."""
    packs = Packs(outputs)
    return {
        str(outputs.unpacked(name, LENGTH, member).relative_to(outputs.folder)): data
        for name in packs.videos
        for member, data in packs.content(name)
    }


def test_a_pack_holds_the_files_byte_for_byte(made: Path, out: Outputs) -> None:
    before = content(out.folder)
    report = pack(out, videos(made))
    assert report.written and not report.missing and unpacked(out) == before
    table = read_table(report.table)
    assert [row.video for row in table.videos] == [f"set/{name}" for name in NAMES]
    assert [row.label for row in table.videos] == ["0", "1", "2", "3"]
    for row in table.videos:
        assert (row.frames, row.width, row.height, row.length) == (9, 64, 48, LENGTH)
        assert row.motion["speed"] > 0
    with tarfile.open(table.tar) as tar:
        for row in table.videos:
            for member in row.members:
                info = tar.getmember(f"{key_of(row.video)}.{member.name}")
                assert (info.offset_data, info.size) == (member.offset, member.size)


def test_webdataset_reads_it(made: Path, out: Outputs) -> None:
    webdataset = pytest.importorskip("webdataset")
    before = content(out.folder)
    table = read_table(pack(out, videos(made)).table)
    samples = list(webdataset.WebDataset(str(table.tar), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [key_of(f"set/{name}") for name in NAMES]
    for sample, name in zip(samples, NAMES, strict=True):
        assert sample["x.mp4"] == before[f"flows/set/{name}/x.mp4"]
        assert sample["y.mp4"] == before[f"flows/set/{name}/y.mp4"]
        assert sample["traj.gz"] == before[f"trajs/set/{name}_{LENGTH}.gz"]
        assert json.loads(sample["json"])["video"] == f"set/{name}"


def test_packing_again_changes_nothing(made: Path, out: Outputs) -> None:
    tar = read_table(pack(out, videos(made)).table).tar
    stamp = tar.stat().st_mtime_ns
    again = pack(out, videos(made))
    assert not again.written and len(again.videos) == 4 and tar.stat().st_mtime_ns == stamp


def test_new_and_changed_files_go_in_and_nothing_is_lost(made: Path, out: Outputs) -> None:
    every, before = videos(made), content(out.folder)
    pack(out, every[:2], remove=True)
    assert not out.flow("set/a.mkv").exists() and len(content(out.folder)) == 6
    trajectories = out.trajectories("set/d.mkv", LENGTH)
    report = pack(out, every)
    assert report.written and unpacked(out) == before
    other = before[f"trajs/set/a.mkv_{LENGTH}.gz"]
    trajectories.write_bytes(other)
    assert pack(out, every).written
    after = before | {f"trajs/set/d.mkv_{LENGTH}.gz": other}
    assert unpacked(out) == after
    trajectories.write_bytes(other[:50])
    (problem,) = pack(out, every).damaged
    assert "d.mkv_3.gz: not a trajectory file" in problem and unpacked(out) == after
    trajectories.write_bytes(other)
    # A list that became shorter takes nothing out whose single files are gone.
    pack(out, every[2:], remove=True)
    assert len(unpacked(out)) == 12 and not content(out.folder)
    assert len(list((out.packs / "list").iterdir())) == 2


def test_results_made_again_take_only_their_own_place(made: Path, out: Outputs) -> None:
    every, before = videos(made), content(out.folder)
    pack(out, every, remove=True)
    name, other = "set/a.mkv", before[f"trajs/set/d.mkv_{LENGTH}.gz"]
    single = out.trajectories(name, LENGTH)
    single.parent.mkdir(parents=True, exist_ok=True)
    single.write_bytes(other)
    row = next(row for row in read_table(pack(out, every, remove=True).table).videos if row.video == name)
    assert unpacked(out) == before | {f"trajs/{name}_{LENGTH}.gz": other}
    assert row.motion["speed"] > 0 and row.length == LENGTH and not single.exists()
    # Flow in another form takes the place of the flow alone.
    arrays = FlowSettings(estimator="dis", camera="none", store="npz")
    with Extractor(Work(outputs=out, flow=arrays)) as extractor:
        assert extractor(every[0]).status == "done"
    pack(out, every, remove=True)
    assert sorted(path for path in unpacked(out) if name in path) == [
        f"flows/{name}/flow.npz",
        f"trajs/{name}_{LENGTH}.gz",
    ]


def test_frames_join_what_is_packed(made: Path, out: Outputs) -> None:
    every, before = videos(made), content(out.folder)
    pack(out, every, remove=True)
    frame = out.frames("set/a.mkv") / "img_00000.jpg"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"a picture")
    rows = read_table(pack(out, every, remove=True).table).videos
    row = next(row for row in rows if row.video == "set/a.mkv")
    assert unpacked(out) == before | {str(frame.relative_to(out.folder)): b"a picture"}
    assert (row.frames, row.width) == (9, 64) and row.motion


def test_trajectories_of_two_lengths_do_not_replace_each_other(made: Path, out: Outputs) -> None:
    every, before = videos(made), content(out.folder)
    pack(out, every, remove=True)
    with Extractor(Work(outputs=out, trajectories=TrajectorySettings(length=2))) as extractor:
        assert [extractor(video).status for video in every] == ["done"] * 4
    single = content(out.folder)
    report = pack_shard(out, "list", "00000", every, 2, remove=True)
    assert not report.written and report.removed == 0
    assert content(out.folder) == single and len(single) == 4 and unpacked(out) == before


def test_videos_without_results_are_named(made: Path, out: Outputs) -> None:
    report = pack(out, [*videos(made), Video("/gone.mkv", "set/gone.mkv")])
    assert report.missing == ["set/gone.mkv"] and len(report.videos) == 4


def test_a_run_goes_on_from_packs(made: Path, out: Outputs) -> None:
    every = videos(made)
    pack(out, every[:3], remove=True)
    with Extractor(work(out.folder)) as extractor:
        assert [extractor(video).status for video in every] == ["kept"] * 4
    assert len(content(out.folder)) == 3
    longer = Work(outputs=out, trajectories=TrajectorySettings(length=2))
    with Extractor(longer) as extractor:
        assert [extractor(video).status for video in every] == ["done"] * 4
    assert out.trajectories("set/a.mkv", 2).is_file()


def test_packs_alone_tell_that_nothing_is_left(made: Path, out: Outputs) -> None:
    """Without single files and without records, as after copying packs to another cluster."""
    pack_shard(out, "list.csv", "00000", videos(made), LENGTH, remove=True)
    shutil.rmtree(out.folder / "records", ignore_errors=True)
    for folder in (out.flows, out.trajs):
        shutil.rmtree(folder)
    for estimator, left in (("dis", []), ("farneback", ["00000"])):
        found = due(experiment(made, out, estimator), "shard")
        assert found.units["flow"] == left and found.videos == 4 * len(left)
        if not left:
            assert not any(found.units.values())


def test_readers_see_packed_files(made: Path, out: Outputs) -> None:
    before = content(out.folder)
    pack(out, videos(made), remove=True)
    view = with_packs(out)
    for name in NAMES:
        assert view.flow_files(f"set/{name}")[0].read_bytes() == before[f"flows/set/{name}/x.mp4"]
        path = view.trajectories(f"set/{name}", LENGTH)
        assert path.read_bytes() == before[f"trajs/set/{name}_{LENGTH}.gz"]
    assert not view.trajectories("set/a.mkv", 5).exists() and not view.flow("set/gone.mkv").exists()


def test_half_of_the_single_flow_does_not_hide_the_pack(made: Path, out: Outputs) -> None:
    before = content(out.folder)
    pack(out, videos(made))
    out.flow_files("set/a.mkv")[0].unlink()
    assert status_of(experiment(made, out)).counts["done"] == 4
    view = with_packs(out)
    assert view.flow_files("set/a.mkv")[0].read_bytes() == before["flows/set/a.mkv/x.mp4"]
    longer = Work(outputs=out, flow=work(out.folder).flow, trajectories=TrajectorySettings(length=2))
    with Extractor(longer) as extractor:
        assert [extractor(video).status for video in videos(made)] == ["done"] * 4
    pack(out, videos(made))
    assert unpacked(out) == before


def test_damage_is_found_and_repaired(made: Path, out: Outputs) -> None:
    every, before = videos(made), content(out.folder)
    table = pack(out, every).table
    assert not list(verify_packs(out))
    tar = read_table(table).tar
    whole = tar.read_bytes()

    def repaired() -> None:
        (damaged,) = verify_packs(out)
        rewrite_without(damaged.table, damaged.lost)
        assert not list(verify_packs(out))
        assert all(before[path] == data for path, data in unpacked(out).items())
        pack(out, every)
        assert unpacked(out) == before

    tar.write_bytes(whole[: len(whole) * 2 // 3])  # truncated
    assert Packs(out).damaged and not Packs(out).videos
    with pytest.raises(BadInput, match="verify --repair"):
        pack(out, every)
    repaired()
    tar = read_table(table).tar
    data = bytearray(tar.read_bytes())
    data[read_table(table).videos[1].members[0].offset + 5] ^= 1  # one wrong bit
    tar.write_bytes(data)
    repaired()
    read_table(table).tar.unlink()
    repaired()
    table.write_bytes(b"not a table")
    repaired()


def status_text(found: Status) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(_picture(found))
    return capture.get()


def test_status_names_a_damaged_pack(made: Path, out: Outputs) -> None:
    tar = read_table(pack(out, videos(made), remove=True).table).tar
    whole = tar.stat().st_size
    found = status_of(experiment(made, out))
    assert found.counts["done"] == 4 and not found.damaged_packs and "pack" not in status_text(found)
    os.truncate(tar, whole // 2)
    found = status_of(experiment(made, out))
    assert found.counts["missing"] == 4
    assert found.damaged_packs == [f"{tar}: has {whole // 2} of {whole} bytes"]
    for text in (status_text(found), " ".join(summary(experiment(made, out), found))):
        assert f"damaged pack: {tar}" in text and "m3flow verify --repair" in text


def test_a_disk_that_writes_something_else_is_found(
    made: Path, out: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_is_whole", lambda file, member: member.name != "y.mp4")
    with pytest.raises(OSError, match="not written as it should be"):
        pack(out, videos(made))
    assert not list(out.packs.rglob("*.parquet")) and not list(out.packs.rglob("*.tar"))


def test_without_pyarrow_one_line_says_so(made: Path, out: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"packs need pyarrow: pip install 'm3flow\[packs\]'"):
        pack(out, videos(made))


@pytest.mark.slow
def test_another_size_is_refused_before_anything_is_packed(made: Path, out: Outputs, tmp_path: Path) -> None:
    def packed(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "from m3flow.cli import main; main()",
            "pack",
            str(made / "list.csv"),
        ]
        places = ["--root", str(made), "--parts", "2", "--output", str(output), "--length", str(LENGTH)]
        return subprocess.run([*command, *places, *options], capture_output=True, text=True, check=False)

    assert packed(out.folder, "--size", "2").returncode == 0
    done = packed(out.folder, "--size", "1")
    assert done.returncode == 2 and "packed in another division" in done.stderr
    assert "complete" not in done.stderr and "written" not in done.stderr

    # No pack is named that does not exist.
    done = packed(tmp_path / "elsewhere")
    assert done.returncode == 3 and done.stderr.startswith("pack: 0 of ")


@pytest.mark.slow
def test_killed_at_random_moments_and_called_again(made: Path, out: Outputs) -> None:
    before = content(out.folder)
    command = [
        sys.executable, "-c", "from m3flow.cli import main; main()", "pack", str(made / "list.csv"),
        "--root", str(made), "--parts", "2", "--output", str(out.folder), "--length", str(LENGTH),
        "--size", "1", "--remove",
    ]  # fmt: skip
    began = time.monotonic()
    draws = random.Random(4)
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    tables = out.packs / "list"
    # Killed when the first, second, … table appears, so at moments of writing and of removing.
    for wanted in (0, 1, 2, 3):
        process = first if wanted == 0 else subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.DEVNULL
        )  # fmt: skip
        while process.poll() is None and len(list(tables.glob("*"))) < 2 * wanted + draws.randint(0, 1):
            os.sched_yield()
        process.kill()
        process.wait()
        assert unpacked(out) | content(out.folder) == before
        assert time.monotonic() - began < 300
    assert process.returncode in (0, -signal.SIGKILL)
    assert subprocess.run(command, check=False).returncode == 0
    assert unpacked(out) == before and not content(out.folder) and not list(verify_packs(out))
