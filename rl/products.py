"""Which matrix products this machine runs fast. For float32: oneDNN in place of MKL, decided once a process.

`torch.backends.mkldnn.matmul.fp32_precision = "bf16"` sends float32 products to oneDNN, which may then round to bfloat16. It
does so on a CPU with AMX; on one without, it computes in true float32, on AMD about twice as fast as MKL.

The decision changes bits, and a resumed run must decide as the run did before. So it rests on what does not change from
start to start, the CPU's maker and flags and the exactness of a probe, and never on a time: the gain is measured to be shown.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SHAPES = ((256, 512, 384), (64, 64, 1024), (384, 1024, 64), (3, 257, 129))  # (rows, inner, columns): linear layers, both ways
MAX_RATIO = 4.0  # of errors; bfloat16's is about a thousand


@dataclass(frozen=True)
class Products:
    """What was decided, for the run's log. `speedup` informs: it took no part in the decision."""

    enabled: bool
    reason: str
    error_ratio: float | None = None  # oneDNN's largest error over MKL's, against float64; None: not probed
    speedup: float | None = None


@functools.cache
def use_fast_products() -> Products:
    """Switches float32 products of this process to oneDNN where that is exact and the CPU is one that gains; < 0.3 s.

    Whoever makes a model to train or to sample from calls it; later calls return the first one's decision.
    """
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Products(False, "this torch was built without oneDNN")
    cpuinfo = Path("/proc/cpuinfo")
    if against := reason_against(cpuinfo.read_text() if cpuinfo.exists() else ""):
        return Products(False, against)
    before = setting.fp32_precision
    factors = [_factors(*shape) for shape in SHAPES]
    exact = [a.double() @ b.double() for a, b in factors]
    plain_error, plain_s = _measure(factors, exact)
    setting.fp32_precision = "bf16"
    error, seconds = _measure(factors, exact)
    ratio, speedup = error / max(plain_error, 1e-12), plain_s / seconds
    if ratio > MAX_RATIO:
        setting.fp32_precision = before
        return Products(False, f"oneDNN's products are not float32 here: {ratio:.0f} times MKL's error", ratio, speedup)
    return Products(True, f"oneDNN in float32: {ratio:.1f} times MKL's error, {speedup:.1f} times its speed", ratio, speedup)


def reason_against(cpuinfo: str) -> str | None:
    """Why the CPU that /proc/cpuinfo describes should keep MKL; None: it should not."""
    fields = dict(line.replace("\t", "").split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    vendor, flags = fields.get("vendor_id", "").strip(), fields.get("flags", "").split()
    if vendor != "AuthenticAMD":
        return f"on a CPU by {vendor or 'an unknown maker'} oneDNN is no faster than MKL"
    if "avx512f" not in flags:
        return "measured to be faster with AVX-512 only, which this CPU lacks"
    if any(flag.startswith("amx") for flag in flags):
        return "with AMX oneDNN rounds to bfloat16"
    return None


def fast_bfloat16() -> bool:
    """Whether bfloat16 products are much faster than float32 ones. Intel's cores without tile units run them at half the
    rate. By the processor's kind, never by a measurement: a run that goes on must compute as it began.
    """
    units = torch.cpu.get_capabilities()
    return bool(units.get("amx_bf16") or (units.get("avx512_bf16") and "Intel" not in str(units.get("cpu_name"))))


def _factors(rows: int, inner: int, columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator).T


def _measure(factors: list[tuple[Tensor, Tensor]], exact: list[Tensor]) -> tuple[float, float]:
    """(largest error relative to the largest entry, seconds of the fastest of five rounds)."""
    error = max(float(((a @ b).double() - e).abs().max() / e.abs().max()) for (a, b), e in zip(factors, exact, strict=True))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for a, b in factors:
            a @ b
        times.append(time.perf_counter() - start)
    return error, min(times)
