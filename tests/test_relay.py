"""The relay between clients and the one stream of an agent: a real agent in a process, over pipes, a socket and a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import tty
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox.agent import Agent
from sandbox.errors import BoxLostError
from sandbox.guest.frames import CUT, Decoder, FrameError, HeaderError, Outbox, encode
from sandbox.layers.base import AGENT_MAIN
from sandbox.layers.docker import SAID_BYTES, Chunks
from sandbox.relay import SKIPPED_BYTES, Relay
from tests.soak.kills import ROOT

LIMIT_S = 20.0  # for what takes milliseconds


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def relayed(path: Path, kind: str) -> AsyncIterator[tuple[Relay, subprocess.Popen[bytes]]]:
    command = [sys.executable, "-S", "-E", "-c", AGENT_MAIN.format(path=str(ROOT)), "--stream"]
    if kind == "pipes":
        theirs, writes = os.pipe()
        reads, ours = os.pipe()
        process = subprocess.Popen([*command, "0,1"], stdin=theirs, stdout=ours, env={})
        os.close(theirs)
        os.close(ours)
        relay = await Relay.over_pipes(path, reads, writes)
    else:
        near, far = socket.socketpair()
        process = subprocess.Popen([*command, str(far.fileno())], pass_fds=[far.fileno()], env={})
        far.close()
        relay = await Relay.over_socket(path, near)
    try:
        yield relay, process
    finally:
        relay.close()
        assert await asyncio.to_thread(process.wait, LIMIT_S) == 0  # the end of its stream is the agent's


def shell(number: int, command: str, **more: Any) -> dict[str, Any]:
    return {"op": "exec", "id": number, "argv": ["/bin/sh", "-c", command], "env": {"PATH": "/usr/bin:/bin"}, **more}


async def output(agent: Agent, order: dict[str, Any]) -> bytes:
    data = bytearray()

    def on(header: dict[str, Any], payload: bytes) -> None:
        if header["type"] == ("output" if order.get("live") else "kept"):
            data.extend(payload)

    await agent.ask(order, on=on)
    return bytes(data)


@pytest.mark.parametrize("kind", ["pipes", "socket"])
def test_commands_output_and_files_go_through(tmp_path: Path, kind: str) -> None:
    async def test() -> None:
        async with relayed(tmp_path / "agent", kind):
            agent = await Agent.connect(tmp_path / "agent")
            assert (await agent.ask({"op": "ping", "id": 1}))[0]["type"] == "done"
            assert await output(agent, shell(2, "echo here; cat /proc/self/fd/0")) == b"here\n"
            live = await output(agent, shell(3, "seq 300000", live=True))
            assert live == b"".join(b"%d\n" % i for i in range(1, 300001))
            data = os.urandom(1 << 20)
            await agent.ask({"op": "write", "id": 4, "path": str(tmp_path / "file"), "offset": 0}, data)
            header, read = await agent.ask(
                {"op": "read", "id": 5, "path": str(tmp_path / "file"), "offset": 0, "size": 1 << 20}
            )
            assert (header["size"], read) == (len(data), data)
            results = await asyncio.gather(*(output(agent, shell(i, f"sleep 0.05; echo {i}")) for i in range(10, 20)))
            assert results == [b"%d\n" % i for i in range(10, 20)]
            agent.close()

    run(test)


def test_a_device_is_a_stream_and_is_waited_for_when_its_other_side_is_closed(tmp_path: Path) -> None:
    async def test() -> None:
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        command = [sys.executable, "-S", "-E", "-c", AGENT_MAIN.format(path=str(ROOT)), "--stream", os.ttyname(theirs)]
        with subprocess.Popen(command, env={}) as process:
            relay = await Relay.over_pipes(tmp_path / "agent", ours, os.dup(ours))
            agent = await Agent.connect(tmp_path / "agent")
            assert await output(agent, shell(1, "seq 10000")) == b"".join(b"%d\n" % i for i in range(1, 10001))
            agent.close()
            relay.close()
            await asyncio.sleep(0.2)
            used = psutil.Process(process.pid).cpu_times()
            await asyncio.sleep(0.3)
            assert psutil.Process(process.pid).cpu_times().user - used.user < 0.15
            assert process.poll() is None
            process.kill()
        os.close(theirs)

    run(test)


def test_a_client_that_dies_in_the_middle_of_a_frame_harms_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        async with relayed(tmp_path / "agent", "pipes"):
            for cut in (3, 8, 20, 70_000):
                frame = encode({"op": "stdin", "id": 1}, bytes(100_000))
                _, writer = await asyncio.open_unix_connection(tmp_path / "agent")
                writer.write(frame[:cut])
                await writer.drain()
                writer.transport.abort()
                agent = await Agent.connect(tmp_path / "agent")
                assert await output(agent, shell(100 + cut, "echo whole")) == b"whole\n"
                agent.close()

    run(test)


def test_a_new_client_gets_nothing_of_the_one_before_it_and_recalls_its_command(tmp_path: Path) -> None:
    async def test() -> None:
        done = tmp_path / "done"
        async with relayed(tmp_path / "agent", "pipes"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "agent")
            command = f"seq 2000000; echo end > {done}"  # 15 MB: more than fits on the way to a client that does not read
            writer.write(encode(shell(1, command, live=True, keep_bytes=1000)))
            await reader.readexactly(10)  # so part of a frame is taken
            newest = await Agent.connect(tmp_path / "agent")  # the first one is still there
            assert (await newest.ask({"op": "ping", "id": 7}))[0]["type"] == "done"
            kept = await output(newest, {"op": "recall", "id": 1})
            assert (kept[:6], kept[-8:]) == (b"1\n2\n3\n", b"2000000\n")
            assert len(kept) == 1000
            with contextlib.suppress(ConnectionError):
                while await reader.read(1 << 16):  # it was cut off
                    pass
            writer.close()
            newest.close()

    run(test)


def test_a_command_goes_on_while_nobody_is_connected(tmp_path: Path) -> None:
    async def test() -> None:
        done = tmp_path / "done"
        async with relayed(tmp_path / "agent", "pipes"):
            _, writer = await asyncio.open_unix_connection(tmp_path / "agent")
            writer.write(encode(shell(1, f"sleep 0.1; seq 2000000; echo end > {done}", live=True, keep_bytes=100)))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()
            while not done.exists():
                await asyncio.sleep(0.01)
            agent = await Agent.connect(tmp_path / "agent")
            assert (await output(agent, {"op": "recall", "id": 1})).endswith(b"\n2000000\n")
            with pytest.raises(ValueError, match="command 1 is there already"):
                await agent.ask(shell(1, "true"))
            assert (await agent.ask({"op": "recall", "id": 2}))[0]["type"] == "unknown"
            agent.close()

    run(test)


@pytest.mark.parametrize("broken", [struct.pack("<II", 1 << 30, 0), struct.pack("<II", 4, 0) + b"[1]\n", CUT])
def test_a_client_that_sends_no_frame_is_cut_off(tmp_path: Path, broken: bytes) -> None:
    async def test() -> None:
        async with relayed(tmp_path / "agent", "pipes"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "agent")
            writer.write(broken)
            assert await reader.read() == b""
            writer.close()
            agent = await Agent.connect(tmp_path / "agent")
            assert await output(agent, shell(1, "echo fine")) == b"fine\n"
            agent.close()

    run(test)


def test_an_agent_that_ends_is_a_lost_box(tmp_path: Path) -> None:
    async def test() -> None:
        near, far = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", AGENT_MAIN.format(path=str(ROOT)), "--stream", str(far.fileno())],
            pass_fds=[far.fileno()], env={},
        )  # fmt: skip
        far.close()
        relay = await Relay.over_socket(tmp_path / "agent", near)
        agent = await Agent.connect(tmp_path / "agent")
        await agent.ask({"op": "ping", "id": 1})
        waits = asyncio.ensure_future(agent.ask(shell(2, "sleep 100")))
        await asyncio.sleep(0.05)
        process.kill()
        with pytest.raises(BoxLostError):
            await waits
        assert await relay.ended == "the stream to the agent ended"
        process.wait()

    run(test)


async def a_hostile_agent(path: Path) -> tuple[Relay, socket.socket]:
    near, far = socket.socketpair()
    far.setblocking(False)
    return await Relay.over_socket(path, near), far


async def answer_hello(far: socket.socket) -> None:
    loop, decoder = asyncio.get_running_loop(), Decoder()
    while True:
        for order, _ in decoder.feed(await loop.sock_recv(far, 1 << 16)):
            if order["op"] == "hello":
                await loop.sock_sendall(far, encode({"type": "hello", "id": order["id"]}))
                return


async def push(ours: socket.socket, frame: bytes) -> int:
    """How much of such frames is taken before nothing more is; at most 64 MiB."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 64 << 20:
            sent += ours.send(frame[sent % len(frame) :])
            await asyncio.sleep(0.002)
    return sent


def test_an_agent_that_sends_no_frame_loses_its_box(tmp_path: Path) -> None:
    async def test() -> None:
        relay, far = await a_hostile_agent(tmp_path / "agent")
        agent = await Agent.connect(tmp_path / "agent")
        await answer_hello(far)
        waits = asyncio.ensure_future(agent.ask({"op": "ping", "id": 1}))
        await asyncio.get_running_loop().sock_sendall(far, b"\xff" * 100)
        with pytest.raises(BoxLostError):
            await waits
        assert "no answer" in await relay.ended
        with pytest.raises(OSError, match="refused"):
            await Agent.connect(tmp_path / "agent")
        far.close()

    run(test)


def test_an_agent_that_floods_is_not_read_while_nobody_is_there(tmp_path: Path) -> None:
    async def test() -> None:
        relay, far = await a_hostile_agent(tmp_path / "agent")
        agent = await Agent.connect(tmp_path / "agent")
        await answer_hello(far)
        agent.close()
        await asyncio.sleep(0.05)
        flood = encode({"type": "output", "id": 1}, bytes(1 << 20))
        assert await push(far, flood) < 4 << 20
        assert not relay.ended.done()
        relay.close()
        far.close()

    run(test)


def test_an_agent_that_floods_in_place_of_an_answer_is_ended_in_bounded_memory(tmp_path: Path) -> None:
    async def test() -> None:
        relay, far = await a_hostile_agent(tmp_path / "agent")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        agent = await Agent.connect(tmp_path / "agent")
        flood = encode({"type": "hello", "id": "guessed"}) * 10_000
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 4 * SKIPPED_BYTES:
                await asyncio.get_running_loop().sock_sendall(far, flood)
                sent += len(flood)
        assert sent < 2 * SKIPPED_BYTES
        assert "no answer to `hello`" in await relay.ended
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
        agent.close()
        far.close()

    run(test)


def test_a_client_that_does_not_read_keeps_the_agent_waiting_and_not_the_relay_growing(tmp_path: Path) -> None:
    async def test() -> None:
        relay, far = await a_hostile_agent(tmp_path / "agent")
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(tmp_path / "agent"))
        await answer_hello(far)
        assert await push(far, encode({"type": "output", "id": 1}, bytes(1 << 16))) < 4 << 20
        slow.close()
        relay.close()
        far.close()

    run(test)


def test_orders_wait_for_an_agent_that_does_not_read(tmp_path: Path) -> None:
    async def test() -> None:
        relay, far = await a_hostile_agent(tmp_path / "agent")
        busy = socket.socket(socket.AF_UNIX)
        busy.setblocking(False)
        busy.connect(str(tmp_path / "agent"))
        assert await push(busy, encode({"op": "stdin", "id": 1}, bytes(1 << 16))) < 4 << 20
        for _ in range(200):  # clients that come and go leave nothing either
            other = socket.socket(socket.AF_UNIX)
            other.connect(str(tmp_path / "agent"))
            await asyncio.sleep(0)
            other.close()
        seen = Decoder()
        hellos = 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.5):
                    data = await asyncio.get_running_loop().sock_recv(far, 1 << 16)
                hellos += sum(order["op"] == "hello" for order, _ in seen.feed(data))
        assert hellos == 2
        busy.close()
        relay.close()
        far.close()

    run(test)


def test_what_is_dropped_ends_with_a_whole_frame() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    for first in (10, 200_000):  # the second one is more than a pipe takes
        box = Outbox()
        box.add(encode({"n": 1}, bytes(first)))
        with contextlib.suppress(BlockingIOError):
            box.write_to(writes)
        box.add(encode({"n": 2}))
        box.drop()
        box.add(encode({"n": 3}))
        seen, decoder = [], Decoder()
        while 3 not in seen:
            with contextlib.suppress(BlockingIOError):
                box.write_to(writes)
            seen += [header["n"] for header, _ in decoder.feed(os.read(reads, 1 << 20))]
        assert seen == [1, 3]
        assert len(box) == 0
    os.close(reads)
    os.close(writes)


def test_a_frame_that_is_no_object_can_be_passed_over() -> None:
    decoder, seen = Decoder(), []
    data = encode({"n": 1}) + struct.pack("<II", 2, 1) + b"[]x" + encode({"n": 2})
    frames = decoder.feed(data)
    seen.append(next(frames)[0])
    with pytest.raises(HeaderError, match="no JSON object"):
        next(frames)
    seen += [header for header, _ in decoder.feed(b"")]
    assert seen == [{"n": 1}, {"n": 2}]


def test_what_an_engine_puts_between_the_bytes_of_a_stream_is_taken_out(tmp_path: Path) -> None:
    said = tmp_path / "stderr"
    pieces = [(1, b"abc"), (2, b"oh"), (1, b""), (1, bytes(5000)), (2, b"x" * 9000), (1, b"end")]
    data = b"".join(struct.pack(">BxxxI", kind, len(text)) + text for kind, text in pieces)
    for step in (1, 3, 8, 1000, len(data)):
        said.unlink(missing_ok=True)
        chunks = Chunks(said)
        out = b"".join(chunks.unwrap(data[at : at + step]) for at in range(0, len(data), step))
        assert out == b"abc" + bytes(5000) + b"end"
        assert said.read_bytes() == b"oh" + b"x" * (SAID_BYTES - 2)
    with pytest.raises(FrameError, match="of kind 7"):
        Chunks(said).unwrap(b"\x07" + bytes(7))
