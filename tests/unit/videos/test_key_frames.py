"""Frames found by the index of key frames: against the frames decoded from the start."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from m3flow.errors import BadInput, UsageError
from m3flow.videos import key_frames as module
from m3flow.videos import torchcodec_frames
from m3flow.videos.decoder import Decoder
from m3flow.videos.frames import Frames, colour_frames
from m3flow.videos.key_frames import KeyFrames, chosen_frames, index_key_frames
from support.clips import image_folder, moving_texture, write_video
from support.paths import SHARED_DATA

NO_INDEX = {
    "corrupted.mp4": "a packet does not decode",
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": "packets of two frames",
    "TrumanShow_wave_f_nm_np1_fr_med_26.avi": "packets of two frames",
}
CLIPS = (
    sorted(
        path
        for folder in ("videos", "odd", "track_gt")
        for path in (SHARED_DATA / folder).rglob("*")
        if path.is_file() and path.suffix not in (".gz", ".csv")
    )
    if SHARED_DATA.is_dir()
    else []
)


def index_of(path: Path) -> KeyFrames | None:
    frames = Frames(path)
    for _ in frames:
        pass
    return KeyFrames.from_stored(index_key_frames(str(path), frames.milliseconds))


def draws(count: int) -> list[list[int]]:
    """Clips of a video: at its start and end, in order, with gaps, beyond the end."""
    random = np.random.default_rng(count)
    fixed = [[0], [count - 1], [count - 1, count, count + 5], list(range(0, count, 7))[:6]]
    starts = random.integers(0, count, 5)
    return [*fixed, *(list(range(start, min(count, start + 48), 4)) for start in starts)]


def same(path: Path, numbers: list[int], index: KeyFrames | None) -> bool:
    found = chosen_frames(str(path), numbers, index)
    expected = list(colour_frames(path, numbers))
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.mark.skipif(not CLIPS, reason="../shared/data is not there")
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_real_clips_give_the_frames_decoded_from_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        index = index_of(path)
    except BadInput:
        pytest.skip("no frame decodes")
    assert (index is None) == (path.name in NO_INDEX)
    if index is None:
        assert same(path, [0, 3], None)
        return
    count = len(index.times)
    clips = draws(count) if count < 150 or path.suffix == ".avi" else draws(count)[3:7]
    expected = [list(colour_frames(path, clip)) for clip in clips]
    # Whatever does not come by a seek would be decoded from the start, and prove nothing.
    monkeypatch.setattr(module, "colour_frames", lambda *_: pytest.fail("decoded from the start"))
    for clip, pictures in zip(clips, expected, strict=True):
        found = chosen_frames(str(path), clip, index)
        assert len(found) == len(pictures) and all(map(np.array_equal, found, pictures)), clip


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 frames with B-pictures and a key frame every 24."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    frames = moving_texture(240, 48, 64, dx=0.5, dy=0.25)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(25), options={"bf": "3", "g": "24", "b_strategy": "0"}
        )
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuv420p"))
            )
        container.mux(stream.encode(None))
    return path


def test_the_index_is_small_and_comes_back(film: Path) -> None:
    index = index_of(film)
    assert index is not None and index.keys == list(range(0, 240, 24))
    stored = index.stored()
    assert [count for _, count in stored["spacings"]] == [239] and stored["keys"] == [[24, 9]]
    assert KeyFrames.from_stored(stored) == index
    for nothing in (None, {}, {"start": 0}, {"start": "x", "spacings": [], "keys": []}):
        assert KeyFrames.from_stored(nothing) is None


@pytest.mark.parametrize("clip", [[0], [239], [100, 104, 108], [23, 24, 25], [5, 60, 235], [230, 238, 250]])
def test_only_what_is_needed_is_decoded(film: Path, clip: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(film)
    expected = list(colour_frames(film, clip))
    monkeypatch.setattr(module, "colour_frames", lambda *_: pytest.fail("decoded from the start"))
    found = chosen_frames(str(film), clip, index)
    assert len(found) == len(expected) and all(map(np.array_equal, found, expected))


def test_segments_seek_where_it_saves_frames() -> None:
    index = KeyFrames(list(range(100)), [0, 10, 20, 30, 90])
    assert list(index.segments([3, 5, 12, 35, 91, 99])) == [(0, [3, 5, 12]), (30, [35]), (90, [91, 99])]
    assert list(index.segments([])) == []


def test_another_video_than_the_indexed_is_decoded_from_its_start(film: Path, tmp_path: Path) -> None:
    index = index_of(film)
    slower = write_video(
        tmp_path / "slower.mp4", moving_texture(60), rate=7, codec="mpeg4", pix_fmt="yuv420p"
    )
    assert same(slower, [3, 11, 50], index)
    assert same(image_folder(tmp_path / "images", moving_texture(9)), [2, 5], None)
    with pytest.raises(BadInput, match="no such file"):
        chosen_frames(str(tmp_path / "gone.mp4"), [1], index)


def test_a_decoder_makes_the_index_where_it_is_asked_to(film: Path) -> None:
    for indexed in (True, False):
        with Decoder(indexed=indexed) as decoder:
            decoded = decoder.open(str(film))
            for _ in decoded.blocks:
                pass
        assert KeyFrames.from_stored(decoded.key_frames) == (index_of(film) if indexed else None)


@pytest.fixture
def torchcodec() -> None:
    """Skips where torchcodec cannot be loaded, with the reason."""
    try:
        module.require_reader("torchcodec")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(not CLIPS, reason="../shared/data is not there")
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
@pytest.mark.usefixtures("torchcodec")
def test_torchcodec_gives_the_same_frames(path: Path) -> None:
    try:
        index = index_of(path)
    except BadInput:
        pytest.skip("no frame decodes")
    count = len(index.times) if index else 9
    for clip in draws(count)[2:6]:
        found = chosen_frames(str(path), clip, index, "torchcodec")
        expected = list(colour_frames(path, clip))
        assert len(found) == len(expected) and all(map(np.array_equal, found, expected)), clip


@pytest.mark.usefixtures("torchcodec")
def test_torchcodec_decodes_where_it_is_asked_to(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, clip = index_of(film), [23, 27, 31, 130]
    expected = list(colour_frames(film, clip))
    monkeypatch.setattr(module, "_sought", lambda *_: pytest.fail("decoded by PyAV"))
    found = chosen_frames(str(film), [*clip, 300], index, "torchcodec")
    assert len(found) == len(expected) and all(map(np.array_equal, found, expected))


class OtherFrames:
    """Stands for a decoder of torchcodec that takes another stream, or makes other colours."""

    def __init__(self, count: int, pixel_format: str, codec: str) -> None:
        self.count, self.metadata = count, SimpleNamespace(pixel_format=pixel_format, codec=codec)

    def __call__(self, *_: object, **__: object) -> OtherFrames:
        return self

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize(
    "about", [(239, "yuv420p", "h264"), (240, "yuv420p10le", "h264"), (240, "yuv420p", "mpeg4")]
)
def test_pyav_takes_over_what_torchcodec_reads_otherwise(
    about: tuple[int, str, str], film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchcodec_frames, "video_decoder", lambda: OtherFrames(*about))
    found = chosen_frames(str(film), [7, 9], index_of(film), "torchcodec")
    assert all(map(np.array_equal, found, colour_frames(film, [7, 9]))) and len(found) == 2


def test_an_unusable_reader_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown reader 'decord'; choose from pyav, torchcodec"):
        module.require_reader("decord")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UsageError, match=r"torchcodec cannot be loaded .*; install it for your torch, or"):
        module.require_reader("torchcodec")
