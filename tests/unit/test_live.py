"""Motion in the loop: against the files of the same frames."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.flow import estimator, raft
from m3flow.layout import Outputs
from m3flow.live import MotionTargets, Targets
from m3flow.results.homographies import homographies_of
from m3flow.results.quantisation import Quantisation
from m3flow.results.stored_flow import stored_flow
from m3flow.results.trajectoryfile import Trajectories, load_trajectories
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.trajectories import track
from m3flow.videos.videolist import Video
from support.clips import moving_texture, write_video
from support.pretended_device import DEVICE, pretended_copies, pretended_device

FRAMES, HEIGHT, WIDTH, LENGTH = 9, 64, 96, 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Three clips uint8 [3, T, H, W]: a moving camera, a translation, one that stands still."""
    scene = make_scene("object_turning_camera", frames=FRAMES, height=HEIGHT, width=WIDTH).frames
    moving = moving_texture(FRAMES, HEIGHT, WIDTH, dx=1.5, dy=-0.7)
    return np.stack([scene, moving, np.repeat(moving[:1], FRAMES, 0)])


def files(
    folder: Path,
    frames: np.ndarray,
    flow: dict[str, Any],
    trajectories: dict[str, Any],
    backend: str = "torch",
) -> tuple[Trajectories, np.ndarray | None]:
    """The trajectories and homographies that a run stores for a clip."""
    source = write_video(folder / "clip.mkv", frames)
    settings = TrajectorySettings(length=LENGTH, **trajectories)
    outputs = Outputs(folder / "out")
    work = Work(
        outputs=outputs,
        flow=FlowSettings(codec="h264-lossless", **{"camera": "none", "cuts": False, **flow}),
        trajectories=settings,
        backend=backend,
        device="cpu",
    )
    with Extractor(work) as extractor:
        record = extractor(Video(str(source), "clip.mkv"))
    assert record.status == "done", record.reason
    camera = homographies_of(outputs.flow("clip.mkv"))
    return load_trajectories(outputs.trajectories("clip.mkv", LENGTH)), None if camera is None else camera[0]


def same(targets: Targets, clip: int, stored: Trajectories, stride: int = 1) -> bool:
    """Whether a clip's targets are the windows of its file, to the bit."""
    starts = range(0, len(stored.traj_type), stride)
    rows, columns = stored.traj_type.shape[1:]
    found = targets.trajectories[clip].numpy().reshape(len(starts), LENGTH, rows, columns, 2)
    expected = stored.traj_feat.reshape(2, LENGTH, -1, rows, columns)[:, :, starts]
    equal = np.array_equal(found.transpose(4, 1, 0, 2, 3), expected)
    equal &= np.array_equal(targets.types[clip].numpy(), stored.traj_type[starts])
    if stored.traj_conf is not None:
        assert targets.confidence is not None
        found = targets.confidence[clip].numpy().reshape(len(starts), LENGTH, rows, columns)
        equal &= np.array_equal(found.transpose(1, 0, 2, 3), stored.traj_conf[:, starts])
    return equal


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "farneback": ({"estimator": "farneback", "camera": "warp", "cuts": True}, {}),
    "cuts": ({"cuts": True}, {}),
    "defaults": ({}, {}),
    "tvl1": ({"estimator": "tvl1", "parameters": {"inner": 5, "outer": 2, "warps": 2}}, {}),
    "pixels": ({"camera": "warp"}, {"track": "pixels", "confidence": "photometric"}),
    "both ways": ({"camera": "warp"}, {"confidence": "forward-backward"}),
    "integer": ({"bound": 8.0}, {"tracking": "integer"}),
    "step": ({"step": 2, "camera": "none"}, {}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_targets_are_those_of_the_files(case: str, clips: np.ndarray, tmp_path: Path) -> None:
    flow, trajectories = SETTINGS[case]
    stored = [
        files(tmp_path / str(number), frames, flow, trajectories) for number, frames in enumerate(clips)
    ]
    for stride in (1, 2):
        settings = {key: value for key, value in flow.items() if key not in ("bound", "codec")}
        scale = "fine" if flow.get("codec") == "fine" else "linear"
        module = MotionTargets(
            length=LENGTH,
            stride=stride,
            quantisation=Quantisation(flow.get("bound", 20.0), scale, dither=True),
            **settings,
            **trajectories,
        )
        targets = module(torch.from_numpy(clips))
        for clip, (of_file, homographies) in enumerate(stored):
            assert same(targets, clip, of_file, stride), (stride, clip)
            if homographies is not None:
                assert targets.homographies is not None
                np.testing.assert_array_equal(targets.homographies[clip].numpy(), homographies)
    assert (targets.homographies is None) == (flow.get("camera") != "warp")
    moved = targets.trajectories.abs().float().mean((1, 2, 3, 4))
    assert moved[2] == 0 and moved[0] > 0


def test_the_same_levels_are_tracked_alike_whatever_made_them(clips: np.ndarray, tmp_path: Path) -> None:
    """The levels of OpenCV's estimator, stored without loss."""
    stored, _ = files(tmp_path, clips[0], {"estimator": "dis"}, {}, backend="opencv")
    flow = stored_flow(tmp_path / "out/flows/clip.mkv")
    levels = torch.from_numpy(np.concatenate(list(flow.values())))
    module = MotionTargets(length=LENGTH)
    windows = module._track(torch.from_numpy(clips[0]), levels, None, None, 1)
    assert same(module._targets(windows, None, 1), 0, stored)


@pytest.mark.slow
def test_a_clip_does_not_depend_on_its_batch(clips: np.ndarray) -> None:
    module = MotionTargets(length=LENGTH, stride=2, camera="warp", cuts=True)
    batch = torch.from_numpy(clips)
    numbers = np.random.default_rng(0).integers(0, len(clips), 32)
    together = module(batch[numbers])
    for number, clip in enumerate(numbers[:9]):
        alone = module(batch[clip : clip + 1])
        for all_clips, one in zip(together, alone, strict=True):
            assert (all_clips is None and one is None) or torch.equal(all_clips[number], one[0])


def test_a_learned_estimator_sees_the_colours(clips: np.ndarray, tmp_path: Path) -> None:
    try:
        models: Any = raft.torchvision_flow()
    except UsageError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    torch.save(models.raft_small().state_dict(), tmp_path / "raft.pth")
    parameters = {"weights": str(tmp_path / "raft.pth"), "updates": 1}
    colour = np.stack([clips, 255 - clips, clips[:, ::-1]], 2)
    quantisation = Quantisation()
    module = MotionTargets("raft_small", parameters=parameters, length=LENGTH, quantisation=quantisation)
    alone = estimator("raft_small", device="cpu", **parameters)
    targets, other = (module(torch.from_numpy(frames)) for frames in (colour, colour[:, :, ::-1].copy()))
    for clip, frames in enumerate(colour[:2].transpose(0, 1, 3, 4, 2)):
        flow = quantisation.pixels(quantisation.stored(alone(frames[:-1], frames[1:])))
        expected, _ = track(flow, length=LENGTH)
        found = targets.trajectories[clip].unflatten(0, (-1, LENGTH)).permute(4, 1, 0, 2, 3).flatten(0, 1)
        # Another size of batch changes the last digits, and few of the levels.
        assert (found.numpy() == expected).mean() > 0.99 and expected.any()
        assert (other.trajectories[clip] != targets.trajectories[clip]).float().mean() > 0.05


def test_colour_is_made_grey_as_opencv_does() -> None:
    values = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 5)], indexing="ij"), -1).astype(np.uint8)
    pictures = values.reshape(1, 52, 52 * 52, 3)
    grey = MotionTargets(length=1)._grey(
        torch.from_numpy(pictures.transpose(0, 3, 1, 2))[None].repeat(1, 2, 1, 1, 1)
    )
    np.testing.assert_array_equal(grey[0].numpy(), cv2.cvtColor(pictures[0], cv2.COLOR_RGB2GRAY))


class _Waits(TorchDispatchMode):
    """Counts the operations for which a host waits for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        by_mask = name.startswith("aten.index.") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or any(
            part in name for part in ("_local_scalar_dense", "nonzero", "unique", "equal.default")
        ):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "farneback"},
        {"camera": "none"},
        {"confidence": "forward-backward", "track": "pixels"},
    ],
    ids=str,
)
def test_the_host_does_not_wait(options: dict[str, Any], clips: np.ndarray) -> None:
    module, frames = MotionTargets(length=LENGTH, stride=2, **options), torch.from_numpy(clips)
    module(frames)
    with _Waits() as waits:
        module(frames)
    assert not waits.found
    with _Waits() as waits:
        bool((frames > 3).any())
    assert waits.found


@pytest.mark.slow
def test_cameras_cost_two_waits_whatever_the_number_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """For which pairs differ in brightness, and for the evidence of all clips."""
    read = pretended_copies(monkeypatch, "camera.compensation_torch", "camera.candidates_torch", "live")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    module = MotionTargets(
        "farneback", parameters={"levels": 1}, camera="warp", cuts=True, length=2, stride=2
    )
    with pretended_device(monkeypatch) as waits:
        for clips in (1, 1, 5):
            frames = torch.empty(clips, 5, 3, HEIGHT, WIDTH, dtype=torch.uint8, device=DEVICE)
            waits.found.clear()
            read.clear()
            targets = module(frames)
            assert targets.trajectories.shape[0] == clips and len(read) == 2
    assert waits.found == []


def test_it_works_in_autocast_dataparallel_and_compiled_steps(
    clips: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests of this process pretend a device, which DataParallel would use.
    monkeypatch.setattr(
        sys.modules["torch.nn.parallel.data_parallel"],
        "_get_available_device_type",
        lambda: "cuda" if torch.cuda.is_available() else None,
    )
    module, frames = MotionTargets(length=LENGTH), torch.from_numpy(clips)
    expected = module(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(frames).trajectories, expected.trajectories)
    assert torch.equal(torch.nn.DataParallel(module)(frames).trajectories, expected.trajectories)

    def step(frames: torch.Tensor) -> torch.Tensor:
        return module(frames).trajectories.float().mean() + frames.float().mean()

    compiled = torch.compile(step, backend="eager")
    assert torch.equal(compiled(frames), step(frames))
    assert not list(module.parameters()) and not module.state_dict()
    assert not expected.trajectories.requires_grad


def test_wrong_clips_and_parameters_are_refused(clips: np.ndarray) -> None:
    module = MotionTargets(length=LENGTH)
    for frames in (torch.zeros(2, 9, 64, 96), torch.zeros(2, 9, 2, 64, 96, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            module(frames)
    with pytest.raises(ValueError, match="4 frames or more"):
        module(torch.from_numpy(clips[:, :3]))
    for wrong in ({"stride": 0}, {"length": 0}, {"step": -1}, {"estimator": "raft9"}, {"camera": "pan"}):
        with pytest.raises(UsageError):
            MotionTargets(**wrong)  # type: ignore[arg-type]
    assert "dis" in repr(module)
