"""`polymath sandbox`: run a command in a box, see and end boxes, build images, print a command log."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from recipes import sandbox_bench
from rewards.errors import UserError
from sandbox import commandlog, gc
from sandbox.errors import SandboxError, UnsupportedError
from sandbox.images import Images
from sandbox.pool import HOME, Pool, boxes_below
from sandbox.result import Verdict
from sandbox.spec import MIN_MEMORY_BYTES, LayerName, Limits, Runtime

OF_VERDICTS = {Verdict.WALL_TIMEOUT: 124, Verdict.CPU_TIMEOUT: 124}  # as `timeout` has it
KILLED, TERMINATED, FAILED = 137, 143, 1
DAY_S = 86400.0
NOTICE_S = 3.0  # of silence
NUM_NAMES = 10  # of logs that an error names


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
    except BrokenPipeError:
        raise
    except (UnsupportedError, ValueError) as error:
        raise UserError(str(error)) from error
    except (SandboxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _run(arguments: argparse.Namespace) -> int:
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise UserError("sandbox run: no command; write it after `--`, as in `polymath sandbox run -- echo hello`")
    if arguments.memory_mib << 20 < MIN_MEMORY_BYTES:
        raise UserError(f"--memory-mib: got {arguments.memory_mib}; at least {MIN_MEMORY_BYTES >> 20}")
    limits = Limits(wall_s=arguments.wall_s, memory_bytes=arguments.memory_mib << 20)
    layer = arguments.layer or (LayerName.FUNCTION if arguments.runtime is None else LayerName.CONTAINER)

    def show(stream: str, data: bytes) -> None:
        target = sys.stdout.buffer if stream == "stdout" else sys.stderr.buffer
        target.write(data)
        target.flush()

    async def run() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that the box ends with it
        async with Pool(folder=arguments.home) as pool:
            with _notice(layer):
                box = await pool.create(layer, image=arguments.image, runtime=arguments.runtime or Runtime.CRUN, limits=limits)
            stdin = b"" if sys.stdin is None or sys.stdin.isatty() else await _piped()
            result = await box.exec(words, stdin=stdin, on_output=show)
        if result.verdict not in (Verdict.OK, Verdict.NONZERO):
            by = "" if result.signal is None else f", signal {result.signal}"
            print(f"{result.verdict}{by} after {result.wall_s:.2f} s", file=sys.stderr)
        return OF_VERDICTS.get(result.verdict, KILLED if result.exit_code is None else result.exit_code)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        return TERMINATED


@contextlib.contextmanager
def _notice(layer: str) -> Iterator[None]:
    """Says why nothing is to be seen, while a box is started that takes its time."""
    text = f"the {layer} box is being started; the first machine of a kind is booted, which takes longer"
    waiting = asyncio.get_running_loop().call_later(NOTICE_S, lambda: print(text, file=sys.stderr))
    try:
        yield
    finally:
        waiting.cancel()


async def _piped() -> bytes:
    """All of the standard input, by a thread that nobody waits for who is interrupted."""
    loop = asyncio.get_running_loop()
    pieces = asyncio.Queue[bytes]()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it was interrupted
            while data := os.read(sys.stdin.fileno(), 1 << 20):
                loop.call_soon_threadsafe(pieces.put_nowait, data)
            loop.call_soon_threadsafe(pieces.put_nowait, b"")

    threading.Thread(target=read, name="stdin", daemon=True).start()
    found = bytearray()
    while data := await pieces.get():
        found += data
    return bytes(found)


def _shell(arguments: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise UserError("sandbox shell: the input is no terminal; use `polymath sandbox run`")

    async def run() -> int:
        async with Pool(folder=arguments.home, log=False) as pool:
            with _notice(arguments.layer):
                box = await pool.create(
                    arguments.layer, image=arguments.image, runtime=arguments.runtime, network=arguments.network, ttl_s=DAY_S
                )
            tty.setraw(sys.stdin)  # not before: Ctrl-C ends a start that takes too long
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
    try:
        return asyncio.run(run())
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.repeats < 1:
        raise UserError(f"--repeats: got {arguments.repeats}; at least 1")
    if arguments.image is not None:
        Images(arguments.home / "images").get(arguments.image)
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
    below = arguments.home / "logs"
    folders = sorted(below.glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True)
    named = [path for path in folders if path.name == arguments.box] or [
        path for path in folders if arguments.box.startswith(f"{path.name}-")
    ]
    found = [entry for path in named for entry in commandlog.read(path) if arguments.box in (path.name, entry.box_id)]
    if not found and arguments.box not in [path.name for path in named]:
        names = ", ".join(path.name for path in (named or folders)[:NUM_NAMES]) or "none"
        raise UserError(f"sandbox log: got {arguments.box!r}, which has no log below {below}; the latest pools: {names}")
    for entry in found:
        facts = entry.facts or {}
        end = facts.get("verdict") or facts.get("message") or ("done" if entry.facts is not None else "no result")
        took = f"{facts['wall_s']:.3f} s" if "wall_s" in facts else ""
        shown = entry.shown.encode(errors="backslashreplace").decode()  # words may be bytes that are no text
        print(f"{entry.box_id} {entry.seq:<5}{end:<15}{took:<11}{shown}")
        if arguments.output and entry.data:
            sys.stdout.flush()
            sys.stdout.buffer.write(entry.data + b"\n")
    return 0


def _image(arguments: argparse.Namespace) -> int:
    images = Images(arguments.home / "images")
    if arguments.verb == "build":
        if arguments.name is None or arguments.source is None:
            raise UserError("sandbox image build: give a name and a source, as in `polymath sandbox image build py debian`")
        images.check_name(arguments.name)
        start = time.monotonic()
        print(f"builds {arguments.name} from {arguments.source}", file=sys.stderr)
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
