"""Decoding in a separate process: its frames, its limits, and the effect of a bad video on the next one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from m3flow.errors import BadInput, UsageError
from m3flow.videos.decoder import Decoder, Limits
from m3flow.videos.decoder_process import COUNT
from m3flow.videos.frame_ring import SLOTS, FrameReader, FrameWriter, block_frames
from m3flow.videos.frames import Frames
from m3flow.videos.resize import KEPT, Resize
from support.clips import clip, image_folder, moving_texture, write_video


@pytest.fixture(scope="module")
def shared_decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def pid(decoder: Decoder) -> int:
    assert decoder._child is not None
    return decoder._child.pid


def everything(decoder: Decoder, path: Path, resize: Resize = KEPT) -> np.ndarray:
    return np.concatenate(list(decoder.open(str(path), resize).blocks))


def stop(process: int) -> None:
    """Suspend a process and wait until it stops: from outside it looks like a decoder in an infinite loop."""
    os.kill(process, signal.SIGSTOP)
    while psutil.Process(process).status() != psutil.STATUS_STOPPED:
        os.sched_yield()


class TestDelivery:
    @pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 25])
    def test_all_frames_as_they_are(self, shared_decoder: Decoder, tmp_path: Path, count: int) -> None:
        frames = moving_texture(count, 33, 47)
        decoded = shared_decoder.open(str(write_video(tmp_path / "a.mkv", frames)))
        assert np.array_equal(np.concatenate(list(decoded.blocks)), frames)
        assert decoded.frames == count and decoded.seconds > 0
        assert (decoded.info.width, decoded.info.height, decoded.info.rate) == (47, 33, Fraction(25))

    def test_the_same_as_without_a_process(self, shared_decoder: Decoder, shared_data: Path) -> None:
        path = shared_data / "odd/nasa_13013_rotated.mp4"
        frames = Frames(path, Resize(100))
        decoded = shared_decoder.open(str(path), Resize(100))
        assert np.array_equal(np.concatenate(list(decoded.blocks)), np.stack(list(frames)))
        assert decoded.info == frames.info

    def test_one_process_for_many_videos_rejected_ones_among_them(
        self, shared_decoder: Decoder, tmp_path: Path
    ) -> None:
        good = clip(tmp_path / "good.mkv")
        first = everything(shared_decoder, good)
        process = pid(shared_decoder)
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        for name in ("bad.mp4", "missing.mp4", "."):
            with pytest.raises(BadInput) as caught:
                shared_decoder.open(str(tmp_path / name))
            assert "\n" not in str(caught.value)
            assert np.array_equal(everything(shared_decoder, good), first)
        assert pid(shared_decoder) == process

    def test_names_with_line_breaks_and_bytes_that_are_no_text(
        self, shared_decoder: Decoder, tmp_path: Path
    ) -> None:
        for name in ("two\nlines.mkv", "q\"'é.mkv"):
            clip(tmp_path / "a.mkv", 3).rename(tmp_path / name)
            assert len(everything(shared_decoder, tmp_path / name)) == 3
        no_text = clip(tmp_path / "a.mkv", 3).rename(tmp_path / os.fsdecode(b"latin\xe9.mkv"))
        with pytest.raises(BadInput, match=r"the name '.*latin\\udce9.mkv' is not UTF-8 text"):
            shared_decoder.open(str(no_text))

    def test_the_reason_says_how_far_it_came(self, shared_decoder: Decoder, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "clip", moving_texture(12))
        (folder / "frame_00010.png").write_bytes(b"damaged")
        decoded = shared_decoder.open(str(folder))
        with pytest.raises(BadInput, match=r"not a readable image: .*frame_00010\.png.* \(after 9 frames\)"):
            list(decoded.blocks)
        assert len(everything(shared_decoder, clip(tmp_path / "good.mkv", 4))) == 4

    def test_a_module_of_the_users_folder_is_not_taken_for_ours(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = clip(tmp_path / "a.mkv", 3)
        for name in ("json", "cv2", "statistics", "m3flow"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
        monkeypatch.chdir(tmp_path)
        with Decoder() as decoder:
            assert len(everything(decoder, path)) == 3


class TestAhead:
    def test_the_next_is_decoded_while_this_one_is_read(self, tmp_path: Path) -> None:
        videos = [moving_texture(20, 48, 64, seed=seed) for seed in range(3)]
        paths = [str(write_video(tmp_path / f"{n}.mkv", frames)) for n, frames in enumerate(videos)]
        with Decoder() as decoder:
            decoder.expect(paths[0])
            for number, frames in enumerate(videos):
                decoded = decoder.open(paths[number])
                if number < 2:
                    decoder.expect(paths[number + 1])
                assert np.array_equal(np.concatenate(list(decoded.blocks)), frames)

    def test_another_than_the_expected_one(self, tmp_path: Path) -> None:
        frames = moving_texture(20)
        wanted, other = (write_video(tmp_path / f"{name}.mkv", frames) for name in "ab")
        with Decoder() as decoder:
            decoder.expect(str(other))
            decoder.expect(str(other))
            assert np.array_equal(everything(decoder, wanted), frames)
            decoder.expect(str(other), Resize(24))
            assert np.array_equal(everything(decoder, other), frames)

    def test_suspended_with_its_memory_full_and_taken_up_again(self, tmp_path: Path) -> None:
        # As with Slurm suspending jobs, and Ctrl-Z: what it waits in is interrupted.
        frames = moving_texture(200, 128, 160)
        with Decoder() as decoder:
            decoded = decoder.open(str(write_video(tmp_path / "a.mkv", frames)))
            child = psutil.Process(pid(decoder))
            waiting = bytearray(4)
            announced = SLOTS * COUNT.size
            while child.status() != psutil.STATUS_SLEEPING or int.from_bytes(waiting, "little") < announced:
                fcntl.ioctl(decoder._pipe(), termios.FIONREAD, waiting)
            stop(child.pid)
            child.resume()
            assert np.array_equal(np.concatenate(list(decoded.blocks)), frames)


class TestLeftInTheMiddle:
    def test_the_next_video_is_not_disturbed(self, tmp_path: Path) -> None:
        long = write_video(tmp_path / "long.mkv", moving_texture(120, 64, 64))
        short = clip(tmp_path / "short.mkv", 5)
        with Decoder() as decoder:
            blocks = decoder.open(str(long)).blocks
            next(blocks)
            # Still referenced, as by an error's traceback, so that nothing has closed it.
            assert np.array_equal(everything(decoder, short), moving_texture(5))
            process = pid(decoder)
            with pytest.raises(RuntimeError, match="another video was opened"):
                next(blocks)
            del blocks
            assert len(everything(decoder, short)) == 5
            assert pid(decoder) == process

    def test_closing_it_while_the_next_is_read(self, tmp_path: Path) -> None:
        long = write_video(tmp_path / "long.mkv", moving_texture(120, 64, 64))
        with Decoder() as decoder:
            left = decoder.open(str(long)).blocks
            next(left)
            second = decoder.open(str(long)).blocks
            frames = [next(second)]
            left.close()  # type: ignore[attr-defined]
            frames += second
            assert sum(map(len, frames)) == 120

    def test_opened_and_never_read(self, tmp_path: Path) -> None:
        path = clip(tmp_path / "a.mkv", 5)
        with Decoder() as decoder:
            for _ in range(3):
                decoder.open(str(path))
            assert len(everything(decoder, path)) == 5


class TestLimits:
    def test_a_decoder_that_hangs_is_ended(self, tmp_path: Path) -> None:
        path = clip(tmp_path / "a.mkv")
        with Decoder() as decoder:
            everything(decoder, path)
            process = pid(decoder)
            stop(process)
            decoder.limits = Limits(seconds=0.3)  # after the startup
            with pytest.raises(BadInput, match=r"hangs: no frame for 0\.3 s after 0 frames"):
                decoder.open(str(path))
            assert not psutil.pid_exists(process)

    def test_a_file_that_never_gives_its_data(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "clip", moving_texture(12))
        (folder / "frame_00010.png").unlink()
        os.mkfifo(folder / "frame_00010.png")  # reading it blocks forever
        path = clip(tmp_path / "a.mkv", 4)
        with Decoder() as decoder:
            everything(decoder, path)
            decoder.limits = Limits(seconds=3)
            with pytest.raises(BadInput, match="hangs: no frame for 3 s after 9 frames"):
                everything(decoder, folder)
            decoder.limits = Limits()
            assert len(everything(decoder, path)) == 4

    def test_more_frames_than_allowed(self, tmp_path: Path) -> None:
        path = clip(tmp_path / "a.mkv", 20)
        with Decoder(Limits(frames=19)) as decoder, pytest.raises(BadInput, match="more than 19 frames"):
            everything(decoder, path)
        with Decoder(Limits(frames=20)) as decoder:
            assert len(everything(decoder, path)) == 20

    def test_larger_frames_than_allowed(self, tmp_path: Path) -> None:
        large, small = clip(tmp_path / "large.mkv", 3, 120, 160), clip(tmp_path / "small.mkv", 3)
        with Decoder(Limits(megapixels=0.01)) as decoder:
            with pytest.raises(BadInput, match=r"160x120 are larger than limits\.megapixels"):
                decoder.open(str(large))
            assert len(everything(decoder, small)) == 3

    def test_more_memory_than_allowed(self, tmp_path: Path) -> None:
        large = write_video(tmp_path / "large.mkv", np.zeros((1, 5000, 5000), np.uint8))
        small = clip(tmp_path / "small.mkv", 3)
        with Decoder(Limits(memory_gb=0.55)) as decoder:
            with pytest.raises(BadInput):
                everything(decoder, large)
            assert len(everything(decoder, small)) == 3

    @pytest.mark.parametrize("name", ["seconds", "frames", "megapixels", "memory_gb"])
    @pytest.mark.parametrize("value", [0, -1, float("nan")])
    def test_limits_that_allow_nothing(self, name: str, value: float) -> None:
        with pytest.raises(UsageError, match=rf"{name} is"):
            Limits(**{name: value})


class TestDeath:
    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
    def test_a_crash_rejects_the_video_and_the_next_gets_a_new_process(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        path = write_video(tmp_path / "a.mkv", moving_texture(400, 64, 64))
        with Decoder() as decoder:
            decoded = decoder.open(str(path))
            next(decoded.blocks)
            process = pid(decoder)
            os.kill(process, number)
            with pytest.raises(BadInput, match=rf"the decoder crashed \({number.name}\) after \d+ frames"):
                list(decoded.blocks)
            assert len(everything(decoder, path)) == 400
            assert pid(decoder) != process

    def test_killed_from_outside_is_our_failure_and_not_the_videos(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mkv", moving_texture(400, 64, 64))
        with Decoder() as decoder:
            decoded = decoder.open(str(path))
            next(decoded.blocks)
            os.kill(pid(decoder), signal.SIGKILL)
            with pytest.raises(RuntimeError, match=r"the decoding process ended \(status -9\)"):
                list(decoded.blocks)
            assert len(everything(decoder, path)) == 400

    def test_killed_between_two_videos_costs_nothing(self, tmp_path: Path) -> None:
        path = clip(tmp_path / "a.mkv", 5)
        with Decoder() as decoder:
            everything(decoder, path)
            os.kill(pid(decoder), signal.SIGKILL)
            os.waitid(os.P_PID, pid(decoder), os.WEXITED | os.WNOWAIT)  # exited, and not reaped yet
            assert len(everything(decoder, path)) == 5

    def test_closing_leaves_no_process(self, tmp_path: Path) -> None:
        with Decoder() as decoder:
            next(decoder.open(str(clip(tmp_path / "a.mkv", 200))).blocks)
            process = pid(decoder)
        assert not psutil.pid_exists(process)

    def test_it_ends_with_its_parent_even_inside_a_library(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "clip", moving_texture(3))
        (folder / "frame_00000.png").unlink()
        os.mkfifo(folder / "frame_00000.png")
        program = (
            "import sys; from m3flow.videos.decoder import Decoder\n"
            "decoder = Decoder(); decoder.start(); print(decoder._child.pid, flush=True)\n"
            "decoder.open(sys.argv[1])"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            # Opening the pipe for writing succeeds once the child reads from it, inside the library.
            with (folder / "frame_00000.png").open("wb"):
                parent.kill()
                parent.wait()
                _, alive = psutil.wait_procs([child], timeout=20)
                left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert not left


class TestFrameRing:
    def test_blocks_come_as_they_were_put_over_several_videos(self) -> None:
        random = np.random.default_rng(0)
        reader = FrameReader()
        writer = FrameWriter(os.dup(reader.inherited[0]), os.dup(reader.inherited[1]))
        reader.started()
        for shape in ((48, 64), (6, 5, 3), (1024, 2048), (48, 64, 4)):
            writer.begin(shape)
            reader.begin(shape)
            for _ in range(3):
                # As many as fit, before any is read; then one after the other.
                blocks = [
                    random.integers(0, 255, (n, *shape), np.uint8) for n in (1, *[block_frames(shape)] * 3)
                ]
                for block in blocks:
                    writer.put(list(block))
                for block in blocks:
                    assert np.array_equal(reader.take(len(block)), block)
        reader.close()

    def test_large_frames_take_few_to_a_block(self) -> None:
        assert [block_frames(shape) for shape in ((240, 320), (1080, 1920), (2160, 3840, 3))] == [8, 2, 1]

    def test_the_child_cannot_take_memory_away(self) -> None:
        reader = FrameReader()
        reader.begin((8, 8))
        with pytest.raises(PermissionError):
            os.ftruncate(reader.inherited[0], 0)
        reader.started()
        reader.close()

    def test_a_child_whose_parent_is_gone_stops_waiting(self) -> None:
        reader = FrameReader()
        writer = FrameWriter(os.dup(reader.inherited[0]), os.dup(reader.inherited[1]))
        reader.started()
        writer.begin((8, 8))
        for _ in range(SLOTS):
            writer.put([np.zeros((8, 8), np.uint8)])
        reader.close()
        with pytest.raises(BrokenPipeError):
            writer.put([np.zeros((8, 8), np.uint8)])


def test_a_process_that_cannot_start_leaves_no_descriptors_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object, **_options: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("m3flow.videos.decoder.subprocess.Popen", refused)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            Decoder().start()
    assert len(os.listdir("/proc/self/fd")) == len(before)
