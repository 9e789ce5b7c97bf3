"""Brox's flow against its energy functional, ground truth, known motion, and itself in other batches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from m3flow.flow import estimator
from m3flow.flow.image_ops import resize_area
from m3flow.flow.parameters import BroxParameters
from m3flow.flow.sor import System, divergence, solve
from support.flow_cases import TRANSLATION, ZOOM, ground_truth, moved_texture


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ours(**parameters):
    return estimator("brox", device="cpu", **parameters)


def opencv(name):
    return estimator(name, backend="opencv")


def energy(pair, flow):
    """The paper's energy of a flow [1, 2, H, W], written out plainly.

    Grey values 0 to 1; psi(s²) = sqrt(s² + 0.001²); pixels that leave the second frame have no data term.
    """
    parameters = BroxParameters()
    one, two = pair.previous[0] / 255.0, pair.current[0] / 255.0
    u, v = flow[0].astype(np.float64)
    height, width = one.shape
    y, x = np.mgrid[:height, :width]
    x, y = x + u, y + v

    def derivative(image, axis):
        padded = np.pad(image, 2, mode="edge")
        rolled = [np.roll(padded, shift, axis)[2:-2, 2:-2] for shift in (2, 1, -1, -2)]
        return (rolled[0] - 8 * rolled[1] + 8 * rolled[2] - rolled[3]) / 12

    def moved(image):
        maps = x.astype(np.float32), y.astype(np.float32)
        return cv2.remap(image.astype(np.float32), *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    grey = (moved(two) - one) ** 2
    edges = sum((moved(derivative(two, axis)) - derivative(one, axis)) ** 2 for axis in (0, 1))
    stays = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    slope = sum(
        np.diff(part, axis=1, append=part[:, -1:]) ** 2 + np.diff(part, axis=0, append=part[-1:]) ** 2
        for part in (u, v)
    )
    data = np.sqrt(grey + parameters.gamma * edges + 0.001**2)[stays].sum()
    return data + parameters.alpha * np.sqrt(slope + 0.001**2).sum()


def assert_minimises(pair):
    flow = ours()(pair.previous, pair.current)
    least = energy(pair, flow)
    noise = np.random.default_rng(0).normal(size=flow.shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise[0].transpose(1, 2, 0), (0, 0), 5).transpose(2, 0, 1)[None]
    others = {
        "zero": 0 * flow,
        "longer": 1.05 * flow,
        "shorter": 0.95 * flow,
        "shifted": flow + 0.05,
        "shifted back": flow - 0.05,
        "noisy": flow + 0.02 * noise,
        "wavy": flow + 0.05 * smooth / smooth.std(),
        "true": np.where(pair.known[:, None], pair.flow, flow),
    }
    for name in ("farneback", "dis", "tvl1"):
        others[name] = opencv(name)(pair.previous, pair.current)
    for name, other in others.items():
        assert least < energy(pair, other), name


@pytest.mark.parametrize("matrix", [TRANSLATION, ZOOM], ids=["translation", "zoom"])
def test_minimises_its_energy_on_a_texture(matrix):
    assert_minimises(moved_texture(120, 160, matrix))


@pytest.mark.parametrize("name", ["rubberwhale", "sintel_alley_1"])
@pytest.mark.slow
def test_minimises_its_energy_on_real_pairs(shared_data, name):
    assert_minimises(ground_truth(shared_data, name).crop(slice(0, 200), slice(0, 300)))


@pytest.mark.parametrize(("name", "bound"), [("rubberwhale", 0.1), ("sintel_alley_1", 0.2), ("chairs", 0.55)])
@pytest.mark.slow
def test_error_against_ground_truth(shared_data, name, bound):
    """The bounds are about 5 % above the measured errors; Farneback's errors are 0.33, 0.85 and 1.34."""
    pair = ground_truth(shared_data, name)
    error = pair.error(ours()(pair.previous, pair.current))
    assert error < bound
    assert error < pair.error(opencv("farneback")(pair.previous, pair.current)) / 2


@pytest.mark.parametrize("matrix", [TRANSLATION, ZOOM], ids=["translation", "zoom"])
@pytest.mark.parametrize("size", [(120, 160), (64, 64), (161, 91)], ids=str)
def test_finds_known_motion(size, matrix):
    pair = moved_texture(*size, matrix)
    assert pair.error(ours()(pair.previous, pair.current)) < 0.03


@pytest.mark.parametrize("size", [(15, 40), (16, 16), (33, 17), (47, 77)], ids=str)
def test_small_and_odd_sizes(size):
    pair = moved_texture(*size, ((1.0, 0.0, 0.5), (0.0, 1.0, -0.5)), margin=3)
    flow = ours()(pair.previous, pair.current)
    assert flow.shape == (1, 2, *size)
    assert flow.dtype == np.float32
    assert pair.error(flow) < 0.1


def test_a_result_depends_on_its_pair_alone():
    pairs = [moved_texture(48, 64, ((1.0, 0.0, 0.1 * i), (0.0, 1.0, -0.05 * i))) for i in range(32)]
    previous, current = (
        np.concatenate([getattr(p, name) for p in pairs]) for name in ("previous", "current")
    )
    method = ours(inner=3)
    batch = method(previous, current)
    for i in (0, 9, 31):
        alone = method(previous[i : i + 1], current[i : i + 1])
        np.testing.assert_allclose(batch[i], alone[0], atol=1e-4)
    np.testing.assert_array_equal(batch, method(previous, current))


@pytest.mark.slow
def test_makes_every_tensor_on_its_device():
    """On torch's meta device an operation with a tensor left on the CPU is an error, as on a GPU."""
    frames = torch.zeros(2, 64, 81, dtype=torch.uint8, device="meta")
    flow = estimator("brox", device="meta")(frames, frames)
    assert flow.device.type == "meta"
    assert flow.shape == (2, 2, 64, 81)


def test_no_motion_is_exactly_zero():
    frame = moved_texture(64, 80, TRANSLATION).previous
    both = np.concatenate((frame, np.full_like(frame, 200)))
    assert not ours()(both, both).any()


def test_fewer_levels_find_only_small_motion():
    """`outer` limits the number of levels: with one, a motion of 6 px is out of reach."""
    pair = moved_texture(96, 128, ((1.0, 0.0, 6.0), (0.0, 1.0, 0.0)))
    assert pair.error(ours()(pair.previous, pair.current)) < 0.1
    assert pair.error(ours(outer=1)(pair.previous, pair.current)) > 2


@pytest.mark.parametrize("size", [(120, 160), (193, 256), (60, 80), (24, 31), (241, 320)], ids=str)
def test_area_average_is_opencvs(size):
    image = np.random.default_rng(0).uniform(0, 255, (241, 320)).astype(np.float32)
    reference = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resize_area(torch.from_numpy(image), *size).numpy(), reference, atol=1e-3)


def test_solver_solves_the_system():
    """Against a dense matrix of the same equations, solved by NumPy."""
    random = np.random.default_rng(0)
    height, width = 5, 6
    root = random.normal(size=(height, width, 2, 2))
    tensors = root @ root.swapaxes(-1, -2) + 0.1 * np.eye(2)
    link_x, link_y = random.uniform(0, 2, (height, width - 1)), random.uniform(0, 2, (height - 1, width))
    right = random.normal(size=(2, height, width))

    number = np.arange(2 * height * width).reshape(2, height, width)
    matrix = np.zeros((number.size, number.size))
    for i in range(height):
        for j in range(width):
            at = number[:, i, j]
            matrix[np.ix_(at, at)] += tensors[i, j]
            for weights, neighbour in ((link_x, (i, j + 1)), (link_y, (i + 1, j))):
                if i < weights.shape[0] and j < weights.shape[1]:
                    to = number[:, *neighbour]
                    matrix[at, at] += weights[i, j]
                    matrix[to, to] += weights[i, j]
                    matrix[at, to] -= weights[i, j]
                    matrix[to, at] -= weights[i, j]
    expected = np.linalg.solve(matrix, right.ravel()).reshape(right.shape)

    system = System(
        a11=torch.from_numpy(tensors[None, ..., 0, 0]),
        a12=torch.from_numpy(tensors[None, ..., 0, 1]),
        a22=torch.from_numpy(tensors[None, ..., 1, 1]),
        right=torch.from_numpy(right[None]),
        link_x=torch.from_numpy(link_x[None]),
        link_y=torch.from_numpy(link_y[None]),
    )
    start = torch.zeros(1, 2, height, width, dtype=torch.float64)
    found = solve(system, start, omega=1.5, iterations=200)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-10)
    assert not start.any()

    # And the divergence is the part of that matrix due to the links.
    flow = random.normal(size=right.shape)
    for at in number.reshape(2, -1).T:
        matrix[np.ix_(at, at)] -= tensors.reshape(-1, 2, 2)[at[0]]
    links_only = -(matrix @ flow.ravel()).reshape(flow.shape)
    streamed = divergence(torch.from_numpy(flow[None]), system.link_x, system.link_y)
    np.testing.assert_allclose(streamed[0].numpy(), links_only, atol=1e-10)
