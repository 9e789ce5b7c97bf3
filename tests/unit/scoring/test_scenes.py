"""Ground truth of the synthetic scenes, against the frames and against plain integration."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from m3flow.scoring.scenes import SCENES, Scene, inside, make_scene, pixel_grid

SIZE = {"frames": 8, "height": 96, "width": 128}


@pytest.fixture(scope="module", params=list(SCENES))
def scene(request: pytest.FixtureRequest) -> Scene:
    return make_scene(request.param, **SIZE)


def at(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`picture` [H, W] at real-valued points [..., 2], by cubic splines of SciPy."""
    return map_coordinates(picture.astype(float), [points[..., 1], points[..., 0]], order=3, mode="nearest")


def test_shapes_and_types(scene: Scene) -> None:
    assert scene.frames.shape == (8, 96, 128) and scene.frames.dtype == np.uint8
    assert scene.flow.shape == (7, 2, 96, 128) and scene.flow.dtype == np.float32
    assert scene.homographies.shape == (7, 3, 3)
    assert scene.mask.shape == (8, 96, 128) and scene.mask.dtype == bool
    assert scene.frames.std() > 10, "the frame has no texture"


@pytest.mark.parametrize("name", [name for name, recipe in SCENES.items() if not recipe.blur + recipe.noise])
def test_the_next_frame_warped_back_by_the_flow_is_the_frame(name: str) -> None:
    scene = make_scene(name, **SIZE)
    grid = pixel_grid(96, 128)
    for t in (0, 2, 6):
        # An object's edge pixel mixes two motions: exclude the surroundings of the outline.
        edge = cv2.morphologyEx(
            scene.mask[t].astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)
        ).astype(bool)
        target = grid + scene.flow[t].transpose(1, 2, 0)
        compared = scene.visible[t] & ~edge & inside(target - 3, 90, 122)
        difference = np.abs(at(scene.frames[t + 1], target) - scene.frames[t])[compared]
        # An error of a tenth of a pixel would be detected: the frames differ by more than this when shifted by 0.1.
        shifted = np.abs(at(scene.frames[t + 1], target + 0.1) - scene.frames[t])[compared]
        assert difference.mean() < 1.0
        assert difference.mean() < 0.6 * shifted.mean()


def test_tracks_are_the_integrated_flow(scene: Scene) -> None:
    points = np.stack(np.meshgrid(np.arange(20, 108, 8), np.arange(20, 76, 8)), axis=-1).reshape(-1, 2)
    tracks = scene.tracks(points, 1, 6)
    followed = points.astype(float)
    np.testing.assert_array_equal(tracks[0], points)
    smooth = np.ones(len(points), bool)
    for step in range(6):
        t = 1 + step
        if t + 1 == scene.cut:
            break
        on_object = scene.on_object(followed, t)
        # Bilinear reads mix the two motions at the outline, where the comparison is meaningless.
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                smooth &= scene.on_object(followed + np.array([dx, dy]), t) == on_object
        smooth &= inside(followed, 96, 128)
        smooth &= scene.tracks_visible(tracks, 1)[step]
        velocity = [
            map_coordinates(scene.flow[t, c].astype(float), [followed[:, 1], followed[:, 0]], order=1)
            for c in (0, 1)
        ]
        followed = followed + np.stack(velocity, axis=-1)
        assert smooth.sum() > 5
        np.testing.assert_allclose(tracks[step + 1][smooth], followed[smooth], atol=0.02)


def test_homographies_are_the_flow_of_the_background(scene: Scene) -> None:
    corners = np.array([[0, 0], [127, 0], [127, 95], [0, 95]], np.float32)
    for t, homography in enumerate(scene.homographies):
        moved = cv2.perspectiveTransform(corners[None], homography)[0]
        flow = scene.background_flow[t][:, corners[:, 1].astype(int), corners[:, 0].astype(int)].T
        np.testing.assert_allclose(moved, corners + flow, atol=1e-3)


def test_an_object_moves_against_its_background() -> None:
    scene = make_scene("object_moving_camera", **SIZE)
    on_object, elsewhere = scene.mask[0], ~scene.mask[0]
    assert 0.05 < on_object.mean() < 0.5
    np.testing.assert_allclose(scene.flow[0][:, elsewhere].T, [[-3.7, 1.4]] * elsewhere.sum(), atol=1e-4)
    np.testing.assert_allclose(scene.flow[0][:, on_object].T, [[0.7, 3.0]] * on_object.sum(), atol=1e-4)
    np.testing.assert_allclose(scene.residual[0][:, on_object].T, [[4.4, 1.6]] * on_object.sum(), atol=1e-4)
    assert not scene.residual[0][:, elsewhere].any()
    assert (scene.visible[0] & elsewhere).sum() < elsewhere.sum(), "the object covers some background"


def test_slow_and_fast_are_what_they_say() -> None:
    assert np.linalg.norm(make_scene("slow", **SIZE).flow[0][:, 0, 0]) < 0.3
    assert np.linalg.norm(make_scene("fast", **SIZE).flow[0][:, 0, 0]) > 10
    assert np.ptp(make_scene("still", **SIZE).frames, axis=0).max() == 0


def test_the_seed_decides() -> None:
    one, again = (make_scene("zoom", **SIZE, noise=2, seed=5) for _ in range(2))
    other = make_scene("zoom", **SIZE, noise=2, seed=6)
    np.testing.assert_array_equal(one.frames, again.frames)
    assert (one.frames != other.frames).any()
    with pytest.raises(ValueError, match="choose from still, translation"):
        make_scene("nowhere")
