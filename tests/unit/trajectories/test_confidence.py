"""The confidence of trajectories, against the exact positions of the scenes and a plainly written loop."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from typer.testing import CliRunner

from m3flow import Trajectories, load_trajectories
from m3flow.cli import app
from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.flow import estimator
from m3flow.layout import Outputs
from m3flow.scoring.judge import LENGTH, Judge
from m3flow.scoring.scenes import Scene, make_scene
from m3flow.scoring.truth import true_tracks
from m3flow.settings import Confidence, FlowSettings, TrajectorySettings
from m3flow.trajectories.confidence import LEVELS_PER_PIXEL, RELIABLE, Evidence, round_trip
from m3flow.trajectories.tracking import FINE, Tracker, Windows, follow
from m3flow.videos.videolist import Video
from support.clips import write_lossy_video

SOURCES = ("photometric", "forward-backward")


def both_ways(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    dis = estimator("dis", backend="opencv")
    return dis.sequence(scene.frames), np.ascontiguousarray(dis.sequence(scene.frames[::-1])[::-1])


def judged(scene: Scene, source: str) -> Windows:
    forward, backward = both_ways(scene)
    trips = round_trip(forward, backward) if source == "forward-backward" else None
    return follow(forward, length=LENGTH, evidence=Evidence(scene.frames, round_trip=trips))


def auroc(confidence: np.ndarray, wrong: np.ndarray) -> float:
    """The probability that a right trajectory has a higher confidence than a wrong one (Mann and Whitney)."""
    ranks, right = rankdata(confidence), ~wrong
    return (ranks[right].sum() - right.sum() * (right.sum() + 1) / 2) / (right.sum() * wrong.sum())


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    names = ("translation", "zoom", "object_moving_camera", "occlusion", "noise", "cut")
    return [make_scene(name, frames=9, height=96, width=128) for name in names]


@pytest.mark.parametrize("source", SOURCES)
def test_it_separates_wrong_trajectories_from_right_ones(scenes: list[Scene], source: str) -> None:
    confidence, errors, hidden = [], [], []
    for scene in scenes:
        judge, windows = Judge(scene), judged(scene, source)
        stay = np.asarray(windows.traj_type).reshape(judge.seen.shape) == 1
        errors.append(judge.errors(np.asarray(windows.traj_feat))[stay])
        confidence.append(np.asarray(windows.traj_conf)[-1].reshape(stay.shape)[stay])
        hidden.append(~judge.seen[stay])
    values, distance = np.concatenate(confidence), np.concatenate(errors)
    wrong = (distance > 2) | np.concatenate(hidden)
    upper = np.argsort(-values.astype(int), kind="stable")[: len(values) // 2]
    print(f"{source}: AUROC {auroc(values, wrong):.3f}, {100 * wrong.mean():.0f} % wrong")
    assert auroc(values, wrong) >= 0.9
    assert distance[upper].mean() <= 0.5 * distance.mean()


@pytest.mark.parametrize("source", SOURCES)
def test_a_cut_ends_the_confidence_from_there_on(scenes: list[Scene], source: str) -> None:
    (scene,) = [scene for scene in scenes if scene.name == "cut"]
    assert scene.cut == 4
    confidence = np.asarray(judged(scene, source).traj_conf)
    for start in range(confidence.shape[1]):
        # P_{k + 1} is in frame start + k + 1.
        before = confidence[: max(scene.cut - start - 1, 0), start]
        after = confidence[max(scene.cut - start - 1, 0) :, start]
        if start < scene.cut:
            assert (after >= RELIABLE).mean() < 0.1
            assert before.size == 0 or (before >= RELIABLE).mean() > 0.9


@pytest.mark.parametrize("source", SOURCES)
def test_a_hidden_point_loses_its_confidence_from_there_on(scenes: list[Scene], source: str) -> None:
    (scene,) = [scene for scene in scenes if scene.name == "occlusion"]
    truth, windows = true_tracks(scene, LENGTH), judged(scene, source)
    reliable = np.asarray(windows.traj_conf).reshape(LENGTH, -1).T >= RELIABLE
    compared = (np.asarray(windows.traj_type).reshape(-1) == 1) & truth.visible[:, 0]
    seen = np.logical_and.accumulate(truth.visible[:, 1:], axis=1)
    hidden = ~seen & compared[:, None]
    assert hidden.sum() > 100 and reliable[hidden].mean() < 0.15
    assert reliable[seen & compared[:, None]].mean() > 0.7


def test_it_never_rises_on_the_way(scenes: list[Scene]) -> None:
    for scene in scenes:
        confidence = np.asarray(judged(scene, "photometric").traj_conf).astype(int)
        assert (np.diff(confidence, axis=0) <= 0).all()


def test_a_round_trip_is_that_of_a_plain_loop() -> None:
    random = np.random.default_rng(1)
    forward, backward = random.normal(0, 3, (2, 2, 2, 11, 13)).astype(np.float32)
    levels = round_trip(forward, backward)
    for t, y, x in np.ndindex(2, 11, 13):
        dx, dy = forward[t, :, y, x]
        column, row = (
            min(max(int(np.floor(x + dx + 0.5)), 0), 12),
            min(max(int(np.floor(y + dy + 0.5)), 0), 10),
        )
        distance = np.hypot(dx + backward[t, 0, row, column], dy + backward[t, 1, row, column])
        assert abs(levels[t, y, x] - min(distance * LEVELS_PER_PIXEL, 255)) <= 0.5 + 1e-3


@pytest.mark.parametrize("source", SOURCES)
def test_torch_and_pieces_give_the_same(scenes: list[Scene], source: str) -> None:
    scene = scenes[2]
    forward, backward = both_ways(scene)
    cameras = scene.homographies.astype(np.float32)
    trips = round_trip(forward, backward) if source == "forward-backward" else None
    evidence = Evidence(scene.frames, 1, cameras, trips)
    whole = follow(forward, length=3, evidence=evidence, fine=True)
    tensors = follow(
        torch.from_numpy(forward),
        length=3,
        evidence=Evidence(
            torch.from_numpy(scene.frames.copy()),
            1,
            torch.from_numpy(cameras),
            None if trips is None else torch.from_numpy(trips),
        ),
        fine=True,
    )
    tracker = Tracker(length=3, job="trajs_dense", tracking="subpixel", fine=True)
    pieces = [tracker.push(forward[i : i + 2], None, evidence[i : i + 2]) for i in range(0, len(forward), 2)]
    for index, axis in ((0, 1), (1, 0), (2, 1), (3, 1)):
        in_pieces = np.concatenate([np.asarray(piece.arrays()[index]) for piece in pieces], axis)
        assert np.array_equal(whole.arrays()[index], in_pieces)
        difference = np.abs(whole.arrays()[index].astype(int) - tensors.arrays()[index].numpy().astype(int))
        # Patch sums differ in their last digits, and a position halfway between pixels may round to either side.
        assert (difference > 1).mean() < 0.01


def test_confidence_follows_the_camera_where_the_flow_is_compensated() -> None:
    """Only the camera moves: compensated flow is zero, and correct, while the pixels move."""
    scene = make_scene("translation", frames=8, height=96, width=128)
    still = np.zeros_like(scene.flow)
    cameras = scene.homographies.astype(np.float32)
    inside = Judge(scene).seen.reshape(2, 12, 16)
    for pixels in (None, cameras):
        windows = follow(
            still, length=LENGTH, homographies=pixels, evidence=Evidence(scene.frames, 1, cameras)
        )
        assert np.median(np.asarray(windows.traj_conf)[-1][inside]) > 200
    blind = follow(still, length=LENGTH, evidence=Evidence(scene.frames))
    assert np.median(np.asarray(blind.traj_conf)[-1][inside]) < RELIABLE


def test_the_first_two_arrays_do_not_depend_on_the_others(scenes: list[Scene]) -> None:
    flow, _ = both_ways(scenes[1])
    plain = follow(flow, length=LENGTH)
    more = follow(flow, length=LENGTH, evidence=Evidence(scenes[1].frames), fine=True)
    assert np.array_equal(plain.traj_feat, more.traj_feat) and np.array_equal(plain.traj_type, more.traj_type)
    assert plain.traj_conf is None and plain.traj_fine is None


def test_fine_displacements_are_nearer_the_truth() -> None:
    scene = make_scene("rotation", frames=8, height=96, width=128)
    judge, windows = Judge(scene), follow(scene.flow, length=LENGTH, fine=True)
    sums = np.asarray(windows.traj_fine).reshape(2, LENGTH, 2, -1).sum(axis=1) / FINE
    ends = judge.grid + sums.transpose(1, 2, 0)
    apart = np.linalg.norm(ends - judge.tracks[:, -1], axis=-1)[judge.smooth]
    assert apart.max() < 0.1 < judge.errors(np.asarray(windows.traj_feat))[judge.smooth].mean()


@pytest.mark.parametrize("source", SOURCES)
def test_the_files_hold_it_from_one_pass_and_from_stored_flow(
    scenes: list[Scene], tmp_path: Path, source: Confidence
) -> None:
    video = Video(str(write_lossy_video(tmp_path / "clip.mkv", scenes[2].frames)), "clip.mkv")
    flow = FlowSettings(estimator="dis", codec="h264-lossless")
    settings = TrajectorySettings(confidence=source, fine=True)

    def made(folder: str, *works: Work) -> Trajectories:
        for work in works:
            with Extractor(work) as extractor:
                record = extractor(video)
                assert record.status == "done", record.reason
        return load_trajectories(Outputs(tmp_path / folder).trajectories(video.name, LENGTH))

    outputs = {name: Outputs(tmp_path / name) for name in ("one", "two", "plain")}
    one = made("one", Work(outputs=outputs["one"], flow=flow, trajectories=settings))
    plain = made("plain", Work(outputs=outputs["plain"], flow=flow, trajectories=TrajectorySettings()))
    assert one.traj_conf is not None and one.traj_fine is not None
    assert one.traj_conf.shape == (LENGTH, *one.traj_type.shape) and one.traj_fine.dtype == np.int16
    assert one.traj_feat.tobytes() == plain.traj_feat.tobytes()
    assert one.traj_type.tobytes() == plain.traj_type.tobytes()
    assert plain.traj_conf is None and "confidence" not in plain.made["settings"]
    if source == "photometric":
        from_files = Work(outputs=outputs["two"], trajectories=settings)
        two = made("two", Work(outputs=outputs["two"], flow=flow), from_files)
        assert np.array_equal(one.traj_conf, two.traj_conf)
        assert np.array_equal(one.traj_fine, two.traj_fine)
    else:
        with pytest.raises(UsageError, match="not stored"):
            Work(outputs=outputs["two"], trajectories=settings)


def test_verify_misses_an_array_that_the_settings_ask_for(scenes: list[Scene], tmp_path: Path) -> None:
    video = Video(str(write_lossy_video(tmp_path / "clip.mkv", scenes[2].frames)), "clip.mkv")
    outputs = Outputs(tmp_path / "out")
    settings = TrajectorySettings(confidence="photometric", fine=True)
    with Extractor(Work(outputs=outputs, flow=FlowSettings(), trajectories=settings)) as extractor:
        assert extractor(video).status == "done"
    path = outputs.trajectories(video.name, LENGTH)
    call = [
        "verify",
        video.source,
        "--root",
        str(tmp_path),
        "--parts",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    assert CliRunner().invoke(app, call).exit_code == 0
    content = pickle.loads(gzip.decompress(path.read_bytes()))
    for name in ("traj_conf", "traj_fine"):
        less = {key: value for key, value in content.items() if key != name}
        path.write_bytes(gzip.compress(pickle.dumps(less)))
        done = CliRunner().invoke(app, call)
        assert done.exit_code != 0 and f"has no {name}" in done.output


def test_what_cannot_have_it_is_refused() -> None:
    with pytest.raises(UsageError, match="mvs has none"):
        TrajectorySettings(job="mvs", confidence="photometric")
    with pytest.raises(UsageError, match="whole pixels"):
        TrajectorySettings(tracking="integer", fine=True)
    config = {"videos": "list", "trajectories": {"confidence": "forward-backward"}}
    with pytest.raises(UsageError, match="one pass"):
        Experiment.of(config)
    assert Experiment.of({**config, "granularity": "shard", "shard": {"one_pass": True}})
