"""Scores of hand-made tracks, of other programs' and of ours."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from m3flow.cli import app
from m3flow.errors import BadInput, UsageError
from m3flow.results.trajectoryfile import TrajectoryWriter
from m3flow.scoring.scenes import make_scene
from m3flow.scoring.score import auroc, score
from m3flow.scoring.tracks import Tracks, clip_of, read_tracks
from m3flow.scoring.truth import archive_of, true_tracks
from m3flow.trajectories import track
from m3flow.videos.frames import Frames
from support.paths import SHARED_DATA

REFERENCE = SHARED_DATA / "track_gt"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference tracks are not here")

# Three points over 4 frames of 200x100, in pixels: one moves by (2, 1), one stands still and is hidden at the end, one
# appears in frame 1.
POINTS = np.array(
    [
        [[10, 20], [12, 21], [14, 22], [16, 23]],
        [[50, 60], [50, 60], [50, 60], [50, 60]],
        [[0, 0], [100, 40], [101, 40], [102, 40]],
    ],
    float,
)
OCCLUDED = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], bool)


def normalised(points: np.ndarray) -> np.ndarray:
    """Points as in TAP-Vid: normalised by the frame size, from the corner of the first pixel."""
    return (points + 0.5) / (200, 100)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["score", *map(str, arguments)])
    return done.exit_code, done.output + str(done.exception or "")


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.pkl"
    video = np.zeros((4, 100, 200, 3), np.uint8)
    clip = {"points": normalised(POINTS), "occluded": OCCLUDED, "video": video}
    path.write_bytes(pickle.dumps({"clip": clip}))
    return path


def test_an_archive_by_hand_is_read_as_it_was_meant(truth: Path) -> None:
    tracks = read_tracks(truth)
    assert tracks.start.tolist() == [0, 0, 1]
    np.testing.assert_allclose(tracks.positions[0], POINTS[0])
    np.testing.assert_allclose(tracks.positions[2, :3], POINTS[2, 1:])
    assert np.isnan(tracks.positions[2, 3]).all() and not tracks.visible[2, 3]
    assert tracks.visible[1].tolist() == [True, True, True, False]


def test_scores_of_an_archive_by_hand(truth: Path, tmp_path: Path) -> None:
    found = POINTS.copy()
    found[0, 1:, 0] += 1.0  # 1 px off from the first step on
    found[2, 3] = (102, 44)  # 4 px off at its second step
    visibility = np.array([[1, 0.9, 0.9, 0.9], [1, 1, 1, 0.6], [0, 1, 0.9, 0.7]])
    np.savez(tmp_path / "found.npz", tracks=found, visibility=visibility)
    status, output = run(tmp_path / "found.npz", "--truth", truth, "--json", tmp_path / "score.json")
    assert status == 0, output
    (row,) = json.loads((tmp_path / "score.json").read_text())
    # Visible: three points after one step, three after two, one after three.
    assert row["error"] == pytest.approx([1 / 3, 5 / 3, 1.0], abs=1e-4)
    assert row["coverage"] == 1.0 and row["tracks"] == 3
    assert row["bytes_per_1000_frames"] == round(1000 * (tmp_path / "found.npz").stat().st_size / 4)
    # At step 3: the first is right with .9, the second is hidden with .6; the third has no third step.
    assert row["wrong"] == pytest.approx(0.5) and row["auroc"] == 1.0


def test_pixels_and_a_size_from_the_command_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "pixels.npz", points=POINTS, occluded=OCCLUDED)
    np.savez(tmp_path / "parts.npz", points=normalised(POINTS), occluded=OCCLUDED)
    status, output = run(tmp_path / "parts.npz", "--truth", tmp_path / "pixels.npz")
    assert status == 1 and "--size WxH" in output
    for size in ("200", "axb"):
        assert (
            "write it as WxH"
            in run(tmp_path / "parts.npz", "--truth", tmp_path / "pixels.npz", "--size", size)[1]
        )
    to = tmp_path / "score.json"
    assert (
        run(tmp_path / "parts.npz", "--truth", tmp_path / "pixels.npz", "--size", "200x100", "--json", to)[0]
        == 0
    )
    assert json.loads(to.read_text())[0]["error"] == [0.0, 0.0, 0.0]


def test_coverage_counts_what_is_not_given(truth: Path) -> None:
    true = read_tracks(truth)
    some = Tracks(true.start[:1], true.positions[:1], true.visible[:1])
    assert score(some, true).coverage == pytest.approx(3 / 7)
    elsewhere = replace(some, positions=some.positions + 100)
    with pytest.raises(UsageError, match="no track starts"):
        score(elsewhere, true)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    confidence, wrong = random.integers(0, 10, 60), random.random(60) < 0.3
    pairs = [
        (right > other) + 0.5 * (right == other)
        for right in confidence[~wrong]
        for other in confidence[wrong]
    ]
    assert auroc(confidence, wrong) == pytest.approx(np.mean(pairs))
    assert auroc(confidence, np.zeros(60, bool)) is None


def test_a_scene_and_its_archive_say_the_same(tmp_path: Path) -> None:
    status, output = run("--render", tmp_path, "--scene", "object_moving_camera")
    assert status == 0, output
    scene = make_scene("object_moving_camera")
    assert np.array_equal(np.stack(list(Frames(tmp_path / "object_moving_camera.mkv"))), scene.frames)
    truth, direct = read_tracks(tmp_path / "object_moving_camera.npz"), true_tracks(scene, 6)
    # A point that is visible at its start keeps its position in the archive.
    compared = direct.visible
    np.testing.assert_allclose(truth.positions[:, :7][compared], direct.positions[compared], atol=1e-4)
    assert score(direct, truth).error == pytest.approx([0.0] * 6, abs=1e-4)


def test_a_trajectory_file_of_ours(tmp_path: Path) -> None:
    scene = make_scene("object_moving_camera")
    features, inside = (np.asarray(array) for array in track(scene.flow))
    path = tmp_path / "scene.avi_6.gz"
    with TrajectoryWriter(path, length=6, rows=inside.shape[1], columns=inside.shape[2]) as writer:
        writer.write(features, inside)
        writer.close({})
    np.savez(tmp_path / "truth.npz", **archive_of(true_tracks(scene, 6), scene.frames.shape))  # type: ignore[arg-type]
    result = score(read_tracks(path), read_tracks(tmp_path / "truth.npz"))
    # With exact flow, only rounding to whole pixels and the object's outline cause errors.
    assert result.coverage > 0.95 and all(error is not None and error < 0.6 for error in result.error)
    assert result.residual_camera == pytest.approx(np.hypot(3.7, 1.4), abs=0.2)


def test_the_motion_without_the_cameras_leaves_the_background_alone() -> None:
    scene = make_scene("object_turning_camera", frames=8)
    truth = true_tracks(scene, 6, without_camera=True)
    assert score(truth, truth).residual_camera == pytest.approx(0, abs=1e-6)


def test_an_estimator_on_a_scene(tmp_path: Path) -> None:
    to = tmp_path / "score.json"
    status, output = run("--estimator", "dis", "--scene", "occlusion", "--device", "cpu", "--json", to)
    assert status == 0, output
    (row,) = json.loads(to.read_text())
    assert row["auroc"] > 0.9 and row["upper_half"] < 0.5
    assert row["bytes_per_1000_frames"] > 0 and row["seconds_per_1000_frames"] > 0


@needs_reference
def test_the_tracks_of_another_program_and_the_codecs() -> None:
    (path,) = REFERENCE.glob("*.traj.tsv.gz")
    (video,) = REFERENCE.glob("*.avi")
    reference = read_tracks(path)
    assert len(reference) > 100 and reference.steps == 15
    itself = score(reference, reference)
    assert itself.error == pytest.approx([0.0] * 15) and itself.coverage == 1
    still = replace(reference, positions=np.repeat(reference.positions[:, :1], 16, axis=1))
    assert score(still, reference).error[5] == pytest.approx(4.93, abs=0.01)  # docs/accuracy.md has it too
    vectors = score(read_tracks(video), reference)
    assert vectors.error[5] is not None and vectors.error[5] < 4.93 and vectors.coverage > 0.9


def test_what_is_no_file_of_tracks_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing")
    (tmp_path / "a.tsv").write_text("1 2 3\n")
    np.savez(tmp_path / "b.npz", frames=POINTS)
    np.savez(tmp_path / "c.npz", points=POINTS, occluded=OCCLUDED[:, :2])
    for name, message in {
        "missing.npz": "no such file",
        "a.npz": "not a readable archive",
        "a.tsv": "not the text of dense trajectories",
        "b.npz": "needs points",
        "c.npz": "do not fit",
    }.items():
        with pytest.raises(BadInput, match=message):
            read_tracks(tmp_path / name)
    for wrong in ([], ["x.npz"], ["--estimator", "dis", "--render", "here"], ["--truth", "x.npz"]):
        assert isinstance(CliRunner().invoke(app, ["score", *wrong]).exception, UsageError)
    assert "choose from still" in run("--estimator", "dis", "--scene", "nowhere")[1]


def test_a_data_set_whose_truth_is_an_archive_or_a_folder(tmp_path: Path) -> None:
    clips = {
        name: {"points": POINTS + shift, "occluded": OCCLUDED} for name, shift in (("a", 0.0), ("b", 9.0))
    }
    (tmp_path / "all.pkl").write_bytes(pickle.dumps(clips))
    (tmp_path / "truth").mkdir()
    for name, clip in clips.items():
        np.savez(tmp_path / f"{name}.npz", **clip)
        (tmp_path / "truth" / f"{name}.pkl").write_bytes(pickle.dumps(clip))
    for truth in ("all.pkl", "truth"):
        to = tmp_path / "score.json"
        status, output = run(
            tmp_path / "a.npz", tmp_path / "b.npz", "--truth", tmp_path / truth, "--json", to
        )
        assert status == 0, output
        rows = json.loads(to.read_text())
        # The tracks of the other clip start too far away to be compared.
        assert [row["coverage"] for row in rows] == [1.0, 1.0]
        np.savez(tmp_path / "c.npz", **clips["a"])
        assert "no true tracks of c" in run(tmp_path / "c.npz", "--truth", tmp_path / truth)[1]


def test_names_of_clips() -> None:
    names = ("walk.avi_6.gz", "walk.npz", "walk.tsv.gz", "walk.mkv", "walk")
    assert {clip_of(Path(name)) for name in names} == {"walk"}
