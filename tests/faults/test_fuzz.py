"""Fuzzing of the readers, and a run over 500 damaged videos: rejected or done, nothing else."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3flow.errors import BadInput, UsageError
from m3flow.results.forms.mp4 import Mp4Writer, packet_digest
from m3flow.results.records import read_records
from m3flow.results.stored_flow import load_flow, read_provenance
from m3flow.results.trajectoryfile import TrajectoryWriter, load_trajectories, read_made
from m3flow.videos.videolist import VideoList
from support.fault_cases import QUICK, encode, rejections, run, statuses, temporaries, unfinished

MUTATIONS = 500
# (codec, container, suffix): the kinds of files in the usual data sets.
CODECS = [
    ("mpeg4", "avi", ".avi"),
    ("libx264", "mp4", ".mp4"),
    ("libvpx-vp9", "webm", ".webm"),
    ("mjpeg", "avi", ".avi"),
    ("libx264", "matroska", ".mkv"),
    ("mpeg2video", "mpeg", ".mpg"),
    ("flv", "flv", ".flv"),
]
BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Lists close to real ones: separators, quotes, headers, paths, and arbitrary text.
LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "path",
                "path,label",
                "video;label",
                '"a b.mp4",1',
                "a/b.mp4 1",
                "../x.mp4",
                "/",
                '"',
                "\ufeff",
                "a\rb",
            ]
        ),
        st.text(alphabet=st.characters(codec="utf-8"), max_size=40),
    ),
    max_size=8,
)


@BOUNDED
@given(data=st.one_of(LINES.map(lambda lines: "\n".join(lines).encode()), st.binary(max_size=200)))
def test_a_list_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    for read in (
        lambda: {video.name for video in VideoList(path, Path("/data")).read()},
        VideoList(path, exclude=path).excluded_names,
    ):
        try:
            names = read()
        except UsageError as error:
            assert str(error)
            continue
        for name in names:
            inside = os.path.normpath(f"/out/flows/{name}")
            assert inside.startswith("/out/flows/") and "\0" not in name


@BOUNDED
@given(data=st.one_of(LINES.map(lambda lines: "\n".join(lines).encode()), st.binary(max_size=200)))
def test_records_are_read_whatever_is_in_them(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "flow-0001.csv"
    path.write_bytes(b"video,status,frames\na.mp4,done,3\n" + data)
    first = next(iter(read_records([path])))
    assert (first.video, first.status, first.frames) == ("a.mp4", "done", 3)
    assert all(isinstance(record.frames, int) for record in read_records([path]))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The data with a few bytes changed, cut off, doubled, moved or overwritten."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        if not result:
            break
        at = chance.randrange(len(result))
        length = min(chance.choice((1, 1, 4, 64, 400)), len(result) - at)
        kind = chance.randrange(7)
        if kind <= 1:
            result[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            result[at : at + length] = chance.randbytes(length)
        elif kind == 3:
            del result[at : at + length]
        elif kind == 4:
            result[at:at] = result[at : at + length]
        elif kind == 5:
            result[at : at + length] = b"\xff" * length
        else:
            del result[at:]
    return bytes(result)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with valid x.mp4, y.mp4 and v_6.gz."""
    folder = tmp_path_factory.mktemp("whole")
    levels = np.random.default_rng(0).integers(100, 150, (9, 2, 24, 32), np.uint8)
    features = np.random.default_rng(0).integers(-20, 20, (12, 4, 3, 4), np.int8)
    with Mp4Writer(folder, codec="mpeg4", rate=Fraction(25), width=32, height=24) as writer:
        writer.write(levels)
        writer.close({"m3flow": "test", "settings": {"bound": 20.0}})
    with TrajectoryWriter(folder / "v_6.gz", length=6, rows=3, columns=4) as trajectories:
        trajectories.write(features, np.ones((4, 3, 4), np.uint8))
        trajectories.close({"m3flow": "test"})
    return folder


def test_every_single_wrong_byte_of_a_trajectory_file_is_found_or_harmless(
    whole: Path, tmp_path: Path
) -> None:
    data = (whole / "v_6.gz").read_bytes()
    right = load_trajectories(whole / "v_6.gz")
    path = tmp_path / "v_6.gz"
    harmless = []
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            wrong = load_trajectories(path)
        except BadInput:
            continue
        harmless.append(at)
        np.testing.assert_array_equal(wrong.traj_feat, right.traj_feat)
    # Time, system and compression hint in the gzip header have no effect.
    assert set(harmless) <= {3, 4, 5, 6, 7, 8, 9}


def test_mutated_trajectory_files_are_read_or_refused(whole: Path, tmp_path: Path) -> None:
    data = (whole / "v_6.gz").read_bytes()
    chance, read = random.Random(1), Counter[str]()
    path = tmp_path / "v_6.gz"
    import gzip

    for number in range(600):
        # Half of them damaged before compression, where no checksum detects it.
        path.write_bytes(
            mutated(data, chance) if number % 2 else gzip.compress(mutated(gzip.decompress(data), chance), 1)
        )
        for reader in (load_trajectories, read_made):
            try:
                reader(path)
            except BadInput as error:
                assert str(error).startswith(str(path))
                read[f"{reader.__name__} refused"] += 1
            else:
                read[f"{reader.__name__} read"] += 1
    assert read["load_trajectories refused"] > 300


def test_mutated_flow_files_are_read_or_refused(whole: Path, tmp_path: Path) -> None:
    chance, read = random.Random(2), Counter[str]()
    right = {name: packet_digest(whole / name) for name in ("x.mp4", "y.mp4")}
    for _ in range(300):
        (tmp_path / "y.mp4").write_bytes((whole / "y.mp4").read_bytes())
        (tmp_path / "x.mp4").write_bytes(mutated((whole / "x.mp4").read_bytes(), chance))
        for reader in (load_flow, lambda folder: read_provenance(folder / "x.mp4")):
            try:
                reader(tmp_path)
            except BadInput as error:
                assert str(tmp_path) in str(error)
                read["refused"] += 1
            else:
                read["read"] += 1
        try:
            read["seen"] += packet_digest(tmp_path / "x.mp4") != right["x.mp4"]
        except BadInput:
            read["seen"] += 1
    assert read["refused"] > 100 and read["seen"] > 150


def test_a_run_over_500_mutated_videos(tmp_path: Path) -> None:
    chance = random.Random(3)
    originals = []
    for number, (codec, container, suffix) in enumerate(CODECS):
        clip = encode(
            tmp_path / f"original{number}{suffix}", frames=6, codec=codec, container=container, seed=number
        )
        originals.append((clip.read_bytes(), suffix))
    lines = []
    for number in range(MUTATIONS):
        data, suffix = originals[number % len(originals)]
        name = f"in/clip{number:03d}{suffix}"
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(mutated(data, chance))
        lines.append(f"{name}\n")
    (tmp_path / "list.csv").write_text("".join(lines))
    output = tmp_path / "out"
    limits = (
        "--limit",
        "seconds=20",
        "--limit",
        "frames=2000",
        "--limit",
        "megapixels=4",
        "--limit",
        "memory_gb=2",
    )
    place = [tmp_path / "list.csv", "--root", tmp_path, "--workers", "2", "--output", output]
    done = run("flow", *place, *QUICK, *limits)
    assert done.returncode == 3, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    counts = Counter(status for *_, status in statuses(output))
    assert counts.keys() <= {"done", "rejected"} and counts.total() == MUTATIONS
    assert counts["rejected"] > 50 and counts["done"] > 50
    assert rejections(done.stderr) == counts["rejected"]
    assert unfinished(output) == [] and temporaries(output) == []
    table = tmp_path / "inventory.csv"
    assert run("verify", *place[:5], "--input", "--table", table, *limits).returncode == 3
    with table.open(newline="") as file:
        verdicts = {row["video"]: row["verdict"] for row in csv.DictReader(file)}
    assert {name for name, verdict in verdicts.items() if verdict == "rejected"} == {
        video for _, video, status in statuses(output) if status == "rejected"
    }
    print(f"{dict(counts)}; inventory: {dict(Counter(verdicts.values()))}")


def test_motion_vectors_of_mutated_videos(tmp_path: Path) -> None:
    chance = random.Random(4)
    clip = encode(tmp_path / "original.mp4", frames=9, codec="libx264").read_bytes()
    names = [f"clip{number}.mp4" for number in range(100)]
    for name in names:
        (tmp_path / name).write_bytes(mutated(clip, chance))
    (tmp_path / "list.csv").write_text("\n".join(names))
    output = tmp_path / "out"
    place = [tmp_path / "list.csv", "--root", tmp_path, "--workers", "2", "--output", output]
    done = run("trajectories", *place, "--job", "mvs")
    assert done.returncode in (0, 3), done.stderr[-3000:]
    counts = Counter(status for *_, status in statuses(output))
    assert counts.keys() <= {"done", "rejected"} and counts.total() == 100
    print(dict(counts))
