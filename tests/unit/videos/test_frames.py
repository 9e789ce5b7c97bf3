"""Frames of videos and image folders: number, size, rate, and rejected files."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from m3flow.errors import BadInput
from m3flow.videos.frames import Frames, colour_frames
from m3flow.videos.identity import identity
from m3flow.videos.resize import Resize
from support.clips import image_folder, moving_texture, write_video


def listed_clips(shared_data: Path) -> list[dict[str, str]]:
    """The rows of the table in the shared data's README that are videos."""
    lines = (shared_data / "README.md").read_text().splitlines()
    rows = [line.removeprefix("|").removesuffix("|").split("|") for line in lines if line.startswith("|")]
    head = next(row for row in rows if row[0].strip() == "file")
    names = [cell.strip() for cell in head]
    table = [dict(zip(names, (cell.strip() for cell in row), strict=True)) for row in rows if "`" in row[0]]
    return [row for row in table if row["decodes"]]


def test_as_many_frames_as_decode_on_every_real_clip(shared_data: Path) -> None:
    clips = listed_clips(shared_data)
    assert len(clips) >= 24
    refused = []
    for row in clips:
        path = shared_data / row["file"].strip("`")
        expected = int(row["decodes"])
        if expected == 0:
            with pytest.raises(BadInput) as caught:
                Frames(path)
            assert path.name in str(caught.value) and "\n" not in str(caught.value)
            refused.append(path.name)
            continue
        frames = Frames(path)
        sizes = {(frame.shape, frame.dtype.name) for frame in frames}
        frames = Frames(path)
        assert sum(1 for _ in frames) == expected, path.name
        width, height = (int(number) for number in row["size"].split("x"))
        if row["rotation"]:
            width, height = height, width
        assert (frames.info.width, frames.info.height) == (width, height), path.name
        assert sizes == {((height, width), "uint8")}, path.name
        assert float(frames.info.rate) == pytest.approx(float(Fraction(row["fps"])), rel=1e-4), path.name
    assert sorted(refused) == ["nokia-tune.mkv", "smallville.s03e02.avi"]


def test_the_headers_frame_count_is_reported_and_not_trusted(shared_data: Path) -> None:
    clip = shared_data / "videos/hmdb51/videos/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    frames = Frames(clip)
    assert frames.info.claimed == 49 and sum(1 for _ in frames) == 48
    with pytest.raises(BadInput, match=r"no frame of .* decodes \(its header claims 63324\)"):
        Frames(shared_data / "odd/smallville.s03e02.avi")
    assert Frames(shared_data / "odd/no_duration.webm").info.claimed == 0


def test_rotation_is_applied(shared_data: Path) -> None:
    upright, turned = (Frames(shared_data / "odd" / name) for name in ("video_0.mov", "video_90.mov"))
    assert (upright.info.width, upright.info.height) == (568, 320)
    assert (turned.info.width, turned.info.height) == (320, 568)
    # Compared with PyAV, which gives the coded picture and the counterclockwise rotation in the file.
    with av.open(str(shared_data / "odd/video_90.mov")) as container:
        coded = next(container.decode(video=0))
        expected = np.rot90(coded.to_ndarray(format="gray"), coded.rotation // 90)
    assert np.abs(next(iter(turned)).astype(int) - expected).mean() < 2


def test_frames_are_what_was_written(tmp_path: Path) -> None:
    frames = moving_texture(7, 33, 47)
    read = Frames(write_video(tmp_path / "a.mkv", frames, Fraction(30000, 1001)))
    assert read.info.rate == Fraction(30000, 1001)
    assert np.array_equal(np.stack(list(read)), frames)


@pytest.mark.parametrize(
    "rate", [24, 25, 30, 50, 60, Fraction(24000, 1001), Fraction(60000, 1001), Fraction(25, 2)]
)
def test_rates_come_back_exactly(tmp_path: Path, rate: Fraction) -> None:
    assert Frames(write_video(tmp_path / "a.mkv", moving_texture(5), rate)).info.rate == rate


def test_colour_becomes_the_grey_of_opencv(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "a.png"), picture)
    grey = next(iter(Frames(tmp_path / "frames")))
    assert np.abs(grey.astype(int) - cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)).max() <= 1


class TestImageFolders:
    def test_sorted_by_name(self, tmp_path: Path) -> None:
        frames = moving_texture(12)
        folder = image_folder(tmp_path / "clip", frames)
        (folder / "frame_00003.txt").write_text("not an image")
        (folder / "notes").mkdir()
        read = Frames(folder)
        assert np.array_equal(np.stack(list(read)), frames)
        assert (read.info.claimed, read.info.codec, read.info.rate) == (12, "images", 25)

    def test_names_that_programs_stumble_over(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "frames %03d [x] é", moving_texture(2))
        (folder / "frame_00000.png").rename(folder / "-a é\n%02d.PNG")
        assert sum(1 for _ in Frames(folder)) == 2

    def test_the_hidden_doubles_of_other_systems_are_no_frames(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "clip", moving_texture(3))
        before = identity(folder)
        (folder / "._frame_00000.png").write_bytes(b"\0\5\x16\7 resource fork")
        assert sum(1 for _ in Frames(folder)) == 3
        assert identity(folder) == before

    def test_other_sizes_take_that_of_the_first(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "clip", moving_texture(3, 40, 60))
        cv2.imwrite(str(folder / "frame_00001.png"), np.full((80, 120), 7, np.uint8))
        cv2.imwrite(str(folder / "frame_00002.png"), np.full((60, 20), 9, np.uint8))
        read = list(Frames(folder))
        assert [frame.shape for frame in read] == [(40, 60)] * 3
        assert (read[1] == 7).all() and (read[2] == 9).all()

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
    def test_a_damaged_image_is_named(self, tmp_path: Path, content: bytes) -> None:
        folder = image_folder(tmp_path / "clip", moving_texture(3))
        (folder / "frame_00001.png").write_bytes(content)
        with pytest.raises(BadInput, match=r"not a readable image: .*frame_00001\.png"):
            list(Frames(folder))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no frame images in the folder"):
            Frames(tmp_path)


class TestResize:
    @pytest.mark.parametrize(
        ("size", "resize", "expected"),
        [
            ((48, 64), Resize(24), (24, 32)),
            ((64, 48), Resize(24), (32, 24)),
            ((48, 64), Resize(0), (48, 64)),
            ((33, 65), Resize(32), (32, 63)),
            ((48, 64), Resize(long_side=32), (24, 32)),
            ((65, 33), Resize(long_side=130), (130, 66)),
            ((48, 64), Resize(size="40x36"), (36, 40)),
        ],
    )
    def test_sides_are_exact(
        self, tmp_path: Path, size: tuple[int, int], resize: Resize, expected: tuple[int, int]
    ) -> None:
        read = Frames(write_video(tmp_path / "a.mkv", moving_texture(4, *size)), resize)
        assert [frame.shape for frame in read] == [expected] * 4
        assert (read.info.height, read.info.width) == expected

    def test_it_is_the_mean_of_the_pixels_it_covers(self, tmp_path: Path) -> None:
        frames = moving_texture(2, 48, 64)
        small = next(iter(Frames(write_video(tmp_path / "a.mkv", frames), Resize(24))))
        means = frames[0].reshape(24, 2, 32, 2).mean(axis=(1, 3))
        assert np.abs(small - means).max() <= 0.5


class TestRefused:
    def test_one_line_each_with_the_name(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "text.avi").write_text("hello\n" * 1000)
        (tmp_path / "zeros.mp4").write_bytes(bytes(100_000))
        os.mkfifo(tmp_path / "pipe.mp4")
        for name in ("missing.mp4", "empty.mp4", "text.avi", "zeros.mp4", "pipe.mp4"):
            with pytest.raises(BadInput) as caught:
                Frames(tmp_path / name)
            assert name in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
    def test_a_truncated_file_gives_frames_or_is_refused(
        self, shared_data: Path, tmp_path: Path, share: float
    ) -> None:
        whole = (
            shared_data / "videos/UCF101/UCF-101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi"
        ).read_bytes()
        (tmp_path / "a.avi").write_bytes(whole[: int(share * len(whole))])
        assert 1 <= sum(1 for _ in Frames(tmp_path / "a.avi")) < 240
        mp4 = (shared_data / "odd/mp4-basic.mp4").read_bytes()
        (tmp_path / "a.mp4").write_bytes(mp4[: int(share * len(mp4))])
        try:
            count = sum(1 for _ in Frames(tmp_path / "a.mp4"))
        except BadInput as error:
            assert re.search(r"not a video|no frame of", str(error))
        else:
            assert 1 <= count <= 104

    @pytest.mark.parametrize(
        "name", ["-i.mkv", "%03d.mkv", "file:x.mkv", "a b'\"é.mkv", "concat:a|b.mkv", "a\nb.mkv"]
    )
    def test_names_that_ffmpeg_takes_for_something_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        write_video(tmp_path / "plain.mkv", moving_texture(3)).rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert sum(1 for _ in Frames(name)) == 3


class TestIdentity:
    def test_it_survives_a_copy_and_sees_another_content(self, tmp_path: Path) -> None:
        one = write_video(tmp_path / "one.mkv", moving_texture(9))
        copy = tmp_path / "elsewhere" / "copy.mkv"
        copy.parent.mkdir()
        copy.write_bytes(one.read_bytes())
        os.utime(copy, (1, 1))
        assert identity(one) == identity(copy)
        for position in (0, len(copy.read_bytes()) // 2, -1):
            data = bytearray(one.read_bytes())
            data[position] ^= 1
            copy.write_bytes(data)
            assert identity(one) != identity(copy)

    def test_the_middle_of_a_large_file_is_looked_at(self, tmp_path: Path) -> None:
        large = tmp_path / "large.mp4"
        large.write_bytes(bytes(300_000))
        before = identity(large)
        data = bytearray(300_000)
        data[150_000] = 1
        large.write_bytes(data)
        assert identity(large) != before and identity(large)["bytes"] == 300_000

    def test_of_a_folder_names_sizes_and_contents_count(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "a", moving_texture(3))
        before = identity(folder)
        assert identity(image_folder(tmp_path / "b", moving_texture(3))) == before
        (folder / "frame_00002.png").rename(folder / "frame_00009.png")
        assert identity(folder) != before
        assert identity(image_folder(tmp_path / "c", moving_texture(3, seed=1))) != before

    def test_what_cannot_be_read_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for a writer forever
        for name in ("pipe.mp4", "missing.mp4", "x" * 300):
            with pytest.raises(BadInput):
                identity(tmp_path / name)
        with pytest.raises(BadInput):
            identity("/dev/zero")


def test_colour_frames_are_those_that_reading_all_of_them_gives(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "bgr0"
        for picture in colours:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "images").mkdir()
    for number, picture in enumerate(colours):
        (tmp_path / f"images/{number}.png").write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    for source in (tmp_path / "a.mkv", tmp_path / "images"):
        np.testing.assert_array_equal(list(colour_frames(source, {4, 1, 9})), colours[[1, 4]])
        assert [frame.shape for frame in colour_frames(source, [0], Resize(16))] == [(16, 24, 3)]
    with pytest.raises(BadInput, match="no such file"):
        list(colour_frames(tmp_path / "gone.mkv", [0]))
