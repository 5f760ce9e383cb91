"""`python -m tests.containment [--write] [LAYER ...]`: all probes on these layers (default: all), and the page of results."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sandbox.blocking import BlockingPool
from sandbox.pool import Pool
from tests import boxes
from tests.containment.probe import Outcome
from tests.containment.scene import Scene, controls
from tests.containment.table import LAYERS, OPEN, PROBES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "containment.md"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("layers", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, boxes.engine(), BlockingPool(Pool(folder=Path(home))) as pool:
        found = {}
        for layer in arguments.layers or [layer for layer in LAYERS if boxes.lacking(layer) is None]:
            found[layer] = Scene(pool, boxes.words(layer, Path(home))).run(PROBES)
            for name, outcome in found[layer].items():
                if outcome.kind != "contained":
                    print(f"{layer}: {name}: {outcome.kind}: {outcome.said}", file=sys.stderr, flush=True)
    text = page(found, controls(PROBES))
    if arguments.write:
        PAGE.write_text(text)
    print(text)


def page(found: Mapping[str, Mapping[str, Outcome]], shown: Mapping[str, Outcome]) -> str:
    layers = list(found)
    counts = {layer: sum(outcome.kind == "contained" for outcome in found[layer].values()) for layer in layers}
    num_shown = sum(outcome.kind == "shown" for outcome in shown.values())
    lines = [
        "# Containment",
        "",
        f"{len(PROBES)} attempts to get out of a box, on Linux {platform.release().split('-')[0]}; each is a small program or",
        "a thing that the host does to a box. Outside a box, as root, the same program succeeds where that is safe to show",
        f"(control: shown, {num_shown} of them); `lacking` is what this machine's kernel does not have at all, so that a",
        "refusal shows nothing. An attempt that succeeds inside and is not declared below fails the tests. Nothing here tries",
        "holes in the kernel. Written by `python -m tests.containment --write`.",
        "",
        "| layer | contained | open, declared | other |",
        "|---|---|---|---|",
    ]
    for layer in layers:
        num_open = sum((layer, name) in OPEN and outcome.kind == "escaped" for name, outcome in found[layer].items())
        lines.append(f"| {layer} | {counts[layer]} | {num_open} | {len(PROBES) - counts[layer] - num_open} |")
    lines += ["", "Open:", "", "| attempt | layers | why it is borne |", "|---|---|---|"]
    for why, name in sorted({(why, name) for (_, name), why in OPEN.items()}):
        on = [layer for layer in layers if OPEN.get((layer, name)) == why]
        lines.append(f"| {name} | {', '.join(on)} | {why} |")
    lines += ["", "| attempt | control | " + " | ".join(layers) + " |", "|---" * (2 + len(layers)) + "|"]
    for probe in PROBES:
        cells = [_cell(layer, probe.name, found[layer][probe.name]) for layer in layers]
        control = shown[probe.name]
        why = "" if control.kind in ("shown", "lacking") else f": {control.said}"
        lines.append(f"| {probe.name} | {control.kind}{why} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(layer: str, name: str, outcome: Outcome) -> str:
    if outcome.kind == "escaped":
        return "open" if (layer, name) in OPEN else f"**escaped**: {outcome.said}"
    return outcome.kind


if __name__ == "__main__":
    main()
