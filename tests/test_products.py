"""The choice of float32 products: exact, the same at every start, and left alone where nothing is gained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rl.products
from rl.products import Products, reason_against, use_fast_products

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("cpuinfo", "reason"),
    [
        (AMD, None),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), "GenuineIntel"),
        (AMD.replace("avx512f ", ""), "lacks"),
        (AMD.replace("avx2", "amx_tile"), "AMX"),
        ("", "unknown maker"),
    ],
)
def test_the_cpu_decides(cpuinfo: str, reason: str | None) -> None:
    got = reason_against(cpuinfo)
    assert (got is None) == (reason is None)
    assert reason is None or reason in str(got)


def decided() -> tuple[Products, str]:
    """What `use_fast_products` says and leaves behind; the setting is put back."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        use_fast_products.cache_clear()
        return use_fast_products(), torch.backends.mkldnn.matmul.fp32_precision
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_this_machine_decides_the_same_twice_and_stays_exact() -> None:
    first, setting = decided()
    second, _ = decided()
    assert first.enabled == second.enabled
    assert first.enabled == (setting == "bf16")
    assert first.reason
    if Path("/proc/cpuinfo").exists() and "GenuineIntel" in Path("/proc/cpuinfo").read_text():
        assert not first.enabled
        assert first.error_ratio is None


def test_products_that_are_enabled_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the CPU: where the probe says yes a product's error is float32's, and where it says no nothing changed."""
    monkeypatch.setattr(rl.products, "reason_against", lambda cpuinfo: None)
    products, setting = decided()
    assert products.error_ratio is not None
    assert products.enabled == (products.error_ratio <= 4) == (setting == "bf16")
    if not torch.cpu._is_amx_tile_supported():
        assert products.error_ratio < 4


def test_rounded_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bound below any error the probe must say no and put the setting back."""
    monkeypatch.setattr(rl.products, "reason_against", lambda cpuinfo: None)
    monkeypatch.setattr(rl.products, "MAX_RATIO", 0.0)
    products, setting = decided()
    assert not products.enabled
    assert "not float32" in products.reason
    assert setting == torch.backends.mkldnn.matmul.fp32_precision
