"""Pictures of a clip: colours, data sources, and the command."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from m3flow.camera.compensation import MotionEstimator
from m3flow.cli import app
from m3flow.errors import BadInput, UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.flow import estimator
from m3flow.layout import Outputs
from m3flow.report import colour_wheel, drawing
from m3flow.report.canvas import Canvas
from m3flow.report.clip import ComputedClip, Moment, StoredClip, TrajectoriesAlone
from m3flow.report.contact_sheet import contact_sheet, description, encoded
from m3flow.report.film import write_film
from m3flow.results.stored_flow import load_flow
from m3flow.results.trajectoryfile import TrajectoryWriter, load_trajectories
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video
from support.clips import clip, write_video

FLOW = FlowSettings(estimator="dis", codec="h264-lossless")
NAME = "set/class/clip.mkv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Video, Outputs]:
    """A video with stored flow and trajectories."""
    folder = tmp_path_factory.mktemp("show")
    video = Video(str(clip(folder / "clip.mkv", frames=12, height=64, width=96)), NAME)
    outputs = Outputs(folder / "out")
    with Extractor(Work(outputs=outputs, flow=FLOW, trajectories=TrajectorySettings())) as extract:
        assert extract(video).status == "done"
    return video, outputs


def wheel_by_the_paper(u: float, v: float) -> tuple[int, int, int]:
    """The colour of one vector, computed step by step as in the paper's program."""
    colours = []
    steps = {"RY": 15, "YG": 6, "GC": 4, "CB": 11, "BM": 13, "MR": 6}
    colours += [(255, 255 * i // steps["RY"], 0) for i in range(steps["RY"])]
    colours += [(255 - 255 * i // steps["YG"], 255, 0) for i in range(steps["YG"])]
    colours += [(0, 255, 255 * i // steps["GC"]) for i in range(steps["GC"])]
    colours += [(0, 255 - 255 * i // steps["CB"], 255) for i in range(steps["CB"])]
    colours += [(255 * i // steps["BM"], 0, 255) for i in range(steps["BM"])]
    colours += [(255, 0, 255 - 255 * i // steps["MR"]) for i in range(steps["MR"])]
    radius = math.sqrt(u * u + v * v)
    angle = math.atan2(-v, -u) / math.pi
    place = (angle + 1) / 2 * (len(colours) - 1)
    first = int(place)
    second = (first + 1) % len(colours)
    rest = place - first
    result = []
    for channel in range(3):
        colour = (1 - rest) * colours[first][channel] / 255 + rest * colours[second][channel] / 255
        colour = 1 - radius * (1 - colour) if radius <= 1 else colour * 0.75
        result.append(int(255 * colour))
    return result[0], result[1], result[2]


def test_the_wheel_is_the_papers() -> None:
    vectors = np.random.default_rng(0).normal(0, 0.8, (2, 500))
    ours = colour_wheel.colours(vectors * 7, largest=7)
    theirs = [wheel_by_the_paper(u, v) for u, v in vectors.T]
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(
    ("direction", "red", "green", "blue"),
    [((1, 0), True, False, False), ((0, 1), True, True, False), ((-1, 0), False, True, True)],
    ids=["right is red", "down is yellow", "left is cyan"],
)
def test_directions_have_the_usual_colours(
    direction: tuple[int, int], red: bool, green: bool, blue: bool
) -> None:
    colour = colour_wheel.colours(np.array(direction, np.float32), 1)
    assert (colour > 128).tolist() == [red, green, blue]


def test_no_motion_is_white_and_the_legend_is_the_wheel() -> None:
    assert (colour_wheel.colours(np.zeros((2, 3, 4)), 5) == 255).all()
    legend = colour_wheel.legend(64)
    assert legend.shape == (64, 64, 4)
    assert legend[0, 0, 3] == 0 and legend[32, 32, 3] == 255
    assert np.abs(legend[32, 61, :3].astype(int) - colour_wheel.colours(np.array([0.92, 0.02]), 1)).max() < 12


def test_the_scale_is_a_round_number_above_nearly_all_motion() -> None:
    lengths = np.concatenate([np.full(1000, 3.2), [50.0]])
    assert colour_wheel.scale_for(lengths) == 4
    assert colour_wheel.scale_for(np.zeros(10)) == 0.5


def test_a_stored_clip_shows_what_the_files_hold(made: tuple[Video, Outputs]) -> None:
    video, outputs = made
    stored = StoredClip(video, outputs, 6)
    flow = load_flow(outputs.flow(NAME))
    trajectories = load_trajectories(outputs.trajectories(NAME, 6))
    starts = stored.spread(3)
    moments = list(stored.moments(starts))
    assert [moment.number for moment in moments] == starts == [1, 3, 5]
    for moment in moments:
        assert moment.frame is not None and moment.flow is not None
        np.testing.assert_array_equal(moment.flow, flow[moment.number])
        np.testing.assert_array_equal(moment.points, trajectories.positions()[:, moment.number])
        np.testing.assert_array_equal(moment.inside, trajectories.traj_type[moment.number])


def test_trajectories_that_are_not_stored_are_followed_through_the_stored_flow(
    made: tuple[Video, Outputs],
) -> None:
    video, outputs = made
    short = next(StoredClip(video, outputs, 4).moments([2]))
    long = next(StoredClip(video, outputs, 6).moments([2]))
    np.testing.assert_array_equal(short.points, long.points[:5])


def test_trajectories_that_follow_the_pixels_are_said_to(made: tuple[Video, Outputs], tmp_path: Path) -> None:
    video, outputs = made[0], Outputs(tmp_path)
    pixels = TrajectorySettings(track="pixels")
    with Extractor(Work(outputs=outputs, flow=FLOW, trajectories=pixels)) as extract:
        assert extract(video).status == "done"
    assert StoredClip(video, outputs, 6).with_camera
    assert not StoredClip(*made, 6).with_camera


def test_a_clip_without_its_video_shows_its_motion(made: tuple[Video, Outputs]) -> None:
    moments = list(StoredClip(Video("", NAME), made[1], 6).moments([0, 4]))
    assert [moment.frame for moment in moments] == [None, None]
    assert contact_sheet(StoredClip(Video("", NAME), made[1], 6), 2).ndim == 3


def test_computed_and_stored_motion_are_the_same(made: tuple[Video, Outputs]) -> None:
    video, outputs = made
    motion = MotionEstimator(estimator("dis", backend="opencv"), camera="warp")
    computed = ComputedClip(video, motion, FLOW, 6)
    stored = StoredClip(video, outputs, 6)
    assert list(computed.starts) == list(stored.starts)
    for one, other in zip(computed.moments([1, 4]), stored.moments([1, 4]), strict=True):
        np.testing.assert_array_equal(one.flow, other.flow)
        np.testing.assert_array_equal(one.points, other.points)
        assert one.accepted == other.accepted


def test_a_clip_shorter_than_a_trajectory_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    video = Video(str(clip(tmp_path / "short.mkv", frames=4)), "short.mkv")
    computed = ComputedClip(video, MotionEstimator(estimator("dis", backend="opencv")), FLOW, 6)
    (moment,) = computed.moments(computed.spread(4))
    assert len(moment.points) == 4  # three flow frames
    with pytest.raises(BadInput, match="only 1 frame"):
        one = Video(str(clip(tmp_path / "one.mkv", frames=1)), "one.mkv")
        ComputedClip(one, MotionEstimator(estimator("dis", backend="opencv")), FLOW, 6)


def test_trajectories_from_the_codec_are_shown_without_flow(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    features = np.ones((4, 5, 3, 4), np.int8)
    with TrajectoryWriter(outputs.trajectories("a.avi", 2), length=2, rows=3, columns=4) as writer:
        writer.write(features, np.ones((5, 3, 4), np.uint8))
        writer.close({"settings": {"job": "mvs"}})
    moment = next(TrajectoriesAlone(Video("", "a.avi"), outputs, 2).moments([3]))
    assert moment.flow is None
    np.testing.assert_array_equal(moment.points[2, 1, 2], [4 + 2 * 8 + 2, 4 + 8 + 2])
    assert contact_sheet(TrajectoriesAlone(Video("", "a.avi"), outputs, 2), 2).ndim == 3


def test_trajectories_end_to_end_are_shown_where_they_start(tmp_path: Path) -> None:
    video, outputs = Video(str(clip(tmp_path / "a.mkv", frames=12)), "a.mkv"), Outputs(tmp_path)
    ends = TrajectorySettings(length=3, job="trajs")
    work = Work(outputs=outputs, flow=FLOW, trajectories=ends, keep_flow=False)
    with Extractor(work) as extract:
        assert extract(video).status == "done"
    alone = TrajectoriesAlone(video, outputs, 3)
    assert list(alone.starts) == [0, 3, 6]
    moment = next(alone.moments([6]))
    np.testing.assert_array_equal(
        moment.points, load_trajectories(outputs.trajectories("a.mkv", 3)).positions()[:, 2]
    )
    assert "dis" in description(alone, moment)


def test_a_trajectory_is_drawn_where_it_runs() -> None:
    points = np.array([[10, 20], [20, 20], [30, 20]], np.float32).reshape(3, 1, 1, 2)
    black = np.zeros((40, 60, 3), np.uint8)
    moment = Moment(0, black, None, None, False, points, np.ones((1, 1), bool))
    picture = drawing.trajectories(moment, 20, 80, 120).astype(int)
    red = (picture[..., 0] > 150) & (picture[..., 1] < 60)
    rows, columns = np.nonzero(red)
    # Twice as large: y from 20 to 41, x from 21 to 61, moved by the half pixel of the larger grid.
    assert abs(rows.mean() - 40.5) < 1
    assert abs(columns.min() - 20.5) <= 3 and abs(columns.max() - 60.5) <= 2


@pytest.mark.parametrize("name", ["a $x^2$ b", "日本語.mp4", "bad\udcff\n\x1b[31m.mp4", "long/" * 80])
@pytest.mark.slow
def test_any_name_can_be_written(name: str) -> None:
    canvas = Canvas(60, 400)
    canvas.text(10, 10, canvas.shortened(name, 12), 12)
    picture = canvas.picture()
    assert picture.shape == (60, 400, 3) and picture.min() < 100
    assert (picture[:, 390:] == 255).all(), "the text runs over the edge"


def test_encoded_pictures_come_back() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    read = cv2.imdecode(np.frombuffer(encoded(picture), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read[..., ::-1], picture)


def test_a_film_has_a_frame_for_every_start(made: tuple[Video, Outputs], tmp_path: Path) -> None:
    video, outputs = made
    stored = StoredClip(video, outputs, 6)
    assert stored.rate == Fraction(25)
    count = write_film(tmp_path / "film.mp4", stored, start=0.04, seconds=0.12)
    assert count == 3
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == count
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    with pytest.raises(UsageError, match="begins at"):
        write_film(tmp_path / "none.mp4", stored, start=9)
    assert not (tmp_path / "none.mp4").exists()


def test_a_clip_without_trajectories_makes_no_film(made: tuple[Video, Outputs], tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "out")
    with TrajectoryWriter(outputs.trajectories(NAME, 6), length=6, rows=8, columns=12) as writer:
        writer.close({})
    with pytest.raises(UsageError, match=r"clip\.mkv: no trajectory starts in it"):
        write_film(tmp_path / "film.mp4", TrajectoriesAlone(made[0], outputs, 6))
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.slow
def test_the_command_shows_stored_and_computed_motion(
    made: tuple[Video, Outputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, outputs = made
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    result = run.invoke(app, ["show", video.source, "--estimator", "dis", "--columns", "2"])
    assert result.exit_code == 0 and "computed for it" in result.output
    assert cv2.imread(str(tmp_path / "clip.png")) is not None
    result = run.invoke(app, ["show", NAME, "--output", str(outputs.folder), "--to", "stored.png"])
    assert result.exit_code == 0 and "stored in" in result.output
    # A name under flows/ needs no video; its sheet has no row of frames.
    assert cv2.imread(str(tmp_path / "stored.png")) is not None


def test_the_command_refuses_a_list(tmp_path: Path) -> None:
    for name in ("a.avi", "b.avi"):
        write_video(tmp_path / name, np.zeros((2, 16, 16), np.uint8), codec="mpeg4", pix_fmt="yuv420p")
    (tmp_path / "list.csv").write_text("a.avi 0\nb.avi 1\n")
    result = CliRunner().invoke(app, ["show", str(tmp_path / "list.csv"), "--root", str(tmp_path)])
    assert isinstance(result.exception, UsageError) and "list of 2 videos" in str(result.exception)


def test_an_unreliable_trajectory_is_faint() -> None:
    points = np.array([[[10, 20], [10, 40]], [[20, 20], [20, 40]]], np.float32).reshape(2, 2, 1, 2)
    black, inside = np.zeros((60, 60, 3), np.uint8), np.ones((2, 1), bool)
    known = Moment(0, black, None, None, False, points, inside, np.array([[True], [False]]))
    unknown = Moment(0, black, None, None, False, points, inside)
    one, other = (
        drawing.trajectories(moment, 10, 60, 60).astype(int).max(axis=-1) for moment in (known, unknown)
    )
    # Of two identical ones, at rows 20 and 40, the first is drawn at full brightness and the second is not.
    assert np.array_equal(one[:30], other[:30]) and other[40].max() > 150
    assert 0 < one[40].max() < 0.5 * other[40].max()
