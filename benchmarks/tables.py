"""Puts the tables of measured figures into README.md, from the stored results: `python benchmarks/tables.py`.

`--check` changes nothing and fails where a table is not what the results say.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"


def codecs() -> str:
    stored = _read("codecs.json")
    rows = [
        [
            name,
            f"{row['mean_error_levels']:.2f}",
            str(row["max_error_levels"]),
            f"{row['bytes_a_frame'] / 1000:.1f} kB",
        ]
        for name, row in stored["codecs"].items()
        if "quantiser" not in name
    ]
    head = ["codec", "mean error, levels", "largest", "a frame and component"]
    return _table(head, rows) + f"\n\n{_where(stored)} A level is 0.157 px."


def speed() -> str:
    stored = _read("extract-cpu.json")
    rows = [[name, f"{value:.2f}"] for name, value in stored["ratios"].items()]
    return _table(["ratio, both sides measured in one run", ""], rows) + f"\n\n{_where(stored)}"


TABLES = {"codecs": codecs, "speed": speed}


def filled(text: str) -> str:
    """The README with every table made anew."""
    for name, make in TABLES.items():
        pattern = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        table = make()
        text, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
        if count != 1:
            sys.exit(f"README.md has no place for the table {name}")
    return text


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _where(stored: dict[str, Any]) -> str:
    machine = stored["machine"]
    return (
        f"{stored['clips']} real clips; {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['date']}, OpenCV {machine['versions']['opencv-contrib-python-headless']}."
    )


def main() -> None:
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in sys.argv[1:]:
        sys.exit(
            "README.md: the tables are not what the results say; run python benchmarks/tables.py"
            if new != text
            else 0
        )
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
