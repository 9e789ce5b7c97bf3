"""RAFT against torchvision's own call, with seeded random weights: those that are published need a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

import m3flow
from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.flow import ESTIMATORS, estimator
from m3flow.flow.base import in_grey
from m3flow.layout import Outputs
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.decoder import Decoder
from m3flow.videos.resize import Resize
from m3flow.videos.videolist import Video

UPDATES = 2


@pytest.fixture(scope="module")
def raft_models() -> object:
    from m3flow.flow import raft

    try:
        return raft.torchvision_flow()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def weights(raft_models: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of random weights for each size."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    files = {}
    for name in ("raft_small", "raft_large"):
        files[name] = folder / f"{name}.pth"
        torch.save(getattr(raft_models, name)().state_dict(), files[name])
    return files


def real_frames(count: int = 3, height: int = 131, width: int = 150) -> np.ndarray:
    """uint8 [F, H, W, 3] RGB: a photograph that is panned over."""
    from skimage import data

    picture = data.astronaut()
    return np.stack(
        [picture[60 + t : 60 + t + height, 150 + 2 * t : 150 + 2 * t + width] for t in range(count)]
    )


def by_torchvision(models: object, name: str, weights: Path, frames: np.ndarray) -> np.ndarray:
    """torchvision's own model and transforms, on frames padded by NumPy: float32 [F-1, 2, H, W]."""
    model = getattr(models, name)()
    model.load_state_dict(torch.load(weights, weights_only=True))
    transforms = models.Raft_Small_Weights.DEFAULT.transforms()  # type: ignore[attr-defined]
    height, width = frames.shape[1:3]
    right, below = (max(128, (size + 7) // 8 * 8) - size for size in (width, height))
    padded = np.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    images = torch.from_numpy(padded.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        flows = model.eval()(*transforms(images[:-1], images[1:]), num_flow_updates=UPDATES)
    return flows[-1].numpy()[:, :, :height, :width]


@pytest.mark.parametrize("name", ["raft_small", pytest.param("raft_large", marks=pytest.mark.slow)])
def test_it_is_torchvisions_own_call(raft_models: object, weights: dict[str, Path], name: str) -> None:
    frames = real_frames(2 if name == "raft_large" else 3)
    ours = estimator(name, device="cpu", weights=str(weights[name]), updates=UPDATES)
    found = ours(frames[:-1], frames[1:])
    assert found.dtype == np.float32
    assert np.array_equal(found, by_torchvision(raft_models, name, weights[name], frames))
    assert np.abs(found).max() > 0.1


def test_grey_frames_are_grey_colour(weights: dict[str, Path]) -> None:
    grey = real_frames(2)[..., 1]
    ours = estimator("raft_small", device="cpu", weights=str(weights["raft_small"]), updates=UPDATES)
    colour = np.repeat(grey[..., None], 3, -1)
    assert np.array_equal(ours(grey[:-1], grey[1:]), ours(colour[:-1], colour[1:]))


def colour_clip(path: Path, frames: np.ndarray) -> np.ndarray:
    """The frames as a video, and what OpenCV reads of it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode(None))
    capture, read = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        read.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
    return np.stack(read)


@pytest.mark.parametrize("camera", ["none", "warp"])
def test_in_one_pass_from_a_video(
    raft_models: object, weights: dict[str, Path], tmp_path: Path, camera: str
) -> None:
    read = colour_clip(tmp_path / "clip.mp4", real_frames(4, 128, 136))
    flow = FlowSettings(
        estimator="raft_small",
        parameters={"weights": str(weights["raft_small"]), "updates": UPDATES},
        camera=camera,  # type: ignore[arg-type]
        store="flo",
    )
    work = Work(outputs=Outputs(tmp_path), flow=flow, trajectories=TrajectorySettings(length=2), device="cpu")
    with Extractor(work) as extract:
        record = extract(Video(str(tmp_path / "clip.mp4"), "clip.mp4"))
    assert record.status == "done", record.traceback
    stored = m3flow.load_flow(work.outputs.flow("clip.mp4"))
    assert stored.shape == (3, 2, 128, 136)
    if camera == "none":
        expected = by_torchvision(raft_models, "raft_small", weights["raft_small"], read)
        assert np.abs(stored - expected).max() < 1e-3  # another size of batch
        features, _ = m3flow.trajectories.track(stored, length=2)
        found = m3flow.load_trajectories(work.outputs.trajectories("clip.mp4", 2))
        assert np.array_equal(found.traj_feat, features)


@pytest.mark.slow
def test_through_the_command_line(raft_models: object, weights: dict[str, Path], tmp_path: Path) -> None:
    read = colour_clip(tmp_path / "clip.mp4", real_frames(3, 128, 128))
    command = [sys.executable, "-c", "from m3flow.cli import main\nif __name__ == '__main__': main()"]
    command += ["flow", str(tmp_path / "clip.mp4"), "--output", str(tmp_path), "--estimator", "raft_small"]
    command += ["--camera", "none", "--store", "npz", "--device", "cpu"]
    command += ["--set", f"weights={weights['raft_small']}", "--set", f"updates={UPDATES}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.rglob("flow.npz"))
    expected = by_torchvision(raft_models, "raft_small", weights["raft_small"], read)
    assert np.abs(m3flow.load_flow(folder) - expected).max() <= 1e-3 * np.abs(expected).max() + 1e-3


class TestTheFileOfWeights:
    """Settings have its content, not its path. No network is made."""

    def identity(self, path: Path) -> dict[str, Any]:
        return FlowSettings(estimator="raft_small", parameters={"weights": str(path)}).identity()

    def test_another_content_is_another_setting_and_another_path_is_none(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one.pth", tmp_path / "two.pth"
        one.write_bytes(b"first")
        two.write_bytes(b"first")
        before = self.identity(one)
        assert before["parameters"]["weights"] == f"sha256:{hashlib.sha256(b'first').hexdigest()[:16]}"
        assert self.identity(two) == before
        two.write_bytes(b"other")
        os.replace(two, one)  # noqa: PTH105 (the same length, under the same path)
        assert self.identity(one) != before

    def test_fetched_ones_are_named_so(self) -> None:
        parameters = FlowSettings(estimator="raft_small").identity()["parameters"]
        assert parameters["weights"] == "fetched"

    def test_a_missing_file_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"w\.pth: cannot be read: No such file"):
            self.identity(tmp_path / "w.pth")


def test_flow_is_made_again_with_other_weights(
    raft_models: object, weights: dict[str, Path], tmp_path: Path
) -> None:
    colour_clip(tmp_path / "clip.mp4", real_frames(3, 128, 128))
    used = tmp_path / "weights.pth"
    used.write_bytes(weights["raft_small"].read_bytes())

    def made() -> str:
        parameters = {"weights": str(used), "updates": 1}
        flow = FlowSettings(estimator="raft_small", parameters=parameters, camera="none", cuts=False)
        with Extractor(Work(outputs=Outputs(tmp_path), flow=flow, device="cpu")) as extract:
            return extract(Video(str(tmp_path / "clip.mp4"), "clip.mp4")).status

    assert [made(), made()] == ["done", "kept"]
    torch.manual_seed(1)
    torch.save(raft_models.raft_small().state_dict(), used)  # type: ignore[attr-defined]
    assert [made(), made()] == ["done", "kept"]


@pytest.mark.usefixtures("raft_models")
class TestWeights:
    def test_a_job_fetches_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with pytest.raises(
            UsageError, match=r"no weights of raft_large at .*; fetch them with `m3flow weights"
        ):
            estimator("raft_large", device="cpu")
        assert not list(tmp_path.iterdir())

    def test_they_are_fetched_once_and_then_taken(
        self,
        weights: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from m3flow.flow import raft

        asked = []

        def download(url: str, place: str, hash_prefix: str) -> None:
            asked.append((url, hash_prefix))
            Path(place).write_bytes(weights["raft_small"].read_bytes())

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        for _ in range(2):
            path = raft.RAFTSmall.fetch()
        assert len(asked) == 1 and asked[0][0].endswith(f"-{asked[0][1]}.pth")
        assert path.is_relative_to(tmp_path)
        estimator("raft_small", device="cpu")

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from m3flow.flow import raft

        def download(*_: object, **__: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        with pytest.raises(UsageError, match="cannot be fetched from https"):
            raft.RAFTSmall.fetch()

    def test_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_text("hello")
        with pytest.raises(UsageError, match="not weights of raft_small") as caught:
            estimator("raft_small", device="cpu", weights=str(tmp_path / "w.pth"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_only_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, has_it: bool) -> None:
    """Emulation does not count."""
    from m3flow.flow.raft import in_bfloat16

    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_it or including_emulation
    )
    assert in_bfloat16("auto", "cuda:0") is has_it
    assert not in_bfloat16("auto", "cpu") and not in_bfloat16("float32", "cuda:0")
    assert in_bfloat16("bfloat16", "cpu")
    if has_it:
        assert in_bfloat16("bfloat16", "cuda:0")
    else:
        with pytest.raises(UsageError, match="bfloat16, which this GPU does not have"):
            in_bfloat16("bfloat16", "cuda:0")


def test_without_torchvision_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from m3flow.flow import raft

    raft.torchvision_flow.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UsageError, match=r"RAFT needs torchvision: pip install m3flow\[raft\]") as caught:
        raft.torchvision_flow()
    assert "\n" not in str(caught.value)
    raft.torchvision_flow.cache_clear()


def test_grey_is_opencvs() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    expected = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    assert np.array_equal(in_grey(frames), expected)
    assert np.array_equal(in_grey(torch.from_numpy(frames)).numpy(), expected)


@pytest.mark.parametrize("short_side", [0, 64])
def test_colour_frames_are_decoded(tmp_path: Path, short_side: int) -> None:
    read = colour_clip(tmp_path / "clip.mp4", real_frames(12, 96, 128))
    with Decoder() as decoder:
        decoder.expect(str(tmp_path / "clip.mp4"), Resize(short_side), picture="colour")
        decoded = decoder.open(str(tmp_path / "clip.mp4"), Resize(short_side), picture="colour")
        frames = np.concatenate(list(decoded.blocks))
        grey = np.concatenate(list(decoder.open(str(tmp_path / "clip.mp4"), Resize(short_side)).blocks))
    if short_side:
        assert frames.shape == (12, 64, 85, 3) and grey.shape == (12, 64, 85)
    else:
        assert np.array_equal(frames, read)
        assert np.array_equal(in_grey(frames), grey)


def test_the_entries_say_what_they_take() -> None:
    assert all(
        ESTIMATORS[name].colour and ESTIMATORS[name].largest_batch for name in ("raft_large", "raft_small")
    )
    assert not ESTIMATORS["dis"].colour
