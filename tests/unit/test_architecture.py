"""Architecture: the allowed imports between packages, and the size of files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import REPOSITORY

SOURCE = REPOSITORY / "src" / "m3flow"
# From the bottom up: a package imports only from lower layers and itself.
FLOORS = [
    {"errors", "version"},
    {"atomic", "steps", "system", "text", "layout", "validation"},
    {"videos", "flow"},
    {"settings", "camera", "trajectories"},
    {"results"},
    # Whatever reads results reads them from packs too.
    {"packs"},
    # live tracks as extraction does, and is used beside it.
    {"extraction", "report", "data", "live", "scoring"},
    {"experiment", "doctor"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_LINES, MOST_FILES = 400, 12


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module of ours, whether for the type checker alone) for every import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [member if member in NAMES else node.module for member in members]
        else:
            continue
        yield from ((name, node in for_types) for name in names if name.split(".")[0] == "m3flow")


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down_the_house(path: Path) -> None:
    room = room_of(module_name(path))
    if not room:
        return  # the package faces list their modules and import them when they are used
    for name, _ in imports(path):
        other = room_of(name)
        assert other in ("", room) or FLOOR[other] < FLOOR[room], f"{module_name(path)} imports {name}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module_name(path): {name for name, for_types in imports(path) if not for_types} for path in MODULES
    }
    visited: dict[str, bool] = {}  # True: done, False: on the path

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert visited.get(module, True), " -> ".join((*way, module))
        if module in visited:
            return
        visited[module] = False
        for name in graph.get(module, ()):
            if name != module:
                visit(name, (*way, module))
        visited[module] = True

    for module in graph:
        visit(module, ())


def test_files_are_short_and_few() -> None:
    long = {
        module_name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert not long
    assert len(list(SOURCE.glob("*.py"))) <= MOST_FILES


def test_the_checks_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from m3flow.cli import app\nif TYPE_CHECKING:\n    import m3flow.report\n")
    assert list(imports(wrong)) == [("m3flow.cli", False), ("m3flow.report", True)]
