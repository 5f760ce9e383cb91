"""`polymath sandbox`: run a command in a box, see and end boxes, build images, print a command log."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable
from pathlib import Path

from recipes import sandbox_bench
from rewards.errors import UserError
from sandbox import commandlog, gc
from sandbox.errors import SandboxError, UnsupportedError
from sandbox.images import Images
from sandbox.pool import HOME, Pool, boxes_below
from sandbox.result import Verdict
from sandbox.spec import LayerName, Limits, Runtime

OF_VERDICTS = {Verdict.WALL_TIMEOUT: 124, Verdict.CPU_TIMEOUT: 124}  # as `timeout` has it
KILLED, FAILED = 137, 1
DAY_S = 86400.0


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The arguments of `polymath sandbox`."""
    parser.add_argument("--home", type=Path, default=HOME, help=f"where images, pools and logs are (default: {HOME})")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, text: str, handler: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(act=handler)
        return made

    run = action("run", "run a command in a new box", _run)
    run.add_argument(
        "--layer", choices=[layer.value for layer in LayerName], help="default: function, or container where there is a runtime"
    )
    run.add_argument("--runtime", choices=[runtime.value for runtime in Runtime], help="of a container (default: crun)")
    run.add_argument("--image", help="of `polymath sandbox image list`; the function layer takes none")
    run.add_argument("--wall-s", type=float, default=30.0, help="seconds after which it is ended (default: 30)")
    run.add_argument("--memory-mib", type=int, default=512, help="of the box (default: 512)")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")

    shell = action("shell", "a terminal in a new box", _shell)
    shell.add_argument("--layer", choices=[layer.value for layer in LayerName], default="function", help="default: function")
    shell.add_argument("--image", help="of `polymath sandbox image list`; the function layer takes none")
    shell.add_argument("--runtime", choices=[runtime.value for runtime in Runtime], default="crun", help="of containers")
    shell.add_argument("--network", action="append", default=[], metavar="HOST:PORT", help="that it may reach; none by default")

    bench = action("bench", "what boxes of every kind cost on this machine, in a table", _bench)
    bench.add_argument("--image", help="for all but the function layer; those are left out without one")
    bench.add_argument("--repeats", type=int, default=20, help="of each measurement (default: 20)")
    bench.add_argument("--write", type=Path, metavar="FILE", help="the table as Markdown as well")

    action("ps", "the boxes that live now", _ps).add_argument("--json", action="store_true", help="for a machine to read")
    action("gc", "take away what boxes have left whose keeper was killed", _gc)
    log = action("log", "the commands of a box, or of a pool, as they were recorded", _log)
    log.add_argument("box", metavar="BOX|POOL")
    log.add_argument("--output", action="store_true", help="their output as well")

    image = action("image", "build, list and remove images", _image)
    image.add_argument("verb", choices=["build", "list", "rm"], nargs="?", default="list", help="what to do (default: list)")
    image.add_argument("name", nargs="?", help="of the image: `debian`, `team/repo`, `tools:2`")
    image.add_argument("source", nargs="?", help="build: `debian`, `debian-vm`, `docker:NAME`, a tar archive, or a folder")
    image.add_argument("--on", metavar="IMAGE", help="build: put it on top of this image")


def sandbox(arguments: argparse.Namespace) -> int:
    """Run one action.

    Raises:
        UserError: what was asked is wrong, or this machine cannot do it.
    """
    arguments.home = arguments.home.expanduser()
    try:
        handler: Callable[[argparse.Namespace], int] = arguments.act
        return handler(arguments)
    except (UnsupportedError, ValueError) as error:
        raise UserError(str(error)) from error
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _run(arguments: argparse.Namespace) -> int:
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise UserError("sandbox run: no command; write it after `--`, as in `polymath sandbox run -- echo hello`")
    limits = Limits(wall_s=arguments.wall_s, memory_bytes=arguments.memory_mib << 20)
    layer = arguments.layer or (LayerName.FUNCTION if arguments.runtime is None else LayerName.CONTAINER)

    def show(stream: str, data: bytes) -> None:
        target = sys.stdout.buffer if stream == "stdout" else sys.stderr.buffer
        target.write(data)
        target.flush()

    async def run() -> int:
        async with Pool(folder=arguments.home) as pool:
            box = await pool.create(layer, image=arguments.image, runtime=arguments.runtime or Runtime.CRUN, limits=limits)
            stdin = b"" if sys.stdin is None or sys.stdin.isatty() else await asyncio.to_thread(sys.stdin.buffer.read)
            result = await box.exec(words, stdin=stdin, on_output=show)
        if result.verdict not in (Verdict.OK, Verdict.NONZERO):
            signal = "" if result.signal is None else f", signal {result.signal}"
            print(f"{result.verdict}{signal} after {result.wall_s:.2f} s", file=sys.stderr)
        return OF_VERDICTS.get(result.verdict, KILLED if result.exit_code is None else result.exit_code)

    return asyncio.run(run())


def _shell(arguments: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise UserError("sandbox shell: the input is no terminal; use `polymath sandbox run`")

    async def run() -> int:
        async with Pool(folder=arguments.home, log=False) as pool:
            box = await pool.create(
                arguments.layer, image=arguments.image, runtime=arguments.runtime, network=arguments.network, ttl_s=DAY_S
            )
            size = os.get_terminal_size()
            terminal = await box.terminal(rows=size.lines, columns=size.columns)
            loop, typed = asyncio.get_running_loop(), asyncio.Queue[bytes]()
            loop.add_reader(sys.stdin, lambda: typed.put_nowait(os.read(sys.stdin.fileno(), 4096)))
            loop.add_signal_handler(signal.SIGWINCH, lambda: typed.put_nowait(b""))

            async def send() -> None:
                while True:
                    if data := await typed.get():
                        await terminal.write(data)
                    else:
                        size = os.get_terminal_size()
                        await terminal.resize(size.lines, size.columns)

            sending = asyncio.create_task(send())
            try:
                while data := await terminal.read():
                    os.write(sys.stdout.fileno(), data)
            finally:
                sending.cancel()
                loop.remove_reader(sys.stdin)
            return (await terminal.wait()).exit_code or 0

    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        return asyncio.run(run())
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _bench(arguments: argparse.Namespace) -> int:
    text = sandbox_bench.bench(
        arguments.home, arguments.image, arguments.repeats, lambda kind: print(f"measures {kind}", file=sys.stderr)
    )
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(
            f"# What a box costs\n\nWritten by `polymath sandbox bench`. {sandbox_bench.machine()}\n\n{text}"
        )
    return 0


def _ps(arguments: argparse.Namespace) -> int:
    boxes = asyncio.run(boxes_below(arguments.home))
    if arguments.json:
        print(json.dumps(boxes, indent=2))
        return 0
    print(f"{'BOX':<28}{'LAYER':<18}{'IMAGE':<20}{'ENDS IN':<12}{'STATE':<8}LABELS")
    for box in boxes:
        state = "lives" if box["alive"] else "dead"
        layer = box["layer"] if box["runtime"] in (None, "crun") else f"{box['layer']}/{box['runtime']}"
        labels = ",".join(f"{key}={value}" for key, value in sorted(box["labels"].items()))
        print(f"{box['id']:<28}{layer:<18}{box['image'] or '-':<20}{box['left_s']:<12.0f}{state:<8}{labels}")
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    names = gc.collect(arguments.home)
    print(f"{len(names)} pools that nobody keeps: {', '.join(names) or 'nothing was left'}")
    return 0


def _log(arguments: argparse.Namespace) -> int:
    folder = arguments.home / "logs" / arguments.box
    pool = arguments.box if folder.is_dir() else arguments.box.partition("-")[0]
    folder = arguments.home / "logs" / pool
    if not folder.is_dir():
        names = ", ".join(sorted(path.name for path in folder.parent.glob("*"))) or "none"
        raise UserError(f"sandbox log: got {arguments.box}, which has no log below {folder.parent}; there are: {names}")
    for entry in commandlog.read(folder):
        if arguments.box not in (pool, entry.box_id):
            continue
        facts = entry.facts or {}
        end = facts.get("verdict") or facts.get("message") or ("done" if entry.facts is not None else "no result")
        took = f"{facts['wall_s']:.3f} s" if "wall_s" in facts else ""
        print(f"{entry.box_id} {entry.seq:<5}{end:<15}{took:<11}{entry.shown}")
        if arguments.output and entry.data:
            sys.stdout.flush()
            sys.stdout.buffer.write(entry.data + b"\n")
    return 0


def _image(arguments: argparse.Namespace) -> int:
    images = Images(arguments.home / "images")
    if arguments.verb == "build":
        if arguments.name is None or arguments.source is None:
            raise UserError("sandbox image build: give a name and a source, as in `polymath sandbox image build py debian`")
        start = time.monotonic()
        image = images.build(arguments.name, arguments.source, arguments.on)
        size = images.size_bytes(image) / 2**20
        print(f"{image.name}: {len(image.layers)} layers, {size:.0f} MiB, built in {time.monotonic() - start:.0f} s")
    elif arguments.verb == "rm":
        if arguments.name is None:
            raise UserError("sandbox image rm: give the name of an image")
        print(f"freed {images.remove(arguments.name) / 2**20:.0f} MiB")
    else:
        print(f"{'IMAGE':<24}{'LAYERS':<8}{'MIB':<8}SOURCE")
        for image in images.all():
            print(f"{image.name:<24}{len(image.layers):<8}{images.size_bytes(image) / 2**20:<8.0f}{image.source}")
    return 0
