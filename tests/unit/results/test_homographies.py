"""The camera of a video, from the pairs to the flow file's provenance and back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import m3flow
from m3flow.results.forms.mp4 import Mp4Writer
from m3flow.results.homographies import Camera
from m3flow.results.quantisation import Piece


def pieces():
    """Three pairs and two, the third across a cut, with bars that shrink after it."""
    homographies = np.tile(np.eye(3, dtype=np.float32), (5, 1, 1))
    homographies[0, 0, 2] = 2.5
    whole = Piece(
        levels=np.zeros((5, 2, 48, 64), np.uint8),
        homographies=homographies,
        accepted=np.array([True, True, False, True, False]),
        confidence=np.array([0.9, 0.8, 0, 0.7, 0.2], np.float32),
        bars=np.array([[6, 6, 0, 0], [6, 6, 0, 0], [0, 0, 0, 0], [0, 0, 0, 8], [0, 0, 0, 8]], np.int32),
        cut=np.array([False, False, True, False, False]),
        schemes=["one-pass", "still", "cut", "still", ""],
    )
    return whole, [whole[:3], whole[3:]]


def test_what_is_stored_is_what_was_found(tmp_path):
    whole, parts = pieces()
    camera = Camera()
    with Mp4Writer(tmp_path, codec="h264-lossless", rate=Fraction(25), width=64, height=48) as writer:
        for part in parts:
            camera.add(part, 48, 64)
            writer.write(part.levels)
        writer.close({"settings": {}, "camera": camera.stored()})
    stored = m3flow.camera_of(tmp_path)
    np.testing.assert_array_equal(stored.homographies, whole.homographies)
    np.testing.assert_array_equal(stored.accepted, whole.accepted)
    np.testing.assert_array_equal(stored.confidence, whole.confidence)
    assert stored.cuts == [2]
    for start, stop in ((0, 5), (1, 3), (3, 5), (4, 4)):
        np.testing.assert_array_equal(stored.bars(start, stop), whole.bars[start:stop])
        np.testing.assert_array_equal(stored.cut(start, stop), whole.cut[start:stop])
    homographies, accepted = m3flow.homographies_of(tmp_path)
    np.testing.assert_array_equal(homographies, whole.homographies)
    np.testing.assert_array_equal(accepted, whole.accepted)


def test_summary_counts_cuts_and_averages_the_rest():
    camera = Camera()
    for part in pieces()[1]:
        camera.add(part, 48, 64)
    found = camera.summary()
    assert (found["camera"], found["cuts"]) == (0.6, 1)
    assert found["camera_shift"] == pytest.approx(0.5)
    assert found["camera_confidence"] == pytest.approx((0.9 + 0.8 + 0.7 + 0.2) / 4)
    assert found["bars"] == pytest.approx((2 * 12 / 48 + 2 * 8 / 64) / 5)


def test_without_a_camera_the_cuts_alone_are_stored():
    camera = Camera()
    camera.add(Piece(levels=np.zeros((3, 2, 8, 8), np.uint8), cut=np.array([False, True, False])), 8, 8)
    assert camera.stored() == {"cuts": [1]} and camera.summary() == {"cuts": 1}
    nothing = Camera()
    nothing.add(Piece(levels=np.zeros((3, 2, 8, 8), np.uint8)), 8, 8)
    assert nothing.stored() == {} and nothing.summary() == {}
