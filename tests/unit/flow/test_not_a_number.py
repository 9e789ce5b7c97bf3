"""Flow that is not a number: it stays where it is, and is never used as an index (on a GPU, the end of the process)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.camera.compensation_torch import displace
from m3flow.flow.dis import eager_search
from m3flow.flow.image_ops import sample, sample_bicubic
from m3flow.trajectories import track

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("how", ["bilinear", "replicate", "zero"])
def test_samples_elsewhere_are_unchanged(how: str) -> None:
    # With an odd width the smallest integer, twice, would wrap to index 0.
    images = torch.rand(1, 2, 9, 12)
    x, y = 12 * torch.rand(2, 1, 5, 6) - 1

    def read(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return sample(images, x, y) if how == "bilinear" else sample_bicubic(images, x, y, how)  # type: ignore[arg-type]

    expected = read(x, y)
    bad_x, bad_y = x.clone(), y.clone()
    for place, value in ((0, NAN), (7, INFINITE), (13, -INFINITE), (29, 1e30)):
        bad_x.view(-1)[place] = bad_y.view(-1)[place] = value
    found = read(bad_x, bad_y)
    good = (bad_x == x)[:, None].expand_as(found)
    assert torch.equal(found[good], expected[good])
    assert found[0, :, 0, 0].isnan().all() and found[0, :, 2, 1].isfinite().all()


def test_a_search_starts_anywhere() -> None:
    one, two = torch.randint(0, 255, (2, 1, 20, 24)).float()
    flow = torch.full((1, 2, 20, 24), NAN)
    assert eager_search(one, two, flow, stride=4, steps=2).shape == (1, 2, 4, 5)


@pytest.mark.parametrize("tracking", ["subpixel", "integer"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_points_that_meet_it_are_outside(tracking: str, kind: str) -> None:
    flow = np.zeros((7, 2, 32, 40), np.float32)
    flow[2, :, 8:16, 16:24] = NAN
    given = flow if kind == "numpy" else torch.from_numpy(flow)
    features, types = (np.asarray(array) for array in track(given, length=6, tracking=tracking))
    expected = np.ones((2, 4, 5), np.uint8)
    expected[:, 1, 2] = 0
    assert np.array_equal(types, expected)
    assert not features[:, types == 1].any()


def test_a_homography_beyond_its_horizon_moves_nothing() -> None:
    flow = displace(torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 3))
    assert flow.isfinite().all()
