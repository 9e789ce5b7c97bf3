"""The codec's motion vectors, against known motion and against optical flow."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from m3flow.errors import BadInput
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.results.trajectoryfile import load_trajectories
from m3flow.scoring.scenes import Scene, make_scene
from m3flow.settings import TrajectorySettings
from m3flow.trajectories.motion_vectors import (
    MotionVectors,
    filled,
    read_motion_vectors,
    trajectories_from_motion_vectors,
    upsampled,
)
from m3flow.videos.coded_pictures import decoding_order, h264_is_reference, reference_distances
from m3flow.videos.videolist import Video


def encode(path: Path, frames: np.ndarray, codec: str, **options: str) -> Path:
    """Write grey frames [F, H, W] as a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def panning() -> Scene:
    """A camera that pans by (3.3, -1.7) px per frame over a picture full of detail."""
    return make_scene("translation", frames=16, height=96, width=128)


CODECS = {
    "mpeg4": ("mp4", "mpeg4", {"qmin": "2", "qmax": "2"}),
    "mpeg2 with B-pictures": ("mpg", "mpeg2video", {"qmin": "2", "qmax": "2", "bf": "2"}),
    "mpeg4 with B-pictures": ("avi", "mpeg4", {"qmin": "2", "qmax": "2", "bf": "2", "g": "30"}),
    "h264 without B-pictures": ("mp4", "libx264", {"crf": "12", "bf": "0", "refs": "1"}),
    "h264 with B-pictures": ("mp4", "libx264", {"crf": "12", "bf": "3", "b-pyramid": "none", "refs": "1"}),
    "h264 with B-pictures as references": ("mkv", "libx264", {"crf": "12", "bf": "3", "b-adapt": "0"}),
    "h264 annex B": ("ts", "libx264", {"crf": "12", "bf": "3", "b-adapt": "0"}),
}


@pytest.mark.parametrize("case", CODECS)
def test_a_known_motion_comes_back(case: str, panning: Scene, tmp_path: Path) -> None:
    suffix, codec, options = CODECS[case]
    vectors = read_motion_vectors(encode(tmp_path / f"pan.{suffix}", panning.frames, codec, **options))
    assert vectors.vectors.shape == (15, 2, 12, 16) and vectors.vectors.dtype == np.float32
    assert vectors.coded.shape == (15, 12, 16) and vectors.coded.dtype == bool
    assert (vectors.height, vectors.width) == (96, 128)
    assert len(vectors.picture_types) == 16 and vectors.picture_types[0] == "I"
    assert ("B" in vectors.picture_types) == ("with B-pictures" in case or "annex" in case)
    # New content at the edge has nothing to be predicted from; check the rest.
    middle = vectors.coded[:, 2:-2, 2:-2]
    assert middle.mean() > 0.7
    found = vectors.vectors.transpose(0, 2, 3, 1)[:, 2:-2, 2:-2][middle]
    # MPEG-4's vectors are in half pixels, H.264's in quarters.
    np.testing.assert_allclose(np.median(found, axis=0), [3.3, -1.7], atol=0.31)
    error = np.linalg.norm(found - [3.3, -1.7], axis=-1)
    assert np.mean(error < 1) > 0.8
    assert not vectors.vectors.transpose(0, 2, 3, 1)[~vectors.coded].any()


def test_an_i_picture_is_marked(panning: Scene, tmp_path: Path) -> None:
    path = encode(tmp_path / "gop.mp4", panning.frames, "mpeg4", g="5", qmin="2", qmax="2")
    vectors = read_motion_vectors(path)
    assert vectors.picture_types == "IPPPPIPPPPIPPPPI"
    assert [bool(step.any()) for step in vectors.coded] == [kind == "P" for kind in vectors.picture_types[1:]]
    whole = filled(vectors)
    np.testing.assert_array_equal(whole[4], whole[3])
    assert np.abs(np.median(whole[4][:, 2:-2, 2:-2], axis=(1, 2)) - [3.3, -1.7]).max() < 0.31


def test_trajectories_follow_the_object(tmp_path: Path) -> None:
    scene = make_scene("object", frames=16, height=96, width=128)
    path = encode(tmp_path / "object.mp4", scene.frames, "mpeg4", qmin="2", qmax="2")
    vectors = read_motion_vectors(path)
    features, types = trajectories_from_motion_vectors(vectors, length=6)
    assert features.shape == (12, 10, 12, 16) and features.dtype == np.int8
    assert types.shape == (10, 12, 16) and types.dtype == np.uint8
    grid = np.stack(np.meshgrid(4 + 8 * np.arange(16), 4 + 8 * np.arange(12)), axis=-1).reshape(-1, 2)
    true = scene.tracks(grid, 3, 6)[-1] - grid
    stored = np.stack([features[:6, 3].sum(0), features[6:, 3].sum(0)], axis=-1).reshape(-1, 2)
    on_object = scene.on_object(grid.astype(float), 3)
    error = np.linalg.norm(stored - true, axis=-1)
    assert np.median(error[on_object]) < 3 < np.median(np.linalg.norm(true[on_object], axis=-1)) / 4
    assert np.median(error[~on_object]) < 1


def test_windows_do_not_depend_on_how_many_are_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = MotionVectors(
        random.normal(0, 2, (11, 2, 5, 6)).astype(np.float32),
        np.ones((11, 5, 6), bool),
        "I" + 11 * "P",
        41,
        50,
    )
    whole = trajectories_from_motion_vectors(vectors, length=3)
    monkeypatch.setattr("m3flow.trajectories.motion_vectors.WINDOWS_AT_ONCE", 4)
    pieces = trajectories_from_motion_vectors(vectors, length=3)
    assert whole[0].shape == (6, 9, 5, 6)
    np.testing.assert_array_equal(whole[0], pieces[0])
    np.testing.assert_array_equal(whole[1], pieces[1])
    short, types = trajectories_from_motion_vectors(vectors, length=12)
    assert short.shape == (24, 0, 5, 6) and types.shape == (0, 5, 6)


def test_the_file_holds_the_trajectories(panning: Scene, tmp_path: Path) -> None:
    video = encode(tmp_path / "pan.mp4", panning.frames, "mpeg4", qmin="2", qmax="2")
    work = Work(outputs=Outputs(tmp_path), trajectories=TrajectorySettings(length=6, job="mvs"))
    record = extract(work, video)
    stored = load_trajectories(tmp_path / "trajs" / "pan_6.gz")
    features, types = trajectories_from_motion_vectors(read_motion_vectors(video), length=6)
    np.testing.assert_array_equal(stored.traj_feat, features)
    np.testing.assert_array_equal(stored.traj_type, types)
    assert stored.made["settings"]["job"] == "mvs" and stored.made["source"]["frames"] == 16
    assert stored.made["source"]["pictures"]["P"] >= 14
    assert (record.frames, record.windows, record.width, record.height) == (16, 10, 128, 96)
    assert record.outside == pytest.approx(1 - types.mean())
    record = extract(replace(work, trajectories=TrajectorySettings(length=20, job="mvs")), video)
    assert load_trajectories(tmp_path / "trajs" / "pan_20.gz").traj_type.shape == (0, 12, 16)
    assert record.status == "done" and "too short" in record.reason


def extract(work: Work, video: Path) -> Record:
    with Extractor(work) as extractor:
        return extractor(Video(str(video), "pan"))


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_rotated_video_has_upright_vectors(quarter_turns: int, panning: Scene, tmp_path: Path) -> None:
    path = encode(tmp_path / "turned.mp4", panning.frames, "mpeg4", qmin="2", qmax="2")
    plain = read_motion_vectors(path)
    set_rotation(path, quarter_turns)
    turned = read_motion_vectors(path)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == -90 * quarter_turns % 360
    sides = (128, 96) if quarter_turns % 2 else (96, 128)
    assert (turned.height, turned.width) == sides
    # np.rot90 turns the other way; one quarter turn clockwise takes the vector (x, y) to (-y, x).
    matrix = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarter_turns)
    expected = np.einsum("ab,tbij->taij", matrix, np.rot90(plain.vectors, -quarter_turns, axes=(2, 3)))
    known = turned.coded & np.rot90(plain.coded, -quarter_turns, axes=(1, 2))
    # The grid's pixel 4 + 8j is not in the middle of its cell, so single cells differ.
    same = np.isclose(turned.vectors, expected, atol=0.3).all(axis=1)[known]
    assert same.mean() > 0.8 and known.mean() > 0.6


def set_rotation(path: Path, quarter_turns: int) -> None:
    """Write a clockwise rotation into an mp4's track header (ISO 14496-12, 8.3.2), where phones put it."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns]
    values = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in values)
    path.write_bytes(content)


def test_a_codec_without_vectors_is_refused(panning: Scene, tmp_path: Path) -> None:
    for suffix, codec in (("webm", "libvpx-vp9"), ("avi", "mjpeg"), ("mp4", "libx265")):
        path = encode(tmp_path / f"x.{suffix}", panning.frames[:3], codec)
        with pytest.raises(BadInput, match="gives no motion vectors"):
            read_motion_vectors(path)
    every_picture_alone = encode(tmp_path / "intra.mp4", panning.frames[:3], "mpeg4", g="1")
    with pytest.raises(BadInput, match="all pictures are intra-coded"):
        read_motion_vectors(every_picture_alone)
    nothing = tmp_path / "nothing.mp4"
    nothing.write_bytes(b"not a video")
    with pytest.raises(BadInput, match="cannot be decoded"):
        read_motion_vectors(nothing)
    tiny = encode(tmp_path / "tiny.mp4", panning.frames[:3, :6, :32].copy(), "mpeg4")
    with pytest.raises(BadInput, match="32x6 are smaller than a grid cell"):
        read_motion_vectors(tiny)
    one = read_motion_vectors(encode(tmp_path / "one.mp4", panning.frames[:1], "mpeg4"))
    assert one.vectors.shape == (0, 2, 12, 16)
    assert trajectories_from_motion_vectors(one)[0].shape == (12, 0, 12, 16)


def test_which_pictures_are_predicted_from_which() -> None:
    # I B P B B P in display order; no B-picture is a reference.
    kinds = "IBPBBP"
    order = decoding_order(kinds)
    assert order == [0, 2, 1, 4, 5, 3]
    past, future = reference_distances(kinds, order, [k != "B" for k in kinds])
    assert past == [0, 1, 2, 1, 2, 3]
    assert future == [0, 1, 0, 2, 1, 0]
    # A pyramid: I b B b P, decoded I P B b b, the middle B a reference.
    past, future = reference_distances("IBBBP", [0, 3, 2, 4, 1], [True, False, True, False, True])
    assert past == [0, 1, 2, 1, 4]
    assert future == [0, 1, 2, 1, 0]


def test_nal_units_mark_reference_pictures() -> None:
    avcc = bytes([1, 0, 0, 0, 0xFF])
    sei, slice_kept, slice_dropped = b"\x06\x01\x02", b"\x41\x9a\x00", b"\x01\x9e\x00"
    for unit, expected in ((slice_kept, True), (slice_dropped, False)):
        lengths = b"".join(len(u).to_bytes(4, "big") + u for u in (sei, unit))
        assert h264_is_reference(lengths, avcc) is expected
        assert h264_is_reference(b"\0\0\0\1" + sei + b"\0\0\1" + unit, None) is expected


def test_upsampling_is_exact_on_the_grid() -> None:
    cells = np.random.default_rng(1).normal(0, 3, (2, 2, 5, 7)).astype(np.float32)
    whole = upsampled(cells, 45, 61)
    np.testing.assert_allclose(whole[:, :, 4:44:8, 4:60:8], cells, atol=1e-5)
    np.testing.assert_allclose(whole[:, :, 4, 8], (cells[:, :, 0, 0] + cells[:, :, 0, 1]) / 2, atol=1e-5)


@pytest.mark.slow
def test_real_clips_agree_with_optical_flow(demo_clips: Path) -> None:
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for name in ("street/bikes.mp4", "animation/bigbuckbunny.mp4"):
        path = demo_clips / name
        vectors = read_motion_vectors(path)
        capture = cv2.VideoCapture(str(path))
        frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(40)]
        pairs = itertools.pairwise(frames)
        flow = np.stack([dis.calc(a, b, None).transpose(2, 0, 1) for a, b in pairs])[:, :, 4::8, 4::8]
        known = vectors.coded[:39]
        found, expected = vectors.vectors[:39], flow[:, :, : known.shape[1], : known.shape[2]]
        error = np.linalg.norm(found - expected, axis=1)[known].mean()
        still = np.linalg.norm(expected, axis=1)[known].mean()
        backwards = np.linalg.norm(found + expected, axis=1)[known].mean()
        assert error < 0.5 * still < 0.5 * backwards, f"{name}: {error=:.2f} {still=:.2f} {backwards=:.2f}"
