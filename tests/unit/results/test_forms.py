"""Every form in which flow is stored: what is written comes back, damage is found, trajectories are the same."""

from __future__ import annotations

import json
import os
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from m3flow import load_flow
from m3flow.errors import BadInput
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import FLOW_FILES, Outputs
from m3flow.results.forms import FORMS, Stream, form_in, quantisation_of
from m3flow.results.homographies import homographies_of
from m3flow.results.stored_flow import read_provenance, stored_flow
from m3flow.results.trajectoryfile import load_trajectories
from m3flow.results.verify import Wanted, verify
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.decoder import Decoder
from m3flow.videos.videolist import Video
from support.clips import clip

CASES: dict[str, dict[str, Any]] = {
    "mp4": {"codec": "h264-lossless"},
    "fine": {"codec": "fine"},
    "jpg": {"store": "jpg"},
    "jpg.zip": {"store": "jpg", "zip": True},
    "png": {"store": "png"},
    "png.zip": {"store": "png", "zip": True},
    "flo": {"store": "flo"},
    "flo.zip": {"store": "flo", "zip": True},
    "npz": {"store": "npz"},
    "npz, levels": {"store": "npz", "values": "uint8"},
    "h5": {"store": "h5"},
    "h5, levels": {"store": "h5", "values": "uint8"},
}
# How far a displacement that is stored may come back from what it was, in pixels: float16 has 11 bits.
ROUNDING = {"mp4": 0.08, "fine": 0.3, "jpg": 0.7, "png": 0.08, "flo": 0.0, "npz": 0.008, "h5": 0.008}
QUICK: dict[str, Any] = {"estimator": "dis", "parameters": {"preset": "ultrafast"}, "camera": "warp"}


def identity(case: str, **more: Any) -> dict[str, Any]:
    return FlowSettings(**QUICK, **CASES[case], **more).identity()


def rounding(case: str) -> float:
    # A motion of less than a linear level is read as none.
    return 0.16 if "levels" in case or case in ("mp4", "png", "png.zip") else ROUNDING[case.partition(".")[0]]


def some_flow(frames: int = 6, height: int = 49, width: int = 67) -> np.ndarray:
    """float32 [T, 2, H, W]: smooth, with edges, sizes odd."""
    return make_scene("object_moving_camera", frames=frames + 1, height=height, width=width).flow


def write(folder: Path, case: str, flow: np.ndarray, **more: Any) -> Path:
    settings = identity(case, **more)
    form = FORMS[case.partition(",")[0]] if case != "fine" else FORMS["mp4"]
    stream = Stream(width=flow.shape[3], height=flow.shape[2], rate=Fraction(25), step=settings["step"])
    values = np.asarray(quantisation_of(settings).stored(flow.copy()))
    with form.writer(folder, settings, stream) as writer:
        for start in range(0, len(values), 4):
            writer.write(values[start : start + 4])
        writer.close({"settings": settings, "source": {"frames": len(flow) + 1}})
    return folder


@pytest.mark.parametrize("case", CASES)
class TestRoundTrip:
    def test_what_is_written_comes_back(self, tmp_path: Path, case: str) -> None:
        flow = some_flow(37)
        folder = write(tmp_path / "flow", case, flow)
        assert all(path.is_file() for path in form_in(folder).files(folder))
        read = load_flow(folder)
        assert read.dtype == np.float32 and read.shape == flow.shape
        assert np.abs(read - flow).mean() <= rounding(case) / 2
        # Lossy ones are off most at the object's outline.
        assert np.abs(read - flow).max() <= (6 if "jpg" in case or case == "fine" else 2 * rounding(case))
        assert form_in(folder).frames(folder) == 37
        assert not list(tmp_path.rglob("*.m3flow-tmp"))

    def test_a_part_is_what_the_whole_has_there(self, tmp_path: Path, case: str) -> None:
        folder = write(tmp_path / "flow", case, some_flow(40))
        whole = load_flow(folder)
        for start, stop in ((0, 1), (3, 9), (31, 36), (39, None), (35, 99)):
            assert np.array_equal(load_flow(folder, start, stop), whole[start:stop])

    def test_a_still_pixel_is_still(self, tmp_path: Path, case: str) -> None:
        folder = write(tmp_path / "flow", case, np.zeros((3, 2, 24, 40), np.float32))
        assert not load_flow(folder).any()

    def test_it_says_how_it_was_made(self, tmp_path: Path, case: str) -> None:
        folder = write(tmp_path / "flow", case, some_flow(), bound=12.5)
        made = read_provenance(folder)
        assert made["settings"] == identity(case, bound=12.5)
        assert read_provenance(form_in(folder).files(folder)[-1])["settings"] == made["settings"]
        assert stored_flow(folder).quantisation.bound == 12.5

    def test_equal_flow_gives_equal_bytes(self, tmp_path: Path, case: str) -> None:
        one, other = (write(tmp_path / name, case, some_flow(4)) for name in ("a", "b"))
        files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
        assert files == [path.relative_to(other) for path in other.rglob("*") if path.is_file()]
        if not case.startswith("h5"):  # HDF5 notes times
            assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)

    def test_another_form_takes_its_place(self, tmp_path: Path, case: str) -> None:
        for other in ("npz", "jpg", "flo", "mp4", case):
            folder = write(tmp_path / "flow", other, some_flow(4))
            alone = write(tmp_path / f"alone {other}", other, some_flow(4))
            names = [
                sorted(str(path.relative_to(place)) for path in place.rglob("*")) for place in (folder, alone)
            ]
            assert names[0] == names[1]
            assert sum(all((folder / name).is_file() for name in names) for names in FLOW_FILES.values()) == 1
        assert load_flow(folder).shape == (4, 2, 49, 67)

    def test_nothing_is_left_of_a_writer_that_fails(self, tmp_path: Path, case: str) -> None:
        with pytest.raises(ZeroDivisionError):
            raise_in_the_middle(tmp_path / "new", case)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        before = write(tmp_path / "old", case, some_flow(3))
        read = load_flow(before)
        with pytest.raises(ZeroDivisionError):
            raise_in_the_middle(before, case)
        assert np.array_equal(load_flow(before), read)
        assert not list(tmp_path.rglob("*.m3flow-tmp"))


def raise_in_the_middle(folder: Path, case: str) -> None:
    settings = identity(case)
    form = FORMS[case.partition(",")[0]] if case != "fine" else FORMS["mp4"]
    with form.writer(folder, settings, Stream(width=67, height=49, rate=Fraction(25))) as writer:
        writer.write(np.asarray(quantisation_of(settings).stored(some_flow(2))))
        raise ZeroDivisionError


class TestOthersReadThem:
    """By the libraries that their readers have, and by nothing of ours."""

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    def test_images(self, tmp_path: Path, suffix: str) -> None:
        flow = some_flow(3)
        folder = write(tmp_path / "flow", suffix, flow)
        names = sorted(path.name for path in (folder / suffix).iterdir())
        assert names == [f"flow_{c}_{n:05d}.{suffix}" for c in "xy" for n in range(3)] + ["made.json"]
        x = cv2.imread(str(folder / suffix / f"flow_x_00001.{suffix}"), cv2.IMREAD_GRAYSCALE)
        level = np.rint(255 * (flow[1, 0].astype(float) + 20) / 40).clip(0, 255)
        assert np.abs(x - level).mean() < (1 if suffix == "jpg" else 0.01)

    @pytest.mark.parametrize(("step", "name"), [(1, "flow_x_00000"), (2, "flow_x_p2_00000")])
    def test_names_by_the_step(self, tmp_path: Path, step: int, name: str) -> None:
        folder = write(tmp_path / "flow", "jpg.zip", some_flow(3), step=step)
        with zipfile.ZipFile(folder / "jpg.zip") as archive:
            assert f"{name}.jpg" in archive.namelist()

    def test_flo(self, tmp_path: Path) -> None:
        flow = some_flow(2)
        folder = write(tmp_path / "flow", "flo", flow)
        read = cv2.readOpticalFlow(str(folder / "flo/flow_00001.flo"))
        assert np.array_equal(read.transpose(2, 0, 1), flow[1])

    def test_npz(self, tmp_path: Path) -> None:
        flow = some_flow(3)
        with np.load(write(tmp_path / "a", "npz", flow) / "flow.npz") as file:
            assert np.array_equal(file["flow"], flow.astype(np.float16))
            assert json.loads(str(file["made"]))["settings"]["store"] == "npz"
        with np.load(write(tmp_path / "b", "npz, levels", flow, bound=10) / "flow.npz") as file:
            assert file["flow"].dtype == np.uint8 and file["bound"] == 10

    def test_h5(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        flow = some_flow(3)
        with h5py.File(write(tmp_path / "a", "h5", flow) / "flow.h5") as file:
            assert np.array_equal(file["flow"][()], flow.astype(np.float16))
        with h5py.File(write(tmp_path / "b", "h5, levels", flow, bound=10) / "flow.h5") as file:
            assert file["flow"].dtype == np.uint8 and file["bound"][()] == 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video's flow and trajectories in every form, each in an output folder of its own."""
    folder = tmp_path_factory.mktemp("forms")
    video = Video(str(clip(folder / "clip.mkv", frames=20, height=64, width=96)), "clip.mkv")
    for case, form in CASES.items():
        # Flow alone, then trajectories from the files: what a reader of the files gets.
        flow = FlowSettings(**QUICK, **form)
        for work in (
            Work(outputs=Outputs(folder / case), flow=flow),
            Work(outputs=Outputs(folder / case), trajectories=TrajectorySettings(fine=True)),
        ):
            with Extractor(work) as extract:
                record = extract(video)
            assert record.status == "done", record.traceback
    return folder


@pytest.mark.parametrize("case", CASES)
class TestThroughTheExtractor:
    @pytest.mark.slow
    def test_trajectories_are_those_of_the_reference(self, made: Path, case: str) -> None:
        exact = load_trajectories(Outputs(made / "flo").trajectories("clip.mkv", 6))
        found = load_trajectories(Outputs(made / case).trajectories("clip.mkv", 6))
        assert found.traj_fine is not None and exact.traj_fine is not None
        apart = np.abs(found.traj_fine.astype(int) - exact.traj_fine) / 16
        # A step is off by the form's rounding, and by what a position that is off reads beside it.
        assert apart.mean() <= rounding(case) + 1 / 16
        assert found.made["flow"] == FlowSettings(**QUICK, **CASES[case]).identity()

    def test_the_camera_is_in_it(self, made: Path, case: str) -> None:
        found = homographies_of(Outputs(made / case).flow("clip.mkv"))
        assert found is not None and found[0].shape == (19, 3, 3)

    def test_it_is_kept_and_verified(self, made: Path, case: str) -> None:
        flow = FlowSettings(**QUICK, **CASES[case])
        video = Video(str(made / "clip.mkv"), "clip.mkv")
        with Extractor(Work(outputs=Outputs(made / case), flow=flow)) as extract:
            assert extract(video).status == "kept"
        wanted = Wanted(outputs=Outputs(made / case), flow_settings=flow.identity())
        with Decoder() as decoder:
            assert verify(decoder, video, wanted).problems == []

    def test_damage_is_found(self, made: Path, case: str, tmp_path: Path) -> None:
        flow = FlowSettings(**QUICK, **CASES[case])
        folder = Outputs(made / case).flow("clip.mkv")
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "made.json"]
        wanted = Wanted(outputs=Outputs(tmp_path), trajectories=False, flow_settings=flow.identity())
        target = wanted.outputs.flow("clip.mkv")
        for damaged in files[:: max(1, len(files) // 3)]:
            for damage in (flipped, cut, gone):
                copy(folder, target)
                damage(target / damaged.relative_to(folder))
                with Decoder() as decoder:
                    found = verify(decoder, Video("", "clip.mkv"), wanted)
                assert found.problems, (damaged, damage)
                assert all("\n" not in problem and "flows/clip.mkv" in problem for problem in found.problems)

    def test_a_missing_frame_is_named(self, made: Path, case: str, tmp_path: Path) -> None:
        source = Outputs(made / case).flow("clip.mkv")
        files = sorted(path for path in source.rglob("flow*_00007.*"))
        if not files:
            pytest.skip("no file for each frame")
        copy(source, tmp_path / "flow")
        (tmp_path / "flow" / files[0].relative_to(source)).unlink()
        with pytest.raises(BadInput, match=files[0].name):
            load_flow(tmp_path / "flow")


def copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())


def flipped(path: Path) -> None:
    """One wrong byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def gone(path: Path) -> None:
    path.unlink()
