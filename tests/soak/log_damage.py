"""A log of 64 KiB cut at every byte, and with every bit flipped: what is read is the longest whole prefix, every time.

`make soak` does all of them, `tests/test_framelog.py` those of smaller logs. Resumable by bytes: what is in
docs/results/log_damage.json is not done again.
"""

from __future__ import annotations

import json
import random
import tempfile
from bisect import bisect_right
from pathlib import Path
from typing import Any

from sandbox import framelog
from sandbox.framelog import FrameLog, decode
from tests.soak.kills import ROOT

RESULTS = ROOT / "docs" / "results" / "log_damage.json"
LOG_BYTES = 64 << 10
BATCH = 4096  # bytes whose damage is tried between two notes of how far it has come


def write_log(folder: Path) -> bytes:
    """One segment of LOG_BYTES: records of all sizes, most of them small; the same each time."""
    draw, log = random.Random(7), FrameLog(folder)
    [path] = folder.iterdir()
    while (left := LOG_BYTES - path.stat().st_size) > 0:
        size = min(draw.choice([0, 3, 40, 200, 900, 4000]), left - 16)
        log.append(draw.randbytes(size if left - 16 - size >= 32 or left - 16 == size else left - 16)).result(10)
    log.close()
    return path.read_bytes()


def try_bytes(folder: Path, whole: bytes, first: int, last: int) -> tuple[int, int]:
    """Cuts before, and flips the bits of, these bytes; how many cuts and flips were tried, all of them right.

    Raises:
        AssertionError: what was read is no longest whole prefix.
    """
    [path] = folder.iterdir()
    records = [record.data for _, record in decode(whole)][1:]
    ends = [end for end, _ in decode(whole)]
    damaged, num_cuts, num_flips = bytearray(whole), 0, 0
    for place in range(first, last):
        wanted = records[: max(0, bisect_right(ends, place) - 1)]
        for bit in range(8):
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            assert [record.data for record in framelog.read(folder)] == wanted, f"bit {bit} of byte {place}"
            damaged[place] ^= 1 << bit
            num_flips += 1
        path.write_bytes(whole[:place])
        assert [record.data for record in framelog.read(folder)] == wanted, f"cut at {place}"
        num_cuts += 1
    return num_cuts, num_flips


def main() -> None:
    done: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"bytes": 0, "cuts": 0, "flips": 0}
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as scratch:
        folder = Path(scratch)
        whole = write_log(folder)
        assert len(whole) == LOG_BYTES, len(whole)
        while done["bytes"] < len(whole):
            last = min(len(whole), done["bytes"] + BATCH)
            num_cuts, num_flips = try_bytes(folder, whole, done["bytes"], last)
            done = {"bytes": last, "cuts": done["cuts"] + num_cuts, "flips": done["flips"] + num_flips}
            done["records"] = len(list(decode(whole))) - 1
            RESULTS.write_text(json.dumps(done) + "\n")
            print(f"byte {last} of {len(whole)}", flush=True)
    RESULTS.with_suffix(".md").write_text(report(done))
    print(report(done))


def report(done: dict[str, Any]) -> str:
    return (
        "# Log damage\n\n"
        f"A log of {LOG_BYTES:,} bytes and {done['records']} records, damaged and read: cut at every byte, every bit\n"
        "flipped. Each time exactly the records before the damage were read. Written by `make soak`.\n\n"
        "| damage | tried | read as the longest whole prefix |\n|---|---|---|\n"
        f"| cut | {done['cuts']:,} | {done['cuts']:,} |\n| one bit flipped | {done['flips']:,} | {done['flips']:,} |\n"
    )


if __name__ == "__main__":
    main()
