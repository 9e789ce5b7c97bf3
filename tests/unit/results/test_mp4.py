"""Round trip of flow files, with our reader and other readers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from m3flow import load_flow
from m3flow.errors import BadInput, UsageError
from m3flow.results.forms import FORMS, quantisation_of
from m3flow.results.forms.mp4 import CODECS, Mp4Writer, read_levels
from m3flow.results.quantisation import quantise, restore
from m3flow.results.stored_flow import read_provenance
from support.flow_files import opencv_video, soft_levels

SIZES = [(48, 64), (241, 321), (17, 33), (33, 17)]  # height, width
PROVENANCE: dict[str, Any] = {"settings": {"bound": 20.0, "step": 1}, "source": {"bytes": 5, "sha256": "ab"}}


def all_levels(height: int, width: int, frames: int = 5) -> np.ndarray:
    """Every level next to every other, in x and differently in y: uint8 [F, 2, H, W]."""
    return np.random.default_rng(0).integers(0, 256, (frames, 2, height, width), np.uint8)


def write(
    folder: Path, levels: np.ndarray, codec: str, rate: Fraction | int = 25, made: Any = PROVENANCE
) -> Path:
    height, width = levels.shape[2:]
    with Mp4Writer(folder, codec=codec, rate=Fraction(rate), width=width, height=height) as writer:
        for start in range(0, len(levels), 2):
            writer.write(levels[start : start + 2])
        writer.close(made)
    return folder


def by_opencv(path: Path) -> np.ndarray:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY))
    return np.stack(frames)


def by_pyav(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def by_ffmpeg(path: Path) -> np.ndarray:
    if shutil.which("ffmpeg") is None:
        pytest.skip("the ffmpeg command is not on this machine")
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.frombuffer(raw, np.uint8).reshape(-1, stream.height, stream.width)


def by_us(path: Path) -> np.ndarray:
    return np.stack(list(read_levels(path)))


READERS = [by_us, by_opencv, by_pyav, by_ffmpeg]


class TestRoundTrip:
    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("size", SIZES)
    def test_lossless_levels_come_back_exactly(
        self, tmp_path: Path, reader: Callable[[Path], np.ndarray], size: tuple[int, int]
    ) -> None:
        levels = all_levels(*size)
        folder = write(tmp_path / "flow", levels, "h264-lossless")
        for channel, name in enumerate(("x.mp4", "y.mp4")):
            assert np.array_equal(reader(folder / name), levels[:, channel])

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("size", SIZES)
    def test_mpeg4_is_off_by_no_more_than_it_costs(
        self, tmp_path: Path, reader: Callable[[Path], np.ndarray], size: tuple[int, int]
    ) -> None:
        levels = soft_levels(*size)
        folder = write(tmp_path / "flow", levels, "mpeg4")
        for channel, name in enumerate(("x.mp4", "y.mp4")):
            read = reader(folder / name).astype(int)
            assert read.shape == levels[:, channel].shape
            error = np.abs(read - levels[:, channel])
            # Much of the smallest frames is the edge between object and background, which is the hardest to encode.
            assert error.mean() < (0.75 if min(size) > 40 else 1.5) and error.max() <= 32
            assert np.abs(read - by_us(folder / name)).max() <= 1  # no stretch, no shift

    @pytest.mark.parametrize("codec", ["mpeg4", "fine", "h264"])
    def test_every_reader_gets_the_same_levels(self, tmp_path: Path, codec: str) -> None:
        folder = write(tmp_path / "flow", soft_levels(96, 128, 16), codec)
        for name in ("x.mp4", "y.mp4"):
            ours = by_us(folder / name).astype(int)
            assert all(np.abs(reader(folder / name) - ours).max() <= 1 for reader in READERS)

    @pytest.mark.parametrize("codec", ["mpeg4", "fine", "h264"])
    def test_every_frame_is_a_key_frame(self, tmp_path: Path, codec: str) -> None:
        folder = write(tmp_path / "flow", soft_levels(48, 64, 20), codec)
        with av.open(str(folder / "x.mp4")) as container:
            assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)

    def test_fine_keeps_slow_motion_and_mpeg4_loses_it(self, tmp_path: Path) -> None:
        flow = np.full((6, 2, 48, 64), 0.06, np.float32)
        flow[:, 1] = -0.11
        read = {}
        for codec in ("mpeg4", "fine"):
            settings = {"codec": codec, "bound": 20.0}
            values = np.asarray(quantisation_of(settings).stored(flow))
            read[codec] = load_flow(write(tmp_path / codec, values, codec, made={"settings": settings}))
        assert np.abs(read["fine"] - flow).max() < 0.03
        assert not read["mpeg4"].any()

    @pytest.mark.parametrize("start", [0, 5, 12, 17])
    def test_files_with_predicted_frames_stay_readable(
        self, tmp_path: Path, start: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As files were written before every frame was a key frame."""
        monkeypatch.setitem(CODECS, "mpeg4", replace(CODECS["mpeg4"], key_frames=None))
        folder = write(tmp_path / "flow", soft_levels(48, 64, 20), "mpeg4")
        with av.open(str(folder / "x.mp4")) as container:
            assert not all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
        whole = restore(np.stack([by_pyav(folder / name) for name in ("x.mp4", "y.mp4")], 1), 20.0)
        assert np.abs(load_flow(folder, start, 18) - whole[start:18]).max() < 0.16

    def test_mpeg4_is_much_nearer_than_opencvs_own(self, tmp_path: Path) -> None:
        levels = soft_levels(192, 256, 24)
        folder = write(tmp_path / "flow", levels, "mpeg4", made={})
        ours, theirs = 0.0, 0.0
        for channel, name in enumerate(("x.mp4", "y.mp4")):
            path = opencv_video(tmp_path / name, levels[:, channel])
            ours += np.abs(by_opencv(folder / name).astype(int) - levels[:, channel]).mean()
            theirs += np.abs(by_opencv(path).astype(int) - levels[:, channel]).mean()
        assert ours < theirs / 4

    @pytest.mark.parametrize("codec", list(CODECS))
    def test_a_still_video_is_exactly_still(self, tmp_path: Path, codec: str) -> None:
        levels = quantise(np.zeros((30, 2, 48, 64), np.float32), 20.0)
        assert (load_flow(write(tmp_path / "flow", levels, codec)) == 0).all()

    @pytest.mark.parametrize("bound", [20.0, 7.5])
    def test_the_bound_is_in_the_file(self, tmp_path: Path, bound: float) -> None:
        levels = all_levels(16, 24)
        made = {"settings": {"bound": bound}}
        flow = load_flow(write(tmp_path / "flow", levels, "h264-lossless", made=made))
        assert flow.dtype == np.float32 and flow.shape == levels.shape
        assert np.array_equal(flow, restore(levels, bound))
        assert np.abs(flow).max() == pytest.approx(bound)

    @pytest.mark.parametrize("codec", list(CODECS))
    @pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), Fraction(12), Fraction(15001, 1000), 240])
    def test_the_rate(self, tmp_path: Path, codec: str, rate: Fraction) -> None:
        folder = write(tmp_path / "flow", all_levels(16, 24, 10), codec, rate)
        with av.open(str(folder / "x.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == rate and stream.frames == 10
        assert cv2.VideoCapture(str(folder / "y.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(
            float(rate), rel=1e-4
        )

    @pytest.mark.parametrize("codec", list(CODECS))
    def test_one_frame(self, tmp_path: Path, codec: str) -> None:
        assert load_flow(write(tmp_path / "flow", soft_levels(48, 64, 1), codec)).shape == (1, 2, 48, 64)

    def test_it_is_read_in_pieces(self, tmp_path: Path) -> None:
        levels = all_levels(16, 24, 35)
        folder = write(tmp_path / "flow", levels, "h264-lossless")
        pieces = list(FORMS["mp4"].read(folder))
        assert [len(piece) for piece in pieces] == [32, 3]
        assert np.array_equal(np.concatenate(pieces), levels)


class TestProvenance:
    def test_it_is_read_without_decoding(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "flow", all_levels(48, 64), "mpeg4")
        for name in ("x.mp4", "y.mp4"):
            made = read_provenance(folder / name)
            assert made["component"] == name[0]
            assert {key: made[key] for key in PROVENANCE} == PROVENANCE
        with av.open(str(folder / "x.mp4")) as container:  # anybody can read it
            assert json.loads(container.metadata["comment"])["settings"]["bound"] == 20.0

    def test_a_long_one_in_any_language(self, tmp_path: Path) -> None:
        made = {"homographies": "A" * 500_000, "name": 'é"\\\n' + "日本"}
        folder = write(tmp_path / "flow", all_levels(16, 24), "h264-lossless", made=made)
        read = read_provenance(folder / "x.mp4")
        assert {key: read[key] for key in made} == made

    def test_other_programs_files_say_nothing(self, tmp_path: Path) -> None:
        assert read_provenance(opencv_video(tmp_path / "x.mp4", all_levels(48, 64)[:, 0])) == {}


class TestForeignFiles:
    def test_opencvs_files_are_read_as_opencv_reads_them(self, tmp_path: Path) -> None:
        levels = soft_levels(48, 64)
        for channel, name in enumerate(("x.mp4", "y.mp4")):
            opencv_video(tmp_path / name, levels[:, channel])
        read = np.concatenate(list(FORMS["mp4"].read(tmp_path)))
        for channel, name in enumerate(("x.mp4", "y.mp4")):
            theirs = by_opencv(tmp_path / name).astype(int)
            assert np.abs(read[:, channel] - theirs).max() <= 2  # two roundings of one conversion
            assert np.abs(read[:, channel].astype(int) - levels[:, channel]).mean() < 1.5
        assert load_flow(tmp_path).shape == (6, 2, 48, 64)

    def test_a_still_one(self, tmp_path: Path) -> None:
        for name in ("x.mp4", "y.mp4"):
            opencv_video(tmp_path / name, np.full((5, 48, 64), 127, np.uint8))
        assert np.abs(load_flow(tmp_path)).max() <= 0.16  # a level


class TestDamage:
    @pytest.mark.parametrize("codec", list(CODECS))
    @pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, tmp_path: Path, codec: str, share: float) -> None:
        folder = write(tmp_path / "flow", all_levels(48, 64), codec)
        data = (folder / "y.mp4").read_bytes()
        (folder / "y.mp4").write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadInput, match=r"y\.mp4") as caught:
            load_flow(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["x.mp4", "y.mp4"])
    def test_a_missing_file(self, tmp_path: Path, name: str) -> None:
        folder = write(tmp_path / "flow", all_levels(16, 24), "mpeg4")
        (folder / name).unlink()
        with pytest.raises(BadInput, match=f"{name}: no such flow file"):
            load_flow(folder)

    def test_files_that_do_not_belong_together(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "flow", all_levels(16, 24, 5), "mpeg4")
        for other in (all_levels(16, 24, 4), all_levels(24, 16, 5)):
            shutil.copy(write(tmp_path / "other", other, "mpeg4") / "y.mp4", folder)
            with pytest.raises(BadInput, match="do not have the same frames"):
                load_flow(folder)

    def test_a_file_that_is_no_video(self, tmp_path: Path) -> None:
        for name in ("x.mp4", "y.mp4"):
            (tmp_path / name).write_text("hello")
        with pytest.raises(BadInput, match="not a readable flow file"):
            load_flow(tmp_path)
        with pytest.raises(BadInput, match="not a readable flow file"):
            read_provenance(tmp_path / "x.mp4")

    def test_frames_lost_in_the_middle(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "flow", all_levels(48, 64, 20), "h264-lossless")
        data = bytearray((folder / "x.mp4").read_bytes())
        data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
        (folder / "x.mp4").write_bytes(data)
        with pytest.raises(BadInput, match=r"x\.mp4"):
            load_flow(folder)


class TestNothingIsLeftBehind:
    def test_by_an_error(self, tmp_path: Path) -> None:
        with (
            pytest.raises(ZeroDivisionError),
            Mp4Writer(tmp_path / "f", codec="mpeg4", rate=Fraction(25), width=64, height=48) as writer,
        ):
            writer.write(all_levels(48, 64))
            raise ZeroDivisionError
        assert not list(tmp_path.rglob("*"))

    def test_by_an_error_while_closing(self, tmp_path: Path) -> None:
        before = write(tmp_path / "f", all_levels(16, 24), "mpeg4")
        contents = {path.name: path.read_bytes() for path in before.iterdir()}
        with (
            pytest.raises(TypeError),
            Mp4Writer(before, codec="mpeg4", rate=Fraction(25), width=24, height=16) as writer,
        ):
            writer.write(all_levels(16, 24))
            writer.close({"cannot be stored": object()})
        assert {path.name: path.read_bytes() for path in before.iterdir()} == contents

    def test_an_unknown_codec(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=r"unknown codec 'vp9'; choose from mpeg4, fine, h264, h264-lossless"
        ):
            Mp4Writer(tmp_path, codec="vp9", rate=Fraction(25), width=64, height=48)
