"""All modules of fused kernels: on a GPU that is there, and in the GPU benchmark."""

from __future__ import annotations

import ast

import pytest

from m3flow.flow.fused import kernels
from support.paths import REPOSITORY

SOURCE = REPOSITORY / "src"
MODULES = {
    path.stem: ".".join(path.parent.relative_to(SOURCE).parts)
    for path in sorted(SOURCE.rglob("*_triton.py"))
    if "\ndef try_out(" in path.read_text()
}


@pytest.mark.gpu
@pytest.mark.parametrize("module", MODULES)
def test_kernels_work_on_this_gpu(module: str) -> None:
    assert kernels(module, "cuda:0", MODULES[module]) is not None


def test_the_gpu_benchmark_reports_on_all_kernels() -> None:
    tree = ast.parse((REPOSITORY / "benchmarks" / "gpu_sections.py").read_text())
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KERNELS"
    ]
    assert listed == [MODULES]
