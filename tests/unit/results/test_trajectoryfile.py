"""Trajectory files: readable by any program, read back by us, and never executed."""

from __future__ import annotations

import builtins
import gzip
import os
import pickle
import pickletools
import subprocess
from pathlib import Path
from typing import Any

import compress_pickle
import numpy as np
import pytest

from m3flow import load_trajectories
from m3flow.errors import BadInput
from m3flow.results.trajectoryfile import Trajectories, TrajectoryWriter, read_made

MADE = {"settings": {"length": 3, "job": "trajs_dense"}, "source": {"width": 41, "height": 25}}


def arrays(
    windows: int = 7, length: int = 3, rows: int = 3, columns: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(windows)
    feat = random.integers(-20, 21, (2 * length, windows, rows, columns)).astype(np.int8)
    return feat, random.integers(0, 2, (windows, rows, columns)).astype(np.uint8)


def write(
    path: Path, feat: np.ndarray, kind: np.ndarray, pieces: tuple[int, ...] = (), made: Any = MADE
) -> Path:
    length, rows, columns = len(feat) // 2, *kind.shape[1:]
    with TrajectoryWriter(path, length=length, rows=rows, columns=columns) as writer:
        start = 0
        for size in pieces or (len(kind),):
            writer.write(feat[:, start : start + size], kind[start : start + size])
            start += size
        writer.close(made)
    return path


def with_gzip_and_pickle(path: Path) -> dict[str, Any]:
    with gzip.open(path) as file:
        return pickle.load(file)


def with_compress_pickle(path: Path) -> dict[str, Any]:
    return compress_pickle.load(path, "gzip")


def save(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(gzip.compress(pickle.dumps(content, protocol)))
    return path


class TestRoundTrip:
    @pytest.mark.parametrize("reader", [with_gzip_and_pickle, with_compress_pickle])
    def test_with_what_everybody_has(self, tmp_path: Path, reader: Any) -> None:
        feat, kind = arrays()
        content = reader(write(tmp_path / "a_3.gz", feat, kind))
        assert type(content) is dict
        for key, expected in (("traj_feat", feat), ("traj_type", kind)):
            assert type(content[key]) is np.ndarray and content[key].dtype == expected.dtype
            assert np.array_equal(content[key], expected)
            content[key][...] = 0  # can be written to

    def test_ours(self, tmp_path: Path) -> None:
        feat, kind = arrays()
        read = load_trajectories(write(tmp_path / "a_3.gz", feat, kind))
        assert np.array_equal(read.traj_feat, feat) and np.array_equal(read.traj_type, kind)
        assert (read.length, read.made) == (3, MADE)
        assert repr(read) == "Trajectories(length=3, windows=7, grid=3x5)"

    @pytest.mark.parametrize("pieces", [(7,), (1,) * 7, (3, 4), (2, 0, 5)])
    def test_pieces_in_order(self, tmp_path: Path, pieces: tuple[int, ...]) -> None:
        feat, kind = arrays()
        content = with_gzip_and_pickle(write(tmp_path / "a_3.gz", feat, kind, pieces))
        assert np.array_equal(content["traj_feat"], feat) and np.array_equal(content["traj_type"], kind)

    def test_pieces_longer_than_is_copied_at_once(self, tmp_path: Path) -> None:
        feat, kind = arrays(windows=5000, length=1, rows=20, columns=30)  # 3 MB per channel
        read = load_trajectories(write(tmp_path / "a_1.gz", feat, kind, (4000, 1000)))
        assert np.array_equal(read.traj_feat, feat) and np.array_equal(read.traj_type, kind)

    @pytest.mark.parametrize("shape", [(0, 3, 3, 5), (7, 3, 0, 5), (0, 1, 0, 0)])
    def test_nothing_is_kept_with_its_shape(self, tmp_path: Path, shape: tuple[int, int, int, int]) -> None:
        feat, kind = arrays(*shape)
        path = write(tmp_path / "a.gz", feat, kind)
        for content in (with_gzip_and_pickle(path), vars(load_trajectories(path))):
            assert content["traj_feat"].shape == feat.shape and content["traj_type"].shape == kind.shape

    def test_the_pickle_names_nothing_that_numpy_has_moved(self, tmp_path: Path) -> None:
        data = gzip.decompress(write(tmp_path / "a_3.gz", *arrays()).read_bytes())
        names = {argument for opcode, argument, _ in pickletools.genops(data) if "GLOBAL" in opcode.name}
        assert names == {"numpy ndarray"}

    def test_the_same_bytes_each_time(self, tmp_path: Path) -> None:
        one, two = (write(tmp_path / name, *arrays()).read_bytes() for name in ("a.gz", "b.gz"))
        assert one == two

    def test_left_without_close_nothing_is_left(self, tmp_path: Path) -> None:
        with TrajectoryWriter(tmp_path / "t" / "a.gz", length=3, rows=3, columns=5) as writer:
            writer.write(*arrays())
        assert not list(tmp_path.rglob("*"))


class TestMade:
    def test_only_the_beginning_is_read(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0).integers(-20, 21, (6, 400, 30, 40)).astype(np.int8)
        path = write(tmp_path / "a_3.gz", random, np.ones((400, 30, 40), np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert read_made(path) == MADE
        with pytest.raises(BadInput):
            load_trajectories(path)

    @pytest.mark.parametrize("size", [10, 70_000, 3_000_000])
    def test_however_long_it_is(self, tmp_path: Path, size: int) -> None:
        made = {"settings": {"length": 3}, "long": "x" * size, "name": "é\n日本"}
        assert read_made(write(tmp_path / "a_3.gz", *arrays(), made=made)) == made

    def test_files_that_do_not_say(self, tmp_path: Path) -> None:
        feat, kind = arrays()
        assert read_made(save(tmp_path / "a.gz", {"traj_feat": feat, "traj_type": kind})) == {}
        assert read_made(save(tmp_path / "b.gz", {"made": 5})) == {}
        assert read_made(save(tmp_path / "c.gz", {"made": "not JSON"})) == {}

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "text.gz").write_text("hello")
        (tmp_path / "empty.gz").touch()
        for name in ("text.gz", "missing.gz", "."):
            with pytest.raises(BadInput):
                read_made(tmp_path / name)


class TestOriginalFiles:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
    def test_of_either_numpy_and_any_protocol(self, tmp_path: Path, protocol: int, core: bytes) -> None:
        feat, kind = arrays()
        # A class that pickles under another module's name, as an older NumPy would write it.
        data = pickle.dumps({"traj_feat": feat, "traj_type": kind}, protocol)
        assert b"numpy._core" in data
        data = renamed(data, core) if protocol >= 4 else data.replace(b"numpy._core", core)
        assert core in data
        (tmp_path / "a.gz").write_bytes(gzip.compress(data, 9))
        read = load_trajectories(tmp_path / "a.gz")
        assert np.array_equal(read.traj_feat, feat) and np.array_equal(read.traj_type, kind)
        assert (read.length, read.made) == (3, {})

    def test_other_orders_and_types_of_numbers(self, tmp_path: Path) -> None:
        feat, kind = arrays()
        content = {
            "traj_feat": np.asfortranarray(feat.astype(">i2")),
            "traj_type": kind.astype(bool),
            "length": np.int64(3),
            "name": "é",
        }
        for protocol in (2, 4, 5):
            read = load_trajectories(save(tmp_path / "a.gz", content, protocol))
            assert np.array_equal(read.traj_feat, feat) and np.array_equal(read.traj_type, kind)

    def test_written_by_compress_pickle(self, tmp_path: Path) -> None:
        feat, kind = arrays()
        compress_pickle.dump({"traj_feat": feat, "traj_type": kind}, tmp_path / "a.gz", "gzip")
        assert np.array_equal(load_trajectories(tmp_path / "a.gz").traj_feat, feat)


def renamed(data: bytes, core: bytes) -> bytes:
    """A pickle of protocol 4 or 5 with NumPy's module under another name, lengths and frames included."""
    out = b""
    for opcode, argument, position in pickletools.genops(data):
        end = next((p for _, _, p in pickletools.genops(data) if p > position), len(data))
        piece = data[position:end]
        if opcode.name == "FRAME":
            continue  # frames may be left out
        if isinstance(argument, str) and argument.startswith("numpy._core"):
            text = argument.encode().replace(b"numpy._core", core)
            piece = pickle.SHORT_BINUNICODE + bytes([len(text)]) + text
        out += piece
    return out


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


RECONSTRUCT = np._core.multiarray._reconstruct  # type: ignore[attr-defined]


class TestHostileFiles:
    @pytest.mark.parametrize(
        "function",
        [
            os.system,
            builtins.eval,
            builtins.exec,
            subprocess.check_output,
            builtins.getattr,
            np.load,
            np.fromfile,
        ],
        ids=lambda function: function.__name__,
    )
    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_nothing_is_run(self, tmp_path: Path, function: Any, protocol: int) -> None:
        mark = tmp_path / "ran"
        code = f"touch {mark}" if function is not builtins.eval else f"open({str(mark)!r}, 'w')"
        path = save(tmp_path / "a.gz", {"traj_feat": Calls(function, code)}, protocol)
        with pytest.raises(BadInput, match="which arrays do not need") as caught:
            load_trajectories(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        read_made(path)
        assert not mark.exists()

    def test_the_same_file_would_run_elsewhere(self, tmp_path: Path) -> None:
        """Shows that the tests above can fail."""
        with_gzip_and_pickle(save(tmp_path / "a.gz", Calls(os.system, f"touch {tmp_path / 'ran'}")))
        assert (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["ndarray.tofile", "ndarray.__class__", "dtype.type", "f2py.os.system"])
    def test_attributes_of_what_is_allowed(self, tmp_path: Path, name: str) -> None:
        data = b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
        (tmp_path / "a.gz").write_bytes(gzip.compress(data))
        with pytest.raises(BadInput, match="which arrays do not need"):
            load_trajectories(tmp_path / "a.gz")

    @pytest.mark.parametrize(
        "array",
        [
            np.array([[[[Trajectories]]]], dtype=object),
            np.array([[[["text"]]]]),
            np.zeros((2, 1, 1, 1), [("a", "i4")]),
            np.zeros((2, 1, 1, 1), "datetime64[s]"),
            np.zeros((2, 1, 1, 1), complex),
            Calls(np.ndarray, (2, 1, 1, 1), "O", bytearray(16)),
            Calls(np.ndarray, (2, 1, 1, 1), "1000000000i1", bytearray(16)),
            Calls(np.ndarray, (2, 10**9, 10**3, 10**3), "int8"),
            Calls(np.ndarray, (2, 10**9, 10**3, 10**3), "int8", bytearray(16)),
            Calls(np.ndarray, (2**63, 2**63, 2, 2), "int8", bytearray(16)),
            Calls(np.ndarray, (-1, 1, 1, 1), "int8", bytearray(16)),
            Calls(np.ndarray, (2, 1, 1, 1), "int8", bytearray(16), 1, (2**40, 1, 1, 1)),
            Calls(np.ndarray, (1,) * 64, "int8", bytearray(1)),
            Calls(RECONSTRUCT, np.ndarray, (10**6, 10**6, 10, 10), b"b"),
            Calls(
                RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (2, 10**9, 9, 9), np.dtype("i1"), False, b"x")
            ),
            Calls(np.dtype, "i1", state=(3, "|", None, None, None, 10**9, 10**9, 63)),
            [1, 2],
            "text",
            None,
        ],
        ids=lambda array: type(array).__name__,
    )
    def test_arrays_that_are_not_plain_numbers_or_not_as_large_as_they_say(
        self, tmp_path: Path, array: Any
    ) -> None:
        for key in ("traj_feat", "traj_type"):
            content: dict[str, Any] = dict(zip(("traj_feat", "traj_type"), arrays(), strict=True))
            content[key] = array
            with pytest.raises(BadInput) as caught:
                load_trajectories(save(tmp_path / "a.gz", content))
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 400

    @pytest.mark.parametrize("content", [[], 5, {}, {"traj_feat": np.zeros((2, 1, 1, 1), np.int8)}])
    def test_other_contents(self, tmp_path: Path, content: Any) -> None:
        with pytest.raises(BadInput, match="no traj_feat and traj_type"):
            load_trajectories(save(tmp_path / "a.gz", content))

    @pytest.mark.parametrize(
        ("feat", "kind"),
        [
            ((5, 7, 3, 5), (7, 3, 5)),
            ((6, 7, 3, 5), (7, 3, 4)),
            ((0, 7, 3, 5), (7, 3, 5)),
            ((6, 7, 3), (7, 3, 5)),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path: Path, feat: Any, kind: Any) -> None:
        content = {"traj_feat": np.zeros(feat, np.int8), "traj_type": np.zeros(kind, np.uint8)}
        with pytest.raises(BadInput, match=r"do not fit|dimensions"):
            load_trajectories(save(tmp_path / "a.gz", content))


class TestDamage:
    def test_a_flipped_bit_anywhere_is_found(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a_3.gz", *arrays())
        whole = path.read_bytes()
        header = 10  # its time, operating system and compression hint have no effect
        for position in range(header, len(whole)):
            data = bytearray(whole)
            data[position] ^= 1 << position % 8
            path.write_bytes(data)
            with pytest.raises(BadInput) as caught:
                load_trajectories(path)
            assert "\n" not in str(caught.value)

    def test_cut_anywhere(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a_3.gz", *arrays())
        whole = path.read_bytes()
        for size in range(0, len(whole), 7):
            path.write_bytes(whole[:size])
            with pytest.raises(BadInput):
                load_trajectories(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"a\.gz: cannot be read \(No such file"):
            load_trajectories(tmp_path / "a.gz")


class TestPositions:
    def test_they_go_where_the_displacements_say(self) -> None:
        feat = np.zeros((4, 1, 2, 3), np.int8)
        feat[0], feat[1] = 3, -1
        feat[2], feat[3] = 0, 2
        points = Trajectories(feat, np.ones((1, 2, 3), np.uint8), 2).positions()
        assert points.shape == (3, 1, 2, 3, 2) and points.dtype == np.float32
        assert points[:, 0, 1, 2].tolist() == [[20, 12], [23, 12], [22, 14]]

    @pytest.mark.parametrize(("made", "edge"), [({}, 15), ({"source": {"width": 21, "height": 16}}, 20)])
    def test_from_the_nearest_place_inside(self, made: dict[str, Any], edge: int) -> None:
        feat = np.zeros((4, 1, 2, 2), np.int8)
        feat[0], feat[1] = 18, -2
        points = Trajectories(feat, np.ones((1, 2, 2), np.uint8), 2, made).positions()
        assert points[:, 0, 0, 1, 0].tolist() == [12, 30, edge - 2]
