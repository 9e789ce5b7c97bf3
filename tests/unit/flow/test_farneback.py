"""Farneback in torch against OpenCV's, against ground truth, and against itself in other batches."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data as textures
from torch.utils._python_dispatch import TorchDispatchMode

from m3flow.errors import UsageError
from m3flow.flow.farneback import Farneback
from m3flow.flow.opencv import Farneback as OpenCVFarneback
from m3flow.flow.parameters import FarnebackParameters
from support.flow_cases import DEMO_CLIPS, SHARED_CLIPS, clip_frames

PARAMETER_SETS = {
    "cuda-defaults": {},
    "3-15-3": {"levels": 3, "window": 15, "iterations": 3},
    "poly-7": {"poly_n": 7, "poly_sigma": 1.5},
    "gaussian": {"gaussian": True},
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ours(**parameters):
    return Farneback(FarnebackParameters(**parameters), device="cpu")


def opencv(**parameters):
    return OpenCVFarneback(FarnebackParameters(**parameters))


def difference(first, second):
    """The end-point distance of two flows [B, 2, H, W] per pixel."""
    return np.hypot(*np.moveaxis(np.asarray(first) - np.asarray(second), 1, 0))


def textured_pair(height, width, matrix=((1.01, 0.01, 1.5), (-0.01, 0.995, -0.8))):
    """A real texture and the same one moved: uint8 [1, H, W] twice."""
    repeats = (height // 300 + 1, width // 300 + 1)
    texture = cv2.GaussianBlur(np.tile(textures.gravel(), repeats), (0, 0), 1)
    moved = cv2.warpAffine(texture, np.float32(matrix), texture.shape[::-1], flags=cv2.INTER_CUBIC)
    window = np.s_[None, 50 : 50 + height, 50 : 50 + width]
    return texture[window].copy(), moved[window].copy()


def assert_agrees(difference):
    assert np.median(difference) < 2e-6
    assert np.percentile(difference, 99) < 1e-4
    assert (difference > 0.01).mean() < 1e-3


@pytest.mark.parametrize("parameters", PARAMETER_SETS.values(), ids=PARAMETER_SETS)
@pytest.mark.parametrize("clip", SHARED_CLIPS, ids=lambda clip: Path(clip).stem[:20])
def test_agrees_with_opencv_on_clips_of_data_sets(shared_data, clip, parameters):
    assert_agrees_on(clip_frames(shared_data / "videos", clip, start=10, count=3), parameters)


@pytest.mark.parametrize("parameters", PARAMETER_SETS.values(), ids=PARAMETER_SETS)
@pytest.mark.parametrize("clip", DEMO_CLIPS, ids=lambda clip: Path(clip).stem)
def test_agrees_with_opencv_on_the_demo_clips(demo_clips, clip, parameters):
    assert_agrees_on(clip_frames(demo_clips, clip, start=115, count=3), parameters)


def assert_agrees_on(frames, parameters):
    expected = opencv(**parameters)(frames[:-1], frames[1:])
    assert np.abs(expected).max() > 0.5, "the clip should move"
    assert_agrees(difference(ours(**parameters).sequence(frames), expected))


@pytest.mark.parametrize("parameters", PARAMETER_SETS.values(), ids=PARAMETER_SETS)
def test_agrees_with_opencv_on_a_texture(parameters):
    pair = textured_pair(240, 320)
    assert_agrees(difference(ours(**parameters)(*pair), opencv(**parameters)(*pair)))


@pytest.mark.parametrize(
    "parameters",
    [
        {"levels": 0},
        {"levels": 1},
        {"levels": 2, "scale": 0.8, "window": 8, "iterations": 2},
        {"iterations": 0},
        {"poly_sigma": 0.0},
        {"levels": 4, "scale": 0.7, "window": 21, "gaussian": True, "iterations": 2},
    ],
    ids=str,
)
def test_agrees_with_opencv_for_unusual_parameters(parameters):
    pair = textured_pair(150, 201)
    found, expected = ours(**parameters)(*pair), opencv(**parameters)(*pair)
    # A shallow pyramid leaves pixels at the border undetermined; OpenCV's own results vary there as much.
    assert np.median(difference(found, expected)) < 1e-5
    assert (difference(found, expected) > 0.01).mean() < 5e-3


@pytest.mark.parametrize(
    "size", [(241, 321), (320, 180), (64, 64), (33, 17), (31, 40), (16, 16)], ids=lambda s: f"{s[1]}x{s[0]}"
)
def test_agrees_with_opencv_at_any_size(size):
    pair = textured_pair(*size)
    found = ours()(*pair)
    assert found.shape == (1, 2, *size)
    distance = difference(found, opencv()(*pair))
    assert np.median(distance) < 1e-5  # small frames are nearly all border
    assert (distance > 0.01).mean() < 1e-3


@pytest.mark.slow
def test_agrees_with_opencv_at_1080p():
    pair = textured_pair(1080, 1920, matrix=((1, 0, 3.3), (0, 1, -2.1)))
    assert_agrees(difference(ours(iterations=2)(*pair), opencv(iterations=2)(*pair)))


@pytest.mark.parametrize("name", ["rubberwhale", "sintel_alley_1"])
def test_endpoint_error_equals_opencvs(shared_data, name):
    folder = shared_data / "flow_gt" / name
    truth = cv2.readOpticalFlow(str(folder / "flow.flo")).transpose(2, 0, 1)[None]
    known = (np.abs(truth) < 1e9).all(1)
    for mask in ("invalid.png", "occlusions.png"):
        if (folder / mask).exists():
            known &= cv2.imread(str(folder / mask), cv2.IMREAD_GRAYSCALE)[None] == 0
    pair = [cv2.imread(str(folder / f"frame{number}.png"), cv2.IMREAD_GRAYSCALE)[None] for number in (1, 2)]
    error = difference(ours()(*pair), truth)[known].mean()
    expected = difference(opencv()(*pair), truth)[known].mean()
    assert error < 1, "the ground truth is read wrongly"
    assert abs(error - expected) < 5e-4


def crops(count):
    """Small pairs, all different: uint8 [count, 48, 64] twice."""
    previous, current = textured_pair(300, 400)
    corners = [(5 * k, 7 * k) for k in range(count)]
    return tuple(np.stack([f[0, y : y + 48, x : x + 64] for y, x in corners]) for f in (previous, current))


def test_a_result_depends_on_its_pair_alone():
    previous, current = crops(32)
    together = ours()(previous, current)
    alone = np.concatenate([ours()(previous[k : k + 1], current[k : k + 1]) for k in range(32)])
    assert np.abs(together - alone).max() < 1e-4
    assert np.array_equal(together, ours()(previous, current)), "two runs differ"


@pytest.mark.parametrize("step", [1, 3])
def test_sequence_is_the_pairs(step):
    frames = crops(6)[0]
    expected = ours()(frames[:-step], frames[step:])
    assert np.abs(ours().sequence(frames, step) - expected).max() < 1e-4


def test_arrays_come_back_as_they_went_in():
    pair = textured_pair(40, 50)
    as_array = ours()(*pair)
    as_tensor = ours()(*map(torch.from_numpy, pair))
    assert isinstance(as_array, np.ndarray) and as_array.dtype == np.float32
    assert isinstance(as_tensor, torch.Tensor) and not as_tensor.requires_grad
    assert np.array_equal(as_array, as_tensor.numpy())


def test_frames_of_another_kind_are_refused():
    frames = crops(3)[0]
    for wrong in (frames[0], frames.astype(np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            ours().sequence(wrong)


def test_too_few_frames_make_no_flow():
    assert ours().sequence(crops(2)[0], step=2).shape == (0, 2, 48, 64)


def test_nothing_can_run_in_tf32():
    """TF32 affects only convolutions and matrix products: there are none."""

    class Names(TorchDispatchMode):
        seen: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.add(str(function))
            return function(*args, **(kwargs or {}))

    with Names() as names:
        ours(gaussian=True)(*map(torch.from_numpy, textured_pair(70, 70)))
    assert any("gather" in name for name in names.seen)
    assert not [name for name in names.seen if any(word in name for word in ("conv", "mm", "matmul", "dot"))]


@pytest.mark.parametrize("parameters", [{"scale": 1.0}, {"scale": 0.0}, {"window": 1}])
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(UsageError, match=next(iter(parameters))):
        ours(**parameters)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.slow
def test_compiled_equals_eager():
    pair = textured_pair(48, 64)
    parameters = FarnebackParameters(levels=0, iterations=2)
    compiled = Farneback(parameters, device="cpu", iteration="compiled")(*pair)
    assert_agrees(difference(compiled, Farneback(parameters, device="cpu")(*pair)))
