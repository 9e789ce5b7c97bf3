"""Clips for training, against the trajectories of the cropped and flipped video."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from m3flow.data import FlowClips, TrajectoryClips
from m3flow.data.labelled_videos import classes_of, labels_of
from m3flow.data.sampling import Window, cut, read_clip
from m3flow.data.trajectory_clips import confidence_of, windows_of
from m3flow.errors import BadInput, UsageError
from m3flow.layout import Outputs
from m3flow.results.forms.mp4 import Mp4Writer
from m3flow.results.quantisation import quantise
from m3flow.results.stored_flow import load_flow
from m3flow.results.trajectoryfile import Trajectories, TrajectoryWriter
from m3flow.scoring.scenes import Scene, make_scene
from m3flow.trajectories.tracking import track
from m3flow.videos.videolist import Video, VideoList

HEIGHT, WIDTH, FRAMES, LENGTH = 100, 132, 30, 4


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene("object_turning_camera", frames=FRAMES, height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="module")
def exact(scene: Scene) -> Trajectories:
    features, types = track(scene.flow, length=LENGTH)
    return Trajectories(np.asarray(features), np.asarray(types), LENGTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scene: Scene, exact: Trajectories) -> Path:
    """A data set of three videos, one of them a folder of images, one without trajectories."""
    base = tmp_path_factory.mktemp("set")
    (base / "data/a").mkdir(parents=True)
    (base / "data/b/images").mkdir(parents=True)
    writer = cv2.VideoWriter(
        str(base / "data/a/clip.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 25, (WIDTH, HEIGHT)
    )
    for index, picture in enumerate(scene.frames):
        writer.write(cv2.merge([picture, picture, picture]))
        cv2.imwrite(str(base / f"data/b/images/{index:03d}.png"), picture)
    writer.release()
    (base / "list.txt").write_text("data/a/clip.avi 0\ndata/a/gone.avi 1\ndata/b/images 2\n")
    for name in ("data/a/clip.avi", "data/b/images"):
        write(base / f"out/trajs/{name}_{LENGTH}.gz", exact)
    return base


def write(path: Path, trajectories: Trajectories, **made: object) -> None:
    rows, columns = trajectories.traj_type.shape[1:]
    with TrajectoryWriter(path, length=trajectories.length, rows=rows, columns=columns) as writer:
        writer.write(trajectories.traj_feat, trajectories.traj_type)
        writer.close({"source": {"width": WIDTH, "height": HEIGHT}, **made})


def clips(folder: Path, **options: object) -> TrajectoryClips:
    defaults = {"root": folder, "length": LENGTH, "frames": 8, "stride": 2, "crop": (64, 96)}
    return TrajectoryClips(folder / "list.txt", folder / "out", **{**defaults, **options})  # type: ignore[arg-type]


def test_an_item_has_what_it_says(folder: Path, scene: Scene, exact: Trajectories) -> None:
    dataset = clips(folder, random=False)
    assert len(dataset) == 2 and dataset.missing == ["data/a/gone.avi"]
    for index, (name, label) in enumerate((("data/a/clip.avi", 0), ("data/b/images", 2))):
        item = dataset[index]
        assert (item["name"], item["label"]) == (name, label)
        assert item["frames"].shape == (8, 3, 64, 96) and item["frames"].dtype == torch.uint8
        assert item["trajectories"].shape == (4 * LENGTH, 8, 12, 2)
        assert item["trajectories"].dtype == torch.int8
        assert item["types"].shape == (4, 8, 12) and item["types"].dtype == torch.uint8
        # The middle: 26 windows, the clip's four are 4 apart; margins of 36 px and 36 px around the crop.
        start, left, top = 6, 16, 16
        shown = scene.frames[start : start + 16 : 2, top : top + 64, left : left + 96]
        np.testing.assert_array_equal(item["frames"][:, 0].numpy(), shown)
        for window in range(4):
            for step in range(LENGTH):
                for axis in (0, 1):
                    expected = exact.traj_feat[axis * LENGTH + step, start + 4 * window, 2:10, 2:14]
                    np.testing.assert_array_equal(
                        item["trajectories"][window * LENGTH + step, :, :, axis].numpy(), expected
                    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("left", "top"), [(8, 24), (24, 0)])
def test_with_exact_flow_an_item_is_the_trajectories_of_the_cut_video(
    flip: bool, left: int, top: int, scene: Scene, exact: Trajectories
) -> None:
    window = Window(0, left, top, 96, 64, flip)
    displacements, types = windows_of(exact, list(range(20)), window)
    flow = cut_flow(scene.flow, window)
    expected, inside = track(flow, length=LENGTH)
    stored = np.asarray(expected)[:, :20].reshape(2, LENGTH, 20, 8, 12).transpose(2, 1, 3, 4, 0)
    # A step of exactly half a pixel rounds to the right, which a flip makes the left; and a point that has
    # left the crop continues from its edge in the cropped video.
    stays = np.asarray(inside)[:20].astype(bool)
    difference = np.abs(displacements.reshape(20, LENGTH, 8, 12, 2) - stored)
    same = (difference == 0).all(axis=(1, 4))
    assert stays.mean() > 0.8
    assert same[stays].mean() > 0.995
    # The item knows whole-pixel positions; a point within half a pixel of the crop's edge can differ.
    assert (types == stays).mean() > 0.97


def cut_flow(flow: np.ndarray, window: Window) -> np.ndarray:
    """The flow of the cropped video, by plain slicing and mirroring."""
    left = window.left + window.flip
    part = flow[:, :, window.top : window.top + window.height, left : left + window.width]
    if not window.flip:
        return np.ascontiguousarray(part)
    mirrored = part[..., ::-1].copy()
    mirrored[:, 0] *= -1
    return mirrored


def test_with_an_estimator_an_item_is_the_trajectories_of_the_cut_video(scene: Scene) -> None:
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def estimated(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flow = np.stack(
            [
                estimator.calc(np.ascontiguousarray(a), np.ascontiguousarray(b), None).transpose(2, 0, 1)
                for a, b in itertools.pairwise(frames)
            ]
        )
        features, types = track(flow, length=LENGTH)
        return np.asarray(features), np.asarray(types)

    whole = Trajectories(*estimated(scene.frames), LENGTH)
    window = Window(0, 16, 16, 96, 64, flip=True)
    displacements, types = windows_of(whole, list(range(26)), window)
    pictures = cut_all(np.repeat(scene.frames[..., None], 3, axis=3), window)
    features, inside = estimated(pictures[:, 0])
    ends = displacements.reshape(26, LENGTH, 8, 12, 2).sum(axis=1)
    expected = features.reshape(2, LENGTH, 26, 8, 12).sum(axis=1).transpose(1, 2, 3, 0)
    apart = np.linalg.norm(ends - expected, axis=-1)[(types * inside).astype(bool)]
    # The estimator sees other borders in the cropped video; away from them the result is the same.
    assert np.median(apart) == 0 and apart.mean() < 0.5
    wrong_sign = ends * [-1, 1]
    assert np.linalg.norm(wrong_sign - expected, axis=-1).mean() > 3 * apart.mean()


def cut_all(pictures: np.ndarray, window: Window) -> np.ndarray:
    clip = np.empty((len(pictures), 3, window.height, window.width), np.uint8)
    for picture, planes in zip(pictures, clip, strict=True):
        cut(picture, window, planes)
    return clip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_window_has_the_pixels_that_indexing_gives(turns: int, flip: bool) -> None:
    # A picture as the decoder leaves it: padded rows, turned upright.
    padded = np.random.default_rng(0).integers(0, 256, (40, 3 * 48 + 7), np.uint8)
    picture = np.rot90(padded[:, : 3 * 48].reshape(40, 48, 3), turns)
    (found,) = cut_all(picture[None], Window(0, 8, 16, 24, 16, flip=flip))
    expected = picture[16:32, 9:33][:, ::-1] if flip else picture[16:32, 8:32]
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_a_flip_of_the_whole_width_lands_on_the_grid() -> None:
    pictures = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None], (1, 8, 16, 3))
    flipped = cut_all(pictures, Window(0, 0, 0, 16, 8, flip=True))
    # Points at 4 and 12 of the video come to lie at 12 and 4.
    assert flipped[0, 0, 0].tolist() == [15, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_random_items_are_whole_and_can_be_repeated(folder: Path) -> None:
    dataset = clips(folder)
    torch.manual_seed(3)
    first = [dataset[0] for _ in range(6)]
    torch.manual_seed(3)
    again = [dataset[0] for _ in range(6)]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(first, again, strict=True))
    assert len({item["frames"].numpy().tobytes() for item in first}) > 3


def test_frames_and_trajectories_fit_each_other(folder: Path) -> None:
    """Follow the trajectories of random items: the picture must move along them."""
    dataset = clips(folder, stride=1, frames=8)
    torch.manual_seed(0)
    followed, unmoved, mirrored = [], [], []
    for _ in range(12):
        item = dataset[0]
        frames = item["frames"][:, 0].numpy().astype(float)
        steps = item["trajectories"].numpy().reshape(4, LENGTH, 8, 12, 2)
        grid = np.stack(np.meshgrid(4 + 8 * np.arange(12), 4 + 8 * np.arange(8)), axis=-1)
        for window in range(2):
            start = frames[2 * window][grid[..., 1], grid[..., 0]]
            end = frames[2 * window + LENGTH]
            moved = steps[window].sum(axis=0)
            for errors, sign in ((followed, [1, 1]), (mirrored, [-1, 1]), (unmoved, [0, 0])):
                x, y = np.moveaxis(grid + moved * sign, -1, 0)
                valid = (x >= 0) & (x < 96) & (y >= 0) & (y < 64) & item["types"][window].numpy().astype(bool)
                errors.append(np.abs(end[y.clip(0, 63), x.clip(0, 95)] - start)[valid].mean())
    assert np.mean(followed) < 0.5 * np.mean(unmoved)
    assert np.mean(followed) < 0.5 * np.mean(mirrored)


def test_a_loader_with_workers(folder: Path) -> None:
    loader = DataLoader(clips(folder), batch_size=2, num_workers=2)
    (batch,) = list(loader)
    assert batch["frames"].shape == (2, 8, 3, 64, 96)
    assert batch["trajectories"].shape == (2, 4 * LENGTH, 8, 12, 2)
    assert batch["types"].shape == (2, 4, 8, 12)
    assert batch["label"].tolist() == [0, 2]


def test_short_videos_repeat_their_end(folder: Path, scene: Scene) -> None:
    dataset = clips(folder, frames=24, stride=2, random=False)
    item = dataset[0]
    assert item["frames"].shape[0] == 24
    np.testing.assert_array_equal(item["frames"][-1], item["frames"][14])
    np.testing.assert_array_equal(item["frames"][14, 0].numpy(), scene.frames[28, 16:80, 16:112])
    last = item["trajectories"].reshape(12, LENGTH, 8, 12, 2)
    np.testing.assert_array_equal(last[-1], last[7])
    source, window = str(folder / "data/a/clip.avi"), Window(0, 0, 0, 64, 48, flip=False)
    assert read_clip(source, [29, 31], (50, 66), window).shape == (2, 3, 48, 64)
    with pytest.raises(BadInput, match="frame 40 cannot be decoded"):
        read_clip(source, [40], (50, 66), window)


def test_files_without_the_frame_size(folder: Path, exact: Trajectories, tmp_path: Path) -> None:
    def rewritten(trajectories: Trajectories, **made: object) -> TrajectoryClips:
        path = tmp_path / f"out/trajs/data/a/clip.avi_{trajectories.length}.gz"
        write(path, trajectories, **made)
        length = trajectories.length
        return TrajectoryClips(
            folder / "list.txt",
            tmp_path / "out",
            root=folder,
            length=length,
            crop=None,
            random=False,
            frames=2,
        )

    item = rewritten(exact, source={})[0]
    assert item["frames"].shape == (2, 3, 96, 128) and item["types"].shape == (1, 12, 16)
    small = Trajectories(exact.traj_feat[..., :5], exact.traj_type[..., :5], LENGTH)
    with pytest.raises(BadInput, match="do not fit trajectories on a grid of 5x12"):
        rewritten(small, source={})[0]
    with pytest.raises(UsageError, match="use trajs_dense"):
        rewritten(exact, settings={"job": "trajs"})[0]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("data/kinetics400/train_video/abseiling/x.mp4", 4),
        ("data/UCF101/UCF-101/ApplyEyeMakeup/x.avi", 4),
        ("data/smth-smth-v2/20bn-something-something-v2/8192.mp4", 3),
    ],
)
def test_mme_finds_the_files_where_the_page_on_training_says(path: str, parts: int, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"{path} 0\n")
    (video,) = VideoList(tmp_path / "list.csv", parts=parts).read()
    # The path as built by its loader: everything after the first part, and the length.
    looked_for = Path("data/trajs") / ("/".join(Path(path).parts[1:]) + "_4.gz")
    assert Outputs(Path("data")).trajectories(video.name, 4) == looked_for


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "odd frames": ({"frames": 7}, "even"),
    "stride": ({"stride": 0}, "1 or more"),
    "crop": ({"crop": (60, 64)}, "multiples of 8"),
    "flip": ({"flip": 2.0}, "probability"),
    "length": ({"length": 7}, "none of the 3 videos.*clip.avi_7.gz"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused_at_once(case: str, folder: Path) -> None:
    options, message = WRONG[case]
    with pytest.raises(UsageError, match=message):
        clips(folder, **options)


def test_a_crop_larger_than_the_frame_is_named(folder: Path) -> None:
    dataset = clips(folder, crop=(104, 96))
    with pytest.raises(UsageError, match=r"larger than the frames of data/a/clip\.avi"):
        dataset[0]


def test_a_video_without_a_window_is_missing(folder: Path, exact: Trajectories, tmp_path: Path) -> None:
    none = Trajectories(exact.traj_feat[:, :0], exact.traj_type[:0], LENGTH)
    write(tmp_path / f"trajs/data/a/clip.avi_{LENGTH}.gz", none, settings={"job": "trajs_dense"})
    write(tmp_path / f"trajs/data/b/images_{LENGTH}.gz", exact)
    dataset = TrajectoryClips(folder / "list.txt", tmp_path, root=folder, length=LENGTH)
    assert dataset.missing == ["data/a/clip.avi", "data/a/gone.avi"]
    assert [video.name for video in dataset.videos] == ["data/b/images"]


def test_a_wrong_root_is_reported_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no such file: '.*data/a/clip\.avi', nor the next 1 videos.*root is"
    ):
        clips(folder, root=tmp_path)


def test_a_transform_gets_every_item(folder: Path) -> None:
    def halved(item: dict) -> dict:
        return {**item, "frames": item["frames"].float() / 255}

    assert clips(folder, transform=halved)[0]["frames"].dtype == torch.float32


LABELS = {
    "integers": (["0", "2", "", "10"], [str(n) for n in range(11)], [0, 2, -1, 10]),
    "names": (["run", "jump", "", "run"], ["jump", "run"], [1, 0, -1, 1]),
    "mixed": (["7", "run", "7", "08"], ["08", "7", "run"], [1, 2, 1, 0]),
    "none": (["", "", "", ""], [], [-1, -1, -1, -1]),
    "identifiers": (["90000001", "5", "5", ""], ["5", "90000001"], [1, 0, 0, -1]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_become_integers(case: str) -> None:
    texts, classes, numbers = LABELS[case]
    videos = [Video(f"{i}.avi", f"{i}.avi", text) for i, text in enumerate(texts)]
    assert classes_of(videos) == classes
    assert labels_of(videos, classes) == numbers


def test_a_validation_set_takes_the_classes_of_the_training_set(folder: Path) -> None:
    classes = ["2", "0", "1"]
    assert clips(folder, classes=classes).labels == [1, 0]
    with pytest.raises(UsageError, match=r"1 labels .* not among the 2 classes, such as '2'"):
        clips(folder, classes=["0", "1"])


@pytest.fixture(scope="module", params=["mpeg4", "h264-lossless"])
def flow_folder(request: pytest.FixtureRequest, folder: Path, scene: Scene) -> Path:
    """An output folder with the scene's flow of two of the three videos, bound 8."""
    output = folder / request.param
    for name in ("data/a/clip.avi", "data/b/images"):
        path = output / "flows" / name
        with Mp4Writer(path, codec=request.param, rate=Fraction(25), width=WIDTH, height=HEIGHT) as writer:
            writer.write(quantise(scene.flow, 8))
            writer.close({"settings": {"bound": 8.0}, "source": {"width": WIDTH, "height": HEIGHT}})
    return output


def test_a_part_of_a_flow_file_is_the_same_part_of_the_whole(flow_folder: Path) -> None:
    path = flow_folder / "flows/data/a/clip.avi"
    whole = load_flow(path)
    assert len(whole) == FRAMES - 1
    for start, stop in ((0, 1), (0, 5), (11, 14), (12, 13), (13, 29), (28, None), (7, 100)):
        np.testing.assert_array_equal(load_flow(path, start, stop), whole[start:stop])
    for start, stop in ((29, None), (-1, None), (5, 5), (40, 50)):
        with pytest.raises(UsageError, match="no frame"):
            load_flow(path, start, stop)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_flow_item_is_the_stored_flow_and_its_frames(
    stride: int, folder: Path, flow_folder: Path, scene: Scene
) -> None:
    options = {"root": folder, "frames": 5, "stride": stride, "crop": (60, 90)}
    dataset = FlowClips(folder / "list.txt", flow_folder, random=False, **options)
    assert dataset.missing == ["data/a/gone.avi"] and dataset.labels == [0, 2]
    item = dataset[0]
    # The middle of 29 flow fields, of 100 rows and of 132 columns.
    start = (29 - 4 * stride - 1) // 2
    chosen = slice(start, start + 4 * stride + 1, stride)
    stored = load_flow(flow_folder / "flows/data/a/clip.avi")
    np.testing.assert_array_equal(item["flow"], stored[chosen, :, 20:80, 21:111])
    np.testing.assert_array_equal(item["frames"][:, 0], scene.frames[chosen, 20:80, 21:111])
    mirrored = FlowClips(folder / "list.txt", flow_folder, flip=1.0, **{**options, "crop": None})[0]
    begin = next(s for s in range(29) if np.array_equal(mirrored["frames"][0, 0], scene.frames[s][:, ::-1]))
    expected = stored[begin : begin + 4 * stride + 1 : stride, :, :, ::-1] * np.array([-1, 1])[:, None, None]
    np.testing.assert_array_equal(mirrored["flow"], expected)


def test_flow_items_need_no_videos_without_pictures(folder: Path, flow_folder: Path, tmp_path: Path) -> None:
    dataset = FlowClips(
        folder / "list.txt", flow_folder, root=tmp_path, crop=(64, 64), frames=40, pictures=False
    )
    (batch,) = list(DataLoader(dataset, batch_size=2, num_workers=2))
    assert set(batch) == {"flow", "label", "name"} and batch["flow"].shape == (2, 40, 2, 64, 64)
    # Beyond the end the last field is repeated.
    assert torch.equal(batch["flow"][:, 28], batch["flow"][:, 39])
    with pytest.raises(UsageError, match="no such file"):
        FlowClips(folder / "list.txt", flow_folder, root=tmp_path)
    with pytest.raises(UsageError, match=r"none of the 3 videos .* has flow in"):
        FlowClips(folder / "list.txt", tmp_path, root=folder)


def test_confidence_is_cut_and_flipped_like_the_trajectories(
    folder: Path, exact: Trajectories, tmp_path: Path
) -> None:
    confidence = np.random.default_rng(0).integers(0, 256, exact.traj_feat[:LENGTH].shape).astype(np.uint8)
    _, windows, rows, columns = confidence.shape
    path = tmp_path / f"out/trajs/data/a/clip.avi_{LENGTH}.gz"
    with TrajectoryWriter(path, length=LENGTH, rows=rows, columns=columns, confidence=True) as writer:
        writer.write(exact.traj_feat, exact.traj_type, confidence)
        writer.close({"settings": {}, "source": {"width": WIDTH, "height": HEIGHT}})
    (item,) = TrajectoryClips(
        folder / "list.txt", tmp_path / "out", root=folder, parts=3, length=LENGTH, frames=8, stride=2,
        crop=(64, 96), random=False,
    )  # fmt: skip
    assert (
        item["confidence"].dtype == torch.uint8 and item["confidence"].shape == item["trajectories"].shape[:3]
    )
    start = 6  # as in `test_an_item_has_what_it_says`
    for window in range(4):
        for step in range(LENGTH):
            expected = confidence[step, start + 4 * window, 2:10, 2:14]
            np.testing.assert_array_equal(item["confidence"][window * LENGTH + step].numpy(), expected)
    flipped = confidence_of(
        Trajectories(exact.traj_feat, exact.traj_type, LENGTH, traj_conf=confidence),
        [3],
        Window(3, 16, 16, 96, 64, flip=True),
    )
    np.testing.assert_array_equal(flipped, confidence[:, 3, 2:10, 13:1:-1])
    assert "confidence" not in clips(folder, random=False)[0]
    assert windows == 26
