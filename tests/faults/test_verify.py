"""`m3flow verify` and `m3flow doctor`: faults are found, reported and repaired; good files are not touched."""

from __future__ import annotations

import csv
import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from support.fault_cases import QUICK, data_set, encode, here, results, run, statuses, temporaries

# The expected row of each odd video: verdict, frames that decode, size as used, and a word of the reason.
ODD = {
    "BigBuckBunny.mp4": ("ok", 4, (540, 320), ""),
    "big_buck_bunny_432_433.webm": ("ok", 24, (1280, 720), ""),
    "busMpeg4.mp4": ("ok", 25, (160, 160), ""),
    "carphone_pristine.mp4": ("ok", 120, (176, 144), ""),
    "corrupted.mp4": ("damaged", 28, (1280, 720), "28 of the 50 frames"),
    "h264_10bits.mp4": ("ok", 30, (200, 200), ""),
    "mp4-basic.mp4": ("ok", 104, (320, 240), ""),
    "nasa_13013.mp4": ("ok", 325, (320, 180), ""),
    "nasa_13013_rotated.mp4": ("ok", 17, (270, 480), ""),
    "no_duration.webm": ("ok", 74, (1280, 720), ""),
    "nokia-tune.mkv": ("rejected", 0, (0, 0), "not a video with a picture"),
    "part_0.mp4": ("ok", 32, (340, 256), ""),
    "smallville.s03e02.avi": ("rejected", 0, (0, 0), "claims 63324"),
    "testsrc2_mpeg4.mp4": ("rejected", 1, (64, 64), "only 1 frame(s) decode"),
    "testsrc2_odd_height_and_width_vp9.mp4": ("ok", 25, (321, 241), ""),
    "testsrc2_vp9.webm": ("ok", 30, (1280, 720), ""),
    "video_0.mov": ("ok", 3, (568, 320), ""),
    "video_90.mov": ("ok", 3, (320, 568), ""),
}


def inventory(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {Path(row["video"]).name: row for row in csv.DictReader(file)}


def test_the_odd_videos_get_the_right_verdicts(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("".join(f"odd/{name}\n" for name in ODD))
    table = tmp_path / "inventory.csv"
    done = run("verify", tmp_path / "list.csv", "--root", shared_data, "--input", "--table", table)
    assert done.returncode == 3
    assert "14 ok, 3 rejected, 1 damaged of 18 videos" in done.stderr
    rows = inventory(table)
    assert list(rows) == list(ODD)  # in the order of the list
    for name, (verdict, frames, size, reason) in ODD.items():
        row = rows[name]
        assert (row["verdict"], int(row["frames"])) == (verdict, frames), name
        assert (int(row["width"]), int(row["height"])) == size, name
        assert reason in row["reason"] and bool(row["reason"]) == (verdict != "ok"), name
    assert (rows["nasa_13013_rotated.mp4"]["rotation"], rows["video_90.mov"]["rotation"]) == ("270", "90")
    assert rows["no_duration.webm"]["claimed"] == "0"
    assert rows["mp4-basic.mp4"]["rate"] == "15001/1000"


def test_good_videos_are_all_well(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 4)
    table = tmp_path / "inventory.csv"
    done = run("verify", list_file, "--root", tmp_path, "--input", "--table", table)
    assert (done.returncode, {row["verdict"] for row in inventory(table).values()}) == (0, {"ok"})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give a list or a video"),
        (("list.csv",), "give --input"),
        (("list.csv", "--input", "--output", "out"), "--input checks the videos"),
        (("list.csv", "--output", "out"), "has neither flows/ nor trajs/"),
        (("none.csv", "--input"), "no such list file"),
        (("list.csv", "--input", "--limit", "hours=1"), "--limit hours is not a key"),
        (("list.csv", "--input", "--limit", "hours"), "write it as name=value"),
        (("list.csv", "--input", "--limit", "seconds=0"), "more than 0"),
        (("list.csv", "--input", "--exclude", "none.csv"), "cannot read the list to exclude"),
        (("list.csv", "--input", "--exclude", "list.csv"), "leaves none of the 1 videos"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("a.mp4\n")
    (tmp_path / "out").mkdir()
    status, said = here("verify", *arguments)
    assert status == 2 and reason in said and len(said.splitlines()) == 1


def exclude_file(folder: Path) -> Path:
    (folder / "without.txt").write_text("clips/class1/clip001.mp4\n")
    return folder / "without.txt"


def test_a_plain_list_excludes_too_on_the_command_line_and_in_the_configuration(tmp_path: Path) -> None:
    from m3flow.experiment.config import Experiment

    list_file = data_set(tmp_path, 3)
    without = exclude_file(tmp_path)
    output = tmp_path / "out"
    assert (
        run(
            "flow", list_file, "--root", tmp_path, "--output", output, "--exclude", without, *QUICK
        ).returncode
        == 0
    )
    expected = ["clips/class0/clip000.mp4", "clips/class2/clip002.mp4"]
    assert sorted(video for _, video, _ in statuses(output)) == expected
    experiment = Experiment.of({"videos": str(list_file), "root": str(tmp_path), "exclude": str(without)})
    assert [video.name for video in experiment.videos.read()] == expected


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a list of five clips and their results in `out`."""
    root = tmp_path_factory.mktemp("made")
    list_file = data_set(root, 5)
    place = [list_file, "--root", root, "--output", root / "out"]
    assert run("flow", *place, *QUICK).returncode == 0
    assert run("trajectories", *place).returncode == 0
    return root


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_what_is_wrong_is_found_repaired_and_made_again(made: Path) -> None:
    output, list_file = made / "out", made / "list.csv"
    place = [list_file, "--root", made, "--output", output]
    before = results(output)
    assert run("verify", *place).returncode == 0
    flows, trajs = output / "flows/clips", output / "trajs/clips"
    gz = trajs / "class0/clip000.mp4_6.gz"
    flip(gz, gz.stat().st_size // 2)
    x = flows / "class1/clip001.mp4/x.mp4"
    os.truncate(x, x.stat().st_size - 40)
    y = flows / "class2/clip002.mp4/y.mp4"
    flip(y, y.read_bytes().index(b"mdat") + 40)  # a byte of the picture: only the hash detects it
    (flows / "class0/clip003.mp4/x.mp4").unlink()
    (trajs / "class1/clip004.mp4_6.gz").write_bytes(b"")
    gone = flows / f"class0/.{socket.gethostname()[:40]}-4194305-0123456789ab.m3flow-tmp"
    gone.write_bytes(b"half a file")
    mine = flows / f"class0/.{socket.gethostname()[:40]}-{os.getpid()}-0123456789ab.m3flow-tmp"
    mine.write_bytes(b"in use")
    elsewhere = flows / "class0/.another-machine-77-0123456789ab.m3flow-tmp"
    elsewhere.write_bytes(b"who knows")

    found = run("verify", *place)
    assert found.returncode == 3
    for path, message in (
        (gz, "CRC check failed"),
        (x, ""),
        (y, "its content is not what was written"),
        (flows / "class0/clip003.mp4/x.mp4", "missing"),
        (trajs / "class1/clip004.mp4_6.gz", "not a trajectory file"),
    ):
        assert any(str(path) in line and message in line for line in found.stderr.splitlines()), path
    assert "4 wrong, 1 missing of 5 videos" in found.stderr
    assert (
        results(output).keys() | {"flows/clips/class0/clip003.mp4/x.mp4"} == before.keys()
    )  # nothing was changed

    assert run("verify", *place, "--repair").returncode == 3
    assert temporaries(output) == sorted([mine, elsewhere]) or set(temporaries(output)) == {mine, elsewhere}
    assert run("flow", *place, *QUICK).returncode == 0
    assert run("trajectories", *place).returncode == 0
    again = Counter((name.split("-")[0], status) for name, _, status in statuses(output) if "-0002" in name)
    assert again == {
        ("flow", "done"): 3,
        ("flow", "kept"): 2,
        ("trajectories", "done"): 2,
        ("trajectories", "kept"): 3,
    }
    assert results(output) == before
    assert run("verify", *place).returncode == 0
    mine.unlink()
    os.utime(elsewhere, (0, 0))
    assert run("verify", *place, "--repair").returncode == 0 and temporaries(output) == []


def test_settings_other_than_the_expected_ones_are_found(made: Path) -> None:
    place = [made / "list.csv", "--root", made, "--output", made / "out"]
    right = (
        "--estimator",
        "dis",
        "--set",
        "preset=ultrafast",
        "--camera",
        "none",
        "--bound",
        "20",
        "--step",
        "1",
    )
    assert here("verify", *place, *right, "--tracking", "subpixel")[0] == 0
    for wrong in (
        ("--estimator", "farneback"),
        ("--estimator", "dis", "--set", "preset=medium"),
        ("--bound", "10"),
        ("--codec", "h264-lossless"),
        ("--tracking", "integer"),
        ("--length", "4"),
    ):
        assert here("verify", *place, *wrong)[0] == 3, wrong


def test_the_expected_settings_come_from_the_configuration(made: Path) -> None:
    config = made / "config.yaml"
    flow = "{estimator: dis, parameters: {preset: ultrafast}, camera: none}"
    text = f"videos: {made / 'list.csv'}\nroot: {made}\noutput: {made / 'out'}\nflow: {flow}\n"
    config.write_text(text)
    assert here("verify", "--config", config)[0] == 0
    config.write_text(text.replace("none", "warp"))
    status, said = here("verify", "--config", config)
    assert status == 3 and "made with camera 'none', expected 'warp'" in said
    config.write_text(text)
    table = made / "inventory.csv"
    assert here("verify", "--config", config, "--input", "--table", table)[0] == 0


def test_a_rejected_video_is_missing_for_a_reason(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 2)
    (tmp_path / "clips/class1/clip001.mp4").write_bytes(b"no video")
    place = [list_file, "--root", tmp_path, "--output", tmp_path / "out"]
    assert run("flow", *place, *QUICK).returncode == 3
    assert run("trajectories", *place).returncode == 3
    found = run("verify", *place)
    assert found.returncode == 3
    lines = [line for line in found.stderr.splitlines() if line.startswith("wrong: ")]
    assert len(lines) == 1 and "rejected: not a video with a picture" in lines[0]


def test_the_log_has_the_settings_the_machine_a_line_a_video_and_tracebacks(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 6)
    (tmp_path / "clips/class1/clip001.mp4").write_bytes(b"no video")
    output = tmp_path / "out"
    (output / "flows/clips").mkdir(parents=True)
    (output / "flows/clips/class2").write_text("in the way, so that two videos fail in their workers")
    done = run("flow", list_file, "--root", tmp_path, "--workers", "2", "--output", output, *QUICK)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    log = (output / "logs/flow-0001.log").read_text()
    for part in ("'estimator': 'dis'", socket.gethostname(), "2 workers", "numpy", "opencv", "Slurm job"):
        assert part in log
    lines = log.splitlines()
    assert sum(" INFO done " in line for line in lines) == 3
    assert sum(" INFO rejected " in line for line in lines) == 1
    assert sum(" INFO failed " in line for line in lines) == 2
    assert log.count("Traceback (most recent call last)") >= 2 and "complete_or_absent" in log


def test_doctor_tries_what_a_run_needs(tmp_path: Path) -> None:
    done = run("doctor", "--output", tmp_path)
    text = done.stdout
    # Slurm may be partly installed here; any other fault would fail every run.
    wrong = [line for line in text.splitlines() if line.startswith("wrong") and "Slurm" not in line]
    assert wrong == [] and done.returncode == (1 if "wrong" in text else 0)
    for part in (
        "codec mpeg4: writes and reads",
        "codec h264-lossless: writes and reads",
        "decoders: h264, mpeg4",
    ):
        assert part in text
    assert done.stderr == ""


def test_an_idle_slurm_is_no_failure(tmp_path: Path) -> None:
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    (tmp_path / "bin/sinfo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/sinfo").chmod(0o755)
    done = run("doctor", env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert done.returncode == 0
    assert " note  Slurm: sbatch is here but the controller does not answer\n       ->" in done.stdout


def test_an_image_folder_in_the_inventory(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    for number in range(4):
        folder = tmp_path / "frames/a"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), np.full((20, 30), 9 * number, np.uint8))
    (tmp_path / "list.csv").write_text("frames/a\n")
    encode(tmp_path / "unused.mp4")
    table = tmp_path / "t.csv"
    assert (
        run("verify", tmp_path / "list.csv", "--root", tmp_path, "--input", "--table", table).returncode == 0
    )
    row = inventory(table)["a"]
    assert (row["codec"], row["frames"], row["width"], row["height"]) == ("images", "4", "30", "20")
