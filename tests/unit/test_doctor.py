"""The doctor's verdict on GPUs, from the known architectures of torch builds and GPUs."""

from __future__ import annotations

import pytest

from m3flow.doctor import has_code_for, torch_build_for

# torch.cuda.get_arch_list() of PyTorch's own builds.
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU128 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CU130 = [*CU128, "compute_120"]
PASCAL, VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = (
    (6, 1),
    (7, 0),
    (7, 5),
    (8, 0),
    (8, 9),
    (9, 0),
    (12, 0),
)


@pytest.mark.parametrize("capability", [TURING, AMPERE, ADA, HOPPER])
@pytest.mark.parametrize("built_for", [CU126, CU128, CU130])
def test_every_build_serves_these(capability: tuple[int, int], built_for: list[str]) -> None:
    assert has_code_for(capability, built_for)


@pytest.mark.parametrize("capability", [PASCAL, VOLTA])
def test_only_cu126_serves_volta_and_older(capability: tuple[int, int]) -> None:
    assert has_code_for(capability, CU126)
    assert not has_code_for(capability, CU128)
    assert not has_code_for(capability, CU130)
    assert "cu126" in torch_build_for(capability)


def test_cu126_does_not_serve_blackwell() -> None:
    assert not has_code_for(BLACKWELL, CU126)
    assert has_code_for(BLACKWELL, CU128)
    assert "cu128" in torch_build_for(BLACKWELL)


def test_ptx_serves_later_gpus_and_special_code_only_its_own() -> None:
    assert has_code_for((13, 0), CU130)
    assert not has_code_for((13, 0), CU128)
    assert has_code_for((9, 0), ["sm_90a"])
    assert not has_code_for((9, 1), ["sm_90a"])
    assert has_code_for((10, 3), ["sm_100f"])
