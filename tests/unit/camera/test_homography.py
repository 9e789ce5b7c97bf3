"""The camera's homography and its use, against known motion and `cv2.findHomography`."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from m3flow.camera import (
    camera_flow,
    camera_motion,
    candidates_torch,
    compensation_opencv,
    compensation_torch,
    corners_torch,
    geometry,
    homography_torch,
    put_camera_back,
    remove_camera,
)
from m3flow.camera import candidates_opencv as opencv
from m3flow.camera.selection import Selection, Selector
from m3flow.scoring.camera_pairs import camera_pair, random_homography

HEIGHT, WIDTH = 240, 320
REACHES = [3.0, 8.0, 20.0]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loop_through(matrix, x, y):
    """One point mapped by a homography, written out."""
    a, b, c = (row[0] * x + row[1] * y + row[2] for row in np.asarray(matrix, np.float64))
    return a / c, b / c


def mean_error(found, true):
    """Mean distance in px between the frame's pixels mapped by two homographies."""
    return float(
        np.linalg.norm(camera_flow(found, HEIGHT, WIDTH) - camera_flow(true, HEIGHT, WIDTH), axis=0).mean()
    )


def scattered_matches(seed, reach, outliers=0.3, noise=0.1, count=400):
    """Matches [N, 2] twice under a known homography, some of them moving with an object instead."""
    random = np.random.default_rng(seed)
    true = random_homography(random, HEIGHT, WIDTH, reach)
    start = random.uniform((0, 0), (WIDTH - 1, HEIGHT - 1), (count, 2))
    end = geometry.transform(true, start) + random.normal(0, noise, (count, 2))
    moving = np.arange(count) < outliers * count
    end[moving] += random.uniform(2, 10) * np.array([0.8, 0.6]) + random.normal(0, 0.5, (moving.sum(), 2))
    return start.astype(np.float32), end.astype(np.float32), true


def selected(candidates, size=(HEIGHT, WIDTH)):
    """The camera of each pair, decided from that pair alone: homographies and whether they are accepted."""
    decisions = []
    for t in range(len(candidates)):
        selector = Selector(size, find_cuts=False)
        decisions += selector.push(candidates[t : t + 1]) + selector.finish()
    selection = Selection.of(decisions)
    return selection.homographies, selection.accepted


def on_opencv(frames):
    found, accepted = selected(opencv.find_candidates(frames, 1), frames.shape[1:])
    return found[0], bool(accepted[0])


def in_torch(pairs):
    """Pairs of frames as one batch: every other pair of neighbours in the sequence of all frames."""
    frames = torch.from_numpy(np.concatenate(pairs))
    found, accepted = selected(candidates_torch.find_candidates(frames, 1), frames.shape[1:])
    return found[::2], accepted[::2]


def stacked(pairs):
    """Frame pairs as a batch of previous and one of current frames."""
    return tuple(torch.from_numpy(np.stack(frames)) for frames in zip(*pairs, strict=True))


@pytest.mark.parametrize("reach", REACHES)
def test_residual_is_where_a_point_lands_in_the_view_before(reach):
    random = np.random.default_rng(1)
    h = random_homography(random, HEIGHT, WIDTH, reach)
    flow = random.normal(0, 5, (2, HEIGHT, WIDTH)).astype(np.float32)
    residual = remove_camera(flow, h)
    for x, y in [(0, 0), (319, 0), (17, 200), (160, 120), (319, 239)]:
        seen = loop_through(np.linalg.inv(h), x + flow[0, y, x], y + flow[1, y, x])
        np.testing.assert_allclose(residual[:, y, x], np.subtract(seen, (x, y)), atol=2e-5)
        camera = np.subtract(loop_through(h, x, y), (x, y))
        np.testing.assert_allclose(camera_flow(h, HEIGHT, WIDTH)[:, y, x], camera, atol=2e-5)


def test_put_camera_back_undoes_remove_camera():
    random = np.random.default_rng(2)
    matrices = np.stack([random_homography(random, HEIGHT, WIDTH, reach) for reach in REACHES])
    flow = random.normal(0, 5, (3, 2, HEIGHT, WIDTH)).astype(np.float32)
    stored = matrices.astype(np.float32)
    back = put_camera_back(remove_camera(flow, stored), stored)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, flow, atol=1e-4)


def test_identity_changes_nothing_to_the_bit():
    flow = np.random.default_rng(3).normal(0, 5, (2, 2, 9, 7)).astype(np.float32)
    np.testing.assert_array_equal(put_camera_back(flow, np.stack([np.eye(3)] * 2)), flow)
    np.testing.assert_array_equal(remove_camera(flow, np.stack([np.eye(3)] * 2)), flow)


def test_exact_flow_of_a_scene_becomes_the_objects_own_motion():
    scene = camera_pair(4, 8.0)
    residual = remove_camera(scene.flow[0], scene.homographies[0])
    np.testing.assert_allclose(residual, scene.residual[0], atol=1e-3)
    assert np.abs(residual[:, ~scene.mask[0]]).max() < 1e-3


def test_camera_motion_is_the_largest_in_the_frame():
    h = random_homography(np.random.default_rng(5), HEIGHT, WIDTH, 8.0)
    everywhere = np.linalg.norm(camera_flow(h, HEIGHT, WIDTH), axis=0)
    assert camera_motion(h, HEIGHT, WIDTH) == pytest.approx(everywhere.max(), abs=1e-4)
    assert camera_motion(np.stack([h, np.eye(3)]), HEIGHT, WIDTH).tolist() == [pytest.approx(8, abs=1e-3), 0]


@pytest.mark.parametrize(
    ("matrix", "plausible"),
    [
        (np.eye(3), True),
        (np.diag([-1.0, 1, 1]), False),  # mirrored
        (np.diag([1.0, 0, 1]), False),  # flat
        (np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]]), False),  # the horizon crosses the frame
        (np.full((3, 3), np.nan), False),
    ],
)
def test_a_homography_that_no_camera_makes_is_refused(matrix, plausible):
    assert geometry.is_plausible(matrix, HEIGHT, WIDTH) is plausible
    _, right_side_out = homography_torch.frame_motion(torch.from_numpy(matrix[None]).float(), HEIGHT, WIDTH)
    assert bool(right_side_out) is plausible


def test_both_backends_find_the_same_corners():
    frame = camera_pair(6, 3.0).frames[0]
    expected = opencv.corners(frame)
    points, valid = corners_torch.corners(torch.from_numpy(frame[None]))
    assert len(expected) > 100
    np.testing.assert_array_equal(points[valid].numpy(), expected)


def test_smaller_eigenvalue_is_opencvs_up_to_a_factor():
    frame = camera_pair(6, 3.0).frames[0]
    ours = corners_torch.smaller_eigenvalue(torch.from_numpy(frame[None]).float())[0].numpy()
    theirs = cv2.cornerMinEigenVal(frame, blockSize=3)
    np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=1e-5)


@pytest.mark.parametrize("reach", REACHES)
def test_batched_fit_is_as_good_as_findhomography_on_the_same_matches(reach):
    ours, theirs = [], []
    centre, scale = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2), WIDTH / 2
    for seed in range(12):
        start, end, true = scattered_matches(seed, reach)
        theirs.append(mean_error(cv2.findHomography(start, end, cv2.RANSAC, 1.0)[0], true))
        fitted, inliers = homography_torch.fit_successively(
            (torch.from_numpy(start[None]) - torch.tensor(centre)) / scale,
            (torch.from_numpy(end[None]) - torch.tensor(centre)) / scale,
            torch.ones(1, len(start), dtype=torch.bool),
            count=1,
            inlier=1 / scale,
            outlier=1.5 / scale,
            seed=0,
        )
        ours.append(mean_error(homography_torch.in_pixels(fitted[:, 0], centre, scale)[0].numpy(), true))
        assert 250 <= int(inliers) <= 300
    assert np.median(ours) <= np.median(theirs) + 0.002
    assert max(ours) < 0.1


def test_four_points_give_their_homography():
    random = np.random.default_rng(7)
    true = torch.from_numpy(np.stack([random_homography(random, 2, 2, 0.4) for _ in range(5)])).float()
    start = torch.tensor([[0.0, 0.0], [1.0, 0.1], [0.9, 1.0], [-0.1, 0.8]]).expand(5, 4, 2)
    found = homography_torch.homography_from_four_points(start, homography_torch.transform(true, start))
    expected = true / true.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(found / found.abs().amax((1, 2), keepdim=True), expected, atol=1e-5, rtol=0)
    assert (
        homography_torch.homography_from_four_points(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2))
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("reach", [3.0, 8.0])
def test_opencv_finds_the_camera(reach):
    errors = []
    for seed in range(6):
        scene = camera_pair(seed, reach)
        found, accepted = on_opencv(scene.frames)
        assert accepted
        errors.append(mean_error(found, scene.homographies[0]))
    assert np.median(errors) < 0.1
    assert max(errors) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("reach", REACHES)
def test_torch_finds_the_camera_as_well_as_opencv_does(reach):
    scenes = [camera_pair(seed, reach) for seed in range(6)]
    found, accepted = in_torch([scene.frames for scene in scenes])
    assert accepted.all()
    ours = [mean_error(h, s.homographies[0]) for h, s in zip(found, scenes, strict=True)]
    theirs = [mean_error(on_opencv(s.frames)[0], s.homographies[0]) for s in scenes]
    assert max(ours) < 0.1
    assert np.mean(ours) < np.mean(theirs) + 0.005


def test_corners_are_followed_to_where_opencv_follows_them():
    scene = camera_pair(3, 8.0)
    start, end = opencv.track(*scene.frames, opencv.corners(scene.frames[0]))
    previous, current = stacked([scene.frames])
    found, good = candidates_torch.track(previous.float(), current.float(), torch.from_numpy(start[None]))
    difference = np.linalg.norm(found[0].numpy() - end, axis=1)
    assert good.float().mean() > 0.97
    assert np.median(difference) < 0.005
    assert np.percentile(difference, 95) < 0.1


@pytest.mark.slow
def test_torch_candidates_of_a_pair_are_its_own_and_repeat():
    pairs = [camera_pair(seed, 8.0).frames[:, 60:180, 80:240] for seed in range(4)] * 4
    frames = torch.from_numpy(np.concatenate(pairs))
    together = candidates_torch.find_candidates(frames, 1)
    again = candidates_torch.find_candidates(frames, 1)
    for name, values in vars(together).items():
        np.testing.assert_array_equal(values, getattr(again, name), err_msg=name)
    for index in (0, 13):
        alone = candidates_torch.find_candidates(frames[index : index + 2], 1)
        np.testing.assert_array_equal(alone.valid[0], together.valid[index])
        np.testing.assert_allclose(alone.homographies[0], together.homographies[index], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(alone.support[0], together.support[index], atol=1e-3)


def test_seed_chooses_the_hypotheses():
    zero, one = (homography_torch.sample_positions(seed, torch.device("cpu")) for seed in (0, 1))
    assert not torch.equal(zero, one)
    again = homography_torch.sample_positions.__wrapped__(0, torch.device("cpu"))
    torch.testing.assert_close(zero, again, atol=0, rtol=0)


def textureless():
    return np.stack([np.full((HEIGHT, WIDTH), grey, np.uint8) for grey in (90, 91)])


def few_corners():
    """A flat picture with 40 bright squares of 5x5 px: fewer corners than required."""
    frames = textureless()
    for index in range(10):
        frames[
            :,
            20 + 20 * (index % 5) : 25 + 20 * (index % 5),
            30 + 150 * (index // 5) : 35 + 150 * (index // 5),
        ] = 250
    frames[1] = np.roll(frames[1], 3, axis=1)
    return frames


def unrelated():
    return np.random.default_rng(9).integers(0, 256, (2, HEIGHT, WIDTH)).astype(np.uint8)


def crowd(seed=0):
    """A static background behind 60 patches that move independently."""
    random = np.random.default_rng(seed)
    frame = camera_pair(1, 3.0).frames[0]
    frames = np.stack([frame, frame])
    patches = random.integers(0, 256, (60, 20, 20)).astype(np.uint8)
    for patch in patches:
        patch = cv2.GaussianBlur(patch, (0, 0), 1.2)
        x, y = random.integers(10, (WIDTH - 40, HEIGHT - 40))
        dx, dy = random.integers(-5, 6, 2)
        frames[0, y : y + 20, x : x + 20] = patch
        frames[1, y + dy : y + dy + 20, x + dx : x + dx + 20] = patch
    return frames


@pytest.mark.parametrize("seed", range(4))
def test_camera_stands_still_behind_a_crowd(seed):
    frames = crowd(seed)
    found, accepted = on_opencv(frames)
    found_in_torch, also = in_torch([frames])
    assert accepted and also.all()
    np.testing.assert_array_equal(found, np.eye(3))
    np.testing.assert_array_equal(found_in_torch[0], np.eye(3))


@pytest.mark.parametrize("reach", [0.3, 1.0])
def test_slow_camera_is_still_found(reach):
    scenes = [camera_pair(seed, reach, noise=0.5) for seed in range(4)]
    found, _ = in_torch([scene.frames for scene in scenes])
    for scene, of_torch in zip(scenes, found, strict=True):
        on_cpu, _ = on_opencv(scene.frames)
        for h in (on_cpu, of_torch):
            assert mean_error(h, scene.homographies[0]) < 0.1
            assert (h != np.eye(3)).any()


def too_far():
    """Everything moves by 40 px, more than a match may."""
    frame = camera_pair(1, 3.0).frames[0]
    return np.stack([frame, np.roll(frame, 40, axis=1)])


@pytest.mark.parametrize("make", [textureless, few_corners, unrelated, too_far])
def test_too_little_evidence_is_refused(make):
    frames = make()
    found, accepted = on_opencv(frames)
    found_in_torch, also = in_torch([frames])
    assert not accepted and not also.any()
    np.testing.assert_array_equal(found, np.eye(3))
    np.testing.assert_array_equal(found_in_torch[0], np.eye(3))


@pytest.mark.parametrize("size", [(17, 33), (8, 8), (64, 64), (241, 321), (320, 180)])
def test_any_size_works(size):
    texture = np.random.default_rng(0).integers(0, 256, (size[0] + 2, size[1] + 2)).astype(np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 1.5)
    frames = np.stack([texture[1:-1, 1:-1], texture[:-2, :-2]])
    found, accepted = on_opencv(frames)
    found_in_torch, also = in_torch([frames])
    assert np.isfinite(found).all()
    assert np.isfinite(found_in_torch).all()
    if min(size) >= 180:
        assert accepted
        assert also.all()
        assert found[:2, 2] == pytest.approx([1, 1], abs=0.2)
        assert found_in_torch[0, :2, 2] == pytest.approx([1, 1], abs=0.2)


def test_resampled_frame_is_the_same_on_both_backends_and_shows_the_view_before():
    scene = camera_pair(2, 8.0, noise=0, still=True)
    h = scene.homographies[0]
    on_cpu = compensation_opencv.resample(scene.frames[1], h, scene.frames[0])
    tensors = [torch.from_numpy(frame[None]) for frame in scene.frames]
    in_torch = compensation_torch.resample(tensors[1], torch.from_numpy(h[None]).float(), tensors[0])[
        0
    ].numpy()
    difference = np.abs(on_cpu.astype(int) - in_torch)
    assert np.mean(difference > 1) < 1e-3  # pixels at the margin may be filled on one side only
    before = np.abs(scene.frames[0].astype(int) - scene.frames[1]).mean()
    assert np.abs(scene.frames[0].astype(int) - on_cpu).mean() < 0.1 * before


def test_torch_camera_flow_is_numpys():
    random = np.random.default_rng(8)
    matrices = np.stack([random_homography(random, HEIGHT, WIDTH, reach) for reach in REACHES]).astype(
        np.float32
    )
    np.testing.assert_allclose(
        compensation_torch.camera_flow(torch.from_numpy(matrices), HEIGHT, WIDTH).numpy(),
        camera_flow(matrices, HEIGHT, WIDTH),
        atol=2e-4,
    )
