"""Windows read on their own: against the same windows of the whole file, read by Python's gzip and pickle."""

from __future__ import annotations

import gzip
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from m3flow.errors import BadInput
from m3flow.results import trajectoryfile
from m3flow.results.stored_trajectories import StoredTrajectories
from m3flow.results.trajectoryfile import TrajectoryWriter, load_trajectories

LENGTH, ROWS, COLUMNS = 3, 5, 7


def write(path: Path, windows: int, pieces: int = 1) -> Path:
    random = np.random.default_rng(windows)
    shape = (windows, ROWS, COLUMNS)
    arrays = (
        random.integers(-20, 21, (2 * LENGTH, *shape)).astype(np.int8),
        random.integers(0, 2, shape).astype(np.uint8),
        random.integers(0, 256, (LENGTH, *shape)).astype(np.uint8),
        random.integers(-999, 999, (2 * LENGTH, *shape)).astype(np.int16),
    )
    with TrajectoryWriter(
        path, length=LENGTH, rows=ROWS, columns=COLUMNS, confidence=True, fine=True
    ) as writer:
        for part in np.array_split(np.arange(windows), pieces):
            writer.write(arrays[0][:, part], arrays[1][part], arrays[2][:, part], arrays[3][:, part])
        writer.close({"settings": {"job": "trajs_dense"}, "source": {"width": 60, "height": 44}})
    return path


@pytest.mark.parametrize("windows", [0, 1, 15, 16, 17, 100])
def test_chosen_windows_are_those_of_the_file(windows: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", windows, pieces=3)
    with gzip.open(path) as file:
        content = pickle.load(file)
    stored = StoredTrajectories(path)
    assert (stored.windows, stored.length, stored.grid) == (windows, LENGTH, (ROWS, COLUMNS))
    assert stored.made == load_trajectories(path).made and stored.made["source"]["width"] == 60
    if windows == 0:
        return
    for numbers in ([0], [windows - 1], list(range(0, windows, 8)), [windows - 1, 0, windows // 2, 0]):
        part = stored.read(numbers)
        np.testing.assert_array_equal(part.traj_feat, content["traj_feat"][:, numbers])
        np.testing.assert_array_equal(part.traj_type, content["traj_type"][numbers])
        np.testing.assert_array_equal(part.traj_conf, content["traj_conf"][:, numbers])
        np.testing.assert_array_equal(part.traj_fine, content["traj_fine"][:, numbers])


def test_blocks_change_neither_content_nor_other_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.gz", 40)
    assert write(tmp_path / "b.gz", 40, pieces=7).read_bytes() == path.read_bytes()
    assert subprocess.run(["gzip", "--test", path], check=False).returncode == 0
    monkeypatch.setattr(trajectoryfile, "MOST_BLOCKS", 20)
    fewer = write(tmp_path / "c.gz", 40)
    assert gzip.decompress(fewer.read_bytes()) == gzip.decompress(path.read_bytes())
    np.testing.assert_array_equal(
        StoredTrajectories(fewer).read([3, 39]).traj_feat, load_trajectories(path).traj_feat[:, [3, 39]]
    )


def test_files_without_blocks_are_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", 20)
    plain = tmp_path / "plain.gz"
    plain.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())))
    stored, other = StoredTrajectories(plain), StoredTrajectories(path)
    assert (stored.windows, stored.length, stored.grid, stored.made) == (20, 3, (5, 7), other.made)
    np.testing.assert_array_equal(stored.read([7, 3]).traj_feat, other.read([7, 3]).traj_feat)


def test_damage_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", 100)
    data = bytearray(path.read_bytes())
    with pytest.raises(BadInput, match="cannot be read"):
        StoredTrajectories(tmp_path / "gone.gz")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"a\.gz: not a trajectory file"):
        StoredTrajectories(path)
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"a\.gz: damaged"):
        StoredTrajectories(path).read(range(100))
