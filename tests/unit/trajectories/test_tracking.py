"""The tracker: bit-identical to the specification, and more accurate than `integer` with `subpixel`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.errors import UsageError
from m3flow.results.quantisation import quantise, restore, table
from m3flow.scoring.scenes import make_scene
from m3flow.trajectories.tracking import GRID, LARGEST, OFFSET, Tracker, track, window_starts

JOBS = ("trajs_dense", "trajs")


def random_flow(
    frames: int = 15, height: int = 50, width: int = 71, size: float = 6.0, seed: int = 0
) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (frames, 2, height, width)).astype(np.float32)


def plain_loop(
    flow: np.ndarray, length: int, starts: list[int], step: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The specified `integer` tracker, one point after another."""
    _, _, height, width = flow.shape
    rows, columns = height // 8, width // 8
    feat = np.zeros((2 * length, len(starts), rows, columns), np.int8)
    kind = np.ones((len(starts), rows, columns), np.uint8)
    for n, start in enumerate(starts):
        for i in range(rows):
            for j in range(columns):
                x, y = 4 + 8 * j, 4 + 8 * i
                for k in range(length):
                    if not (0 <= x < width and 0 <= y < height):
                        kind[n, i, j] = 0
                    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
                    dx, dy = (int(v) for v in flow[start + k * step, :, y, x])  # int() truncates toward zero
                    feat[k, n, i, j] = min(max(dx, -20), 20)
                    feat[length + k, n, i, j] = min(max(dy, -20), 20)
                    x, y = x + dx, y + dy
    return feat, kind


class TestInteger:
    @pytest.mark.parametrize("length", [1, 4, 6, 8])
    @pytest.mark.parametrize("job", JOBS)
    def test_bit_for_bit_the_plain_loop(self, length: int, job: str) -> None:
        flow = random_flow()
        starts = (
            list(range(15 - length + 1)) if job == "trajs_dense" else list(range(0, 15 - length + 1, length))
        )
        feat, kind = track(flow, length=length, job=job, tracking="integer")
        expected_feat, expected_kind = plain_loop(flow, length, starts)
        assert (feat.dtype, kind.dtype) == (np.int8, np.uint8)
        assert np.array_equal(feat, expected_feat) and np.array_equal(kind, expected_kind)
        assert length == 1 or 0 < kind.mean() < 1

    @pytest.mark.parametrize("size", [0.4, 30.0])
    def test_small_motion_and_motion_beyond_what_is_stored(self, size: float) -> None:
        flow = random_flow(8, size=size)
        feat, kind = track(flow, length=6, tracking="integer")
        expected_feat, expected_kind = plain_loop(flow, 6, [0, 1, 2])
        assert np.array_equal(feat, expected_feat) and np.array_equal(kind, expected_kind)

    @pytest.mark.parametrize("step", [2, 3])
    def test_a_larger_step_of_the_flow(self, step: int) -> None:
        flow = random_flow(17)
        feat, kind = track(flow, length=4, tracking="integer", step=step)
        expected = plain_loop(flow, 4, list(range(17 - 3 * step)), step)
        assert np.array_equal(feat, expected[0]) and np.array_equal(kind, expected[1])


class TestWindows:
    @pytest.mark.parametrize("frames", [0, 1, 5, 6, 7, 11, 12, 13, 30])
    def test_how_many(self, frames: int) -> None:
        flow = random_flow(frames, 16, 24)
        # F of the specification is the number of video frames, one more than flow frames.
        assert track(flow)[1].shape[0] == max(0, frames + 1 - 6)
        assert track(flow, job="trajs")[1].shape[0] == (frames + 1 - 1) // 6
        assert list(window_starts(frames, 6, "trajs")) == list(range(0, frames - 5, 6))

    @pytest.mark.parametrize("job", JOBS)
    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    def test_fewer_than_one_window_is_an_empty_array(self, job: str, tracking: str) -> None:
        feat, kind = track(random_flow(5), job=job, tracking=tracking)
        assert feat.shape == (12, 0, 6, 8) and feat.dtype == np.int8
        assert kind.shape == (0, 6, 8) and kind.dtype == np.uint8

    @pytest.mark.parametrize(("height", "width"), [(7, 50), (50, 7), (8, 8), (15, 17), (1, 1)])
    def test_frames_about_the_size_of_a_grid_cell(self, height: int, width: int) -> None:
        for tracking in ("subpixel", "integer"):
            feat, kind = track(random_flow(7, height, width), tracking=tracking)
            assert feat.shape == (12, 2, height // 8, width // 8) and kind.shape == feat.shape[1:]

    def test_windows_end_to_end_are_every_lth_dense_one(self) -> None:
        flow = random_flow(20)
        dense, end_to_end = track(flow), track(flow, job="trajs")
        assert np.array_equal(dense[0][:, ::6][:, :3], end_to_end[0])
        assert np.array_equal(dense[1][::6][:3], end_to_end[1])

    @pytest.mark.parametrize("job", JOBS)
    @pytest.mark.parametrize("step", [1, 2, 3])
    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    @pytest.mark.parametrize("pieces", [[1] * 29, [5] * 6, [7, 1, 0, 12, 9], [29], [3, 26]])
    def test_in_pieces_as_in_one(self, job: str, step: int, tracking: str, pieces: list[int]) -> None:
        flow = random_flow(29, 24, 40)
        tracker = Tracker(length=3, job=job, tracking=tracking, step=step)
        results, start = [], 0
        for size in pieces:
            windows = tracker.push(flow[start : start + size])
            results.append((windows.traj_feat, windows.traj_type))
            start += size
        whole = track(flow, length=3, job=job, tracking=tracking, step=step)
        for one, parts in zip(whole, zip(*results, strict=True), strict=True):
            assert np.array_equal(one, np.concatenate(parts, axis=one.ndim - 3))


class TestTypes:
    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    def test_a_point_is_judged_before_it_is_moved_inside(self, tracking: str) -> None:
        flow = np.zeros((3, 2, 16, 16), np.float32)
        flow[0, 0] = -6  # from x = 4 to -2: outside in the second step, whatever follows
        flow[1, 0] = 6
        feat, kind = track(flow, length=3, tracking=tracking)
        assert kind[0].tolist() == [[0, 1], [0, 1]]
        # From the nearest position inside, x = 0, not from -2.
        assert feat[:3, 0, 0, 0].tolist() == [-6, 6, 0]

    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    def test_the_last_point_does_not_count(self, tracking: str) -> None:
        flow = np.zeros((3, 2, 16, 16), np.float32)
        flow[2] = 100
        feat, kind = track(flow, length=3, tracking=tracking)
        assert (kind == 1).all()
        assert (feat[2] == LARGEST).all() and (feat[5] == LARGEST).all()

    @pytest.mark.parametrize("shift", [11.0, 11.5])
    def test_the_edge_is_the_last_pixels_centre(self, shift: float) -> None:
        flow = np.zeros((2, 2, 16, 16), np.float32)
        flow[0, 0] = shift  # x = 4 comes to 15, the last column, or half a pixel beyond
        assert track(flow, length=2)[1][0, 0, 0] == (shift == 11.0)

    def test_still_is_still(self) -> None:
        for tracking in ("subpixel", "integer"):
            feat, kind = track(np.zeros((9, 2, 40, 48), np.float32), tracking=tracking)
            assert (feat == 0).all() and (kind == 1).all()


class TestSubpixel:
    @pytest.mark.parametrize("velocity", [(0.31, -0.43), (0.073, 0.47), (-1.26, 2.53), (3.31, -1.71)])
    def test_stored_displacements_add_up_to_the_rounded_true_one(self, velocity: tuple[float, float]) -> None:
        length = 8
        flow = np.zeros((length, 2, 160, 160), np.float32)
        flow[:, 0], flow[:, 1] = velocity
        feat, kind = track(flow, length=length)
        assert (kind[0, 5:15, 5:15] == 1).all()
        for axis in (0, 1):
            sums = np.cumsum(feat[axis * length : (axis + 1) * length, 0, 5:15, 5:15], axis=0, dtype=int)
            for step in range(length):
                true = velocity[axis] * (step + 1)
                assert abs(true % 1 - 0.5) > 0.01  # no tie among these
                assert (sums[step] == np.floor(true + 0.5)).all()

    def test_a_turning_and_growing_field_is_followed_between_the_pixels(self) -> None:
        # A field linear in x and y: bilinear reads are exact, so only rounding remains.
        matrix, length = np.array([[0.01, -0.03], [0.03, 0.01]]), 6
        y, x = np.mgrid[:160, :160].astype(np.float64)
        centred = np.stack([x - 80, y - 80])
        flow = np.einsum("ab,bhw->ahw", matrix, centred)[None].repeat(length, 0).astype(np.float32)
        feat, _ = track(flow, length=length)
        grid = np.arange(20) * GRID + OFFSET - 80.0
        points = np.stack(np.meshgrid(grid, grid))[:, 5:15, 5:15]
        start = points.copy()
        for step in range(length):
            points = points + np.einsum("ab,bij->aij", matrix, points)
            exact = points - start
            clear = np.abs(exact % 1 - 0.5) > 1e-3
            for axis in (0, 1):
                stored = feat[axis * length : axis * length + step + 1, 0, 5:15, 5:15].sum(0, dtype=int)
                wrong = (stored != np.floor(exact[axis] + 0.5)) & clear[axis]
                assert not wrong.any()

    def test_nearer_to_the_truth_than_integer(self) -> None:
        errors: dict[str, list[float]] = {"subpixel": [], "integer": []}
        for name in ("translation", "rotation", "zoom", "slow", "object_moving_camera", "affine"):
            scene = make_scene(name, frames=7, height=96, width=128)
            grid_x, grid_y = np.meshgrid(np.arange(16) * GRID + OFFSET, np.arange(12) * GRID + OFFSET)
            points = np.stack([grid_x, grid_y], -1).reshape(-1, 2).astype(float)
            tracks = scene.tracks(points, 0, 6)
            seen = scene.tracks_visible(tracks, 0).all(0)
            for tracking, values in errors.items():
                feat, kind = track(scene.flow, tracking=tracking)
                moved = feat[:, 0].reshape(2, 6, -1).sum(1, dtype=int).T  # [points, 2]
                use = seen & (kind[0].reshape(-1) == 1)
                assert use.sum() > 50
                values.append(float(np.linalg.norm(moved - (tracks[6] - tracks[0]), axis=1)[use].mean()))
        for name, values in errors.items():
            print(f"end-point error after 6 frames, {name}: " + " ".join(f"{value:.2f}" for value in values))
        for subpixel, integer in zip(errors["subpixel"], errors["integer"], strict=True):
            assert subpixel < 0.7 * integer
            assert subpixel < 0.75  # two rounded numbers: sqrt(2 / 12) = 0.41 px is the least
        assert np.mean(errors["subpixel"]) < np.mean(errors["integer"]) / 3


class TestBackends:
    @pytest.mark.parametrize("job", JOBS)
    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    @pytest.mark.parametrize("step", [1, 2])
    def test_torch_gives_the_same(self, job: str, tracking: str, step: int) -> None:
        flow = random_flow(15)
        feat, kind = track(flow, length=4, job=job, tracking=tracking, step=step)
        tensors = track(torch.from_numpy(flow), length=4, job=job, tracking=tracking, step=step)
        assert (tensors[0].dtype, tensors[1].dtype) == (torch.int8, torch.uint8)
        assert np.array_equal(tensors[0].numpy(), feat) and np.array_equal(tensors[1].numpy(), kind)

    def test_torch_without_a_window(self) -> None:
        feat, kind = track(torch.zeros(2, 2, 16, 16))
        assert tuple(feat.shape) == (12, 0, 2, 2) and kind.dtype == torch.uint8

    @pytest.mark.parametrize("tracking", ["subpixel", "integer"])
    def test_levels_with_a_table_are_the_flow_that_they_stand_for(self, tracking: str) -> None:
        levels = quantise(random_flow(), 12.5)
        expected = track(restore(levels, 12.5), tracking=tracking)
        read = track(levels, tracking=tracking, table=table(12.5))
        assert np.array_equal(read[0], expected[0]) and np.array_equal(read[1], expected[1])

    def test_the_flow_is_left_as_it_is(self) -> None:
        flow = random_flow()
        before = flow.copy()
        track(flow)
        assert np.array_equal(flow, before)

    def test_a_view_of_a_larger_array(self) -> None:
        flow = random_flow(15)
        wide = np.zeros((30, 2, 50, 90), np.float32)
        wide[::2, :, :, 5:76] = flow
        assert np.array_equal(track(wide[::2, :, :, 5:76])[0], track(flow)[0])


class TestRefusals:
    def test_names_are_listed(self) -> None:
        with pytest.raises(UsageError, match="choose from trajs_dense, trajs"):
            track(random_flow(), job="mvs")
        with pytest.raises(UsageError, match="choose from subpixel, integer"):
            track(random_flow(), tracking="nearest")

    def test_messages_show_shapes(self) -> None:
        for shape in ((5, 2, 16), (5, 16, 16, 2)):
            with pytest.raises(ValueError, match=r"\[T, 2, H, W\]; got \(5, "):
                track(np.zeros(shape, np.float32))


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("pieces", [1, 4])
def test_points_without_a_picture_are_outside(job: str, pieces: int) -> None:
    flow = random_flow(frames=16)
    without_picture = np.zeros((16, 4), np.int32)
    without_picture[:9] = 8, 4, 0, 17
    without_picture[9] = 50, 0, 0, 0  # a cut
    tracker = Tracker(length=3, job=job, tracking="integer")
    found = [
        np.asarray(tracker.push(flow[part], without_picture=without_picture[part]).traj_type)
        for part in (slice(16 * k // pieces, 16 * (k + 1) // pieces) for k in range(pieces))
    ]
    starts = window_starts(16, 3, job)
    features, expected = plain_loop(flow, 3, list(starts))
    for n, start in enumerate(starts):
        for i, j in np.ndindex(6, 8):
            x, y = 4 + 8 * j, 4 + 8 * i
            for k in range(3):
                top, bottom, left, right = without_picture[start + k]
                if not (top <= y < 50 - bottom and left <= x < 71 - right):
                    expected[n, i, j] = 0
                x, y = min(max(x, 0), 70), min(max(y, 0), 49)
                x, y = (place + int(flow[start + k, axis, y, x]) for axis, place in enumerate((x, y)))
    assert features.any()
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert expected[[start > 9 for start in starts]].any()
