"""Flow that other programs wrote: laid out here as their sources say they write it, by plain loops."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from math import ceil
from pathlib import Path

import cv2
import numpy as np
import pytest

from m3flow.errors import BadInput
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.stored_flow import ExistingFlow
from m3flow.results.trajectoryfile import load_trajectories
from m3flow.results.verify import Wanted, verify
from m3flow.scoring.scenes import make_scene
from m3flow.settings import TrajectorySettings
from m3flow.trajectories.tracking import track
from m3flow.videos.decoder import Decoder
from m3flow.videos.videolist import Video

BOUND = 20


def some_flow(frames: int = 12, height: int = 48, width: int = 70) -> np.ndarray:
    return make_scene("object_turning_camera", frames=frames + 1, height=height, width=width).flow


def levels_of(plane: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """denseflow's and dense_flow's CAST macro, pixel by pixel."""
    out = np.empty(plane.shape, np.uint8)
    for index, value in np.ndenumerate(plane.astype(float)):
        if value > bound:
            out[index] = 255
        elif value < -bound:
            out[index] = 0
        else:
            out[index] = round(255 * (value + bound) / (2 * bound))
    return out


def jpg(path: Path, plane: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), levels_of(plane))


def denseflow(folder: Path, flow: np.ndarray, infix: str = "", first: int = 0) -> None:
    for number, (x, y) in enumerate(flow, first):
        jpg(folder / f"flow_x{infix}_{number:05d}.jpg", x)
        jpg(folder / f"flow_y{infix}_{number:05d}.jpg", y)


def tsn(folder: Path, flow: np.ndarray) -> None:
    denseflow(folder, flow, first=1)


def component_folders(folder: Path, flow: np.ndarray, x: str = "x", y: str = "y") -> None:
    for number, planes in enumerate(flow, 1):
        for name, plane in zip((x, y), planes, strict=True):
            jpg(folder / name / f"frame{number:06d}.jpg", plane)


def tsn_zips(folder: Path, flow: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for component, name in enumerate("xy"):
        with zipfile.ZipFile(folder / f"flow_{name}.zip", "w") as archive:
            for number, planes in enumerate(flow):
                content = cv2.imencode(".jpg", levels_of(planes[component]))[1].tobytes()
                archive.writestr(f"{name}_{number:05d}.jpg", content)


def denseflow_png(folder: Path, flow: np.ndarray) -> None:
    """convertFlowToPngImage of denseflow."""
    folder.mkdir(parents=True)
    _, _, height, width = flow.shape
    for number, planes in enumerate(flow):
        image = np.zeros((height, width, 3), np.uint8)
        for channel, (plane, limit) in enumerate(zip(planes, (width, height), strict=True)):
            largest = max(abs(plane.min()), abs(plane.max()))
            bound = min(255.0 * 4, ceil(min(limit, largest) * 128 / 127 / 4) * 4)
            bound += 4 if int(bound) % 8 == 0 else 0
            image[..., channel] = np.clip(np.rint(plane * 128 / bound + 128), 0, 255)
            image[slice(0, height // 2 + 1) if channel == 0 else slice(height // 2 + 1, None), :, 2] = (
                bound / 4
            )
        cv2.imwrite(str(folder / f"flow_{number:05d}.png"), image)


def flo(folder: Path, flow: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, planes in enumerate(flow, 1):
        cv2.writeOpticalFlow(str(folder / f"frame_{number:04d}.flo"), planes.transpose(1, 2, 0))


def denseflow_h5(folder: Path, flow: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(f"{folder}.h5", "w") as file:
        for number, planes in enumerate(flow):
            for name, plane in zip("xy", planes, strict=True):
                file[f"flow_{name}_{number:05d}"] = plane


def array_h5(folder: Path, flow: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(f"{folder}.h5", "w") as file:
        file["flow"] = np.stack([np.stack([levels_of(plane, 16) for plane in planes], -1) for planes in flow])
        file.attrs["bound"] = 16.0


def npz(folder: Path, flow: np.ndarray) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    np.savez(f"{folder}.npz", flow=flow.transpose(0, 2, 3, 1))


Writer = Callable[[Path, np.ndarray], None]
# (form, writer, largest mean error in pixels)
LAYOUTS: dict[str, tuple[str, Writer, float]] = {
    "denseflow": ("images", denseflow, 0.1),
    "TSN": ("images", tsn, 0.1),
    "x/ and y/": ("images", component_folders, 0.1),
    "flow_x/ and flow_y/": ("images", lambda *a: component_folders(*a, x="flow_x", y="flow_y"), 0.1),
    "u/ and v/": ("images", lambda *a: component_folders(*a, x="u", y="v"), 0.1),
    "TSN, zip": ("images", tsn_zips, 0.1),
    "denseflow, png": ("images", denseflow_png, 0.05),
    ".flo": ("flo", flo, 1e-7),
    "denseflow, h5": ("h5", denseflow_h5, 1e-7),
    "h5, levels with a bound": ("h5", array_h5, 0.1),
    "npz": ("npz", npz, 1e-7),
}


def read(root: Path, form: str = "images", name: str = "a/clip.avi", **more: float) -> np.ndarray:
    flow = ExistingFlow(root=root, form=form, **more).of(name)  # type: ignore[arg-type]
    return np.concatenate([flow.quantisation.pixels(values) for values in flow.values()])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", ["a/clip", "a/clip.avi"])
def test_layouts_are_read(tmp_path: Path, layout: str, folder: str) -> None:
    form, write, error = LAYOUTS[layout]
    flow = some_flow()
    write(tmp_path / folder, flow)
    found = read(tmp_path, form)
    assert found.dtype == np.float32 and found.shape == flow.shape
    assert np.abs(found - flow).mean() < error


@pytest.mark.parametrize(("infix", "first", "step"), [("_p2", 0, 2), ("_m1", 1, -1), ("", 0, 3)])
def test_the_step_is_read_from_the_names_or_given(tmp_path: Path, infix: str, first: int, step: int) -> None:
    denseflow(tmp_path / "clip", some_flow(3), infix, first)
    place = ExistingFlow(root=tmp_path, step=3)
    flow = place.of("clip.avi")
    assert flow.settings == place.identity()
    assert (flow.step, flow.source["frames"], flow.source["width"]) == (step, 3 + abs(step), 70)


def test_the_bound_is_given(tmp_path: Path) -> None:
    flow = some_flow(2)
    for number, (x, y) in enumerate(flow):
        for name, plane in (("x", x), ("y", y)):
            path = tmp_path / "clip" / f"flow_{name}_{number:05d}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), levels_of(plane, 32))
    assert np.abs(read(tmp_path, name="clip.avi", bound=32) - flow).max() <= 0.26


class TestRejected:
    def folder(self, tmp_path: Path) -> Path:
        denseflow(tmp_path / "clip", some_flow(6))
        return tmp_path / "clip"

    def refused(self, tmp_path: Path, match: str) -> None:
        with pytest.raises(BadInput, match=match) as caught:
            read(tmp_path, name="clip.avi")
        assert "\n" not in str(caught.value) and "clip" in str(caught.value)

    def test_nothing_there(self, tmp_path: Path) -> None:
        self.refused(tmp_path, r"no existing flow of clip\.avi in")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "clip").mkdir()
        self.refused(tmp_path, "no flow of the form images")

    def test_a_gap(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        for name in ("flow_x_00003.jpg", "flow_y_00003.jpg"):
            (folder / name).unlink()
        self.refused(tmp_path, r"number 3 is missing between flow_x_00000\.jpg and flow_x_00005\.jpg")

    def test_a_gap_in_one_component(self, tmp_path: Path) -> None:
        (self.folder(tmp_path) / "flow_y_00002.jpg").unlink()
        self.refused(tmp_path, "number 2 is missing")

    def test_more_of_one_component(self, tmp_path: Path) -> None:
        (self.folder(tmp_path) / "flow_y_00005.jpg").unlink()
        self.refused(tmp_path, "6 images of x and 5 of y do not belong together")

    def test_mixed_sizes(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        for name in ("flow_x_00004.jpg", "flow_y_00004.jpg"):
            cv2.imwrite(str(folder / name), np.zeros((20, 30), np.uint8))
        self.refused(tmp_path, "frame 4 is 30x20 where the others are 70x48")

    def test_components_of_two_sizes(self, tmp_path: Path) -> None:
        cv2.imwrite(str(self.folder(tmp_path) / "flow_y_00001.jpg"), np.zeros((20, 30), np.uint8))
        self.refused(tmp_path, "frame 1 cannot be read .x is 70x48, y is 30x20")

    def test_a_truncated_image(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path) / "flow_x_00002.jpg"
        path.write_bytes(path.read_bytes()[:-60])
        self.refused(tmp_path, "frame 2 cannot be read .the image is truncated")

    def test_an_empty_image(self, tmp_path: Path) -> None:
        (self.folder(tmp_path) / "flow_x_00002.jpg").write_bytes(b"")
        self.refused(tmp_path, "frame 2 cannot be read .no readable image")

    def test_two_steps(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        denseflow(folder, some_flow(2), "_p2", first=6)
        self.refused(tmp_path, "files of several steps")


def test_backward_flow_is_not_tracked(tmp_path: Path) -> None:
    """denseflow's names with a step of -1; the first number is 1."""
    denseflow(tmp_path / "flow/clip", some_flow(), "_m1", first=1)
    place = ExistingFlow(root=tmp_path / "flow", form="images", bound=BOUND)
    assert place.of("clip.avi").step == -1
    work = Work(outputs=Outputs(tmp_path), trajectories=TrajectorySettings(), existing=place)
    with Extractor(work) as extract:
        record = extract(Video("nowhere.avi", "clip.avi"))
    assert record.status == "rejected" and record.reason.startswith("flow.step is -1: trajectories")


@pytest.mark.parametrize("layout", ["denseflow", ".flo", "denseflow, h5"])
def test_trajectories(tmp_path: Path, layout: str) -> None:
    form, write, _ = LAYOUTS[layout]
    write(tmp_path / "flow/clip", some_flow())
    place = ExistingFlow(root=tmp_path / "flow", form=form, bound=BOUND)
    video = Video("nowhere.avi", "clip.avi")
    work = Work(outputs=Outputs(tmp_path), trajectories=TrajectorySettings(), existing=place)

    def run() -> str:
        with Extractor(work) as extract:
            record = extract(video)
        assert not record.traceback, record.traceback
        return record.status

    assert run() == "done"
    path = work.outputs.trajectories("clip.avi", 6)
    found = load_trajectories(path)
    expected, _ = track(read(tmp_path / "flow", form, "clip.avi"))
    assert np.array_equal(found.traj_feat, expected)
    assert found.made["flow"]["existing"] == form
    assert run() == "kept"
    with Decoder() as decoder:
        settings = TrajectorySettings().identity()
        wanted = Wanted(outputs=work.outputs, flow=False, trajectory_settings=settings)
        assert verify(decoder, video, wanted).problems == []
    # Other flow under the same name is another source.
    for changed in sorted((tmp_path / "flow").rglob("*_0000[12]*")) or [tmp_path / "flow/clip.h5"]:
        if form == "h5":
            changed.unlink()
    if form == "h5":
        write(tmp_path / "flow/clip", some_flow()[::-1].copy())
    else:
        last = max(path for path in (tmp_path / "flow").rglob("*.*") if "_y" not in path.name)
        last.write_bytes(last.read_bytes()[:-9] + b"\x01" + last.read_bytes()[-8:])
    assert run() == "done"
