"""A pool over several nodes: hosts in this process, and then in Ray's actors on three raylets, one of which is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from sandbox.actor import RayFleet
from sandbox.agent import Agent
from sandbox.blocking import BlockingPool
from sandbox.box import Box
from sandbox.cluster import ClusterPool
from sandbox.commandlog import CommandChangedError
from sandbox.errors import BoxLostError, BoxUnavailableError, UnsupportedError
from sandbox.placement import Amount, RefusedError
from sandbox.result import Result, Verdict
from sandbox.spec import BoxSpec, LayerName, Limits
from tests.here_fleet import HereFleet
from tests.soak.kills import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")
SMALL = Limits(memory_bytes=96 << 20, num_pids=32, disk_bytes=8 << 20, keep_bytes=4096)
ROOM = Amount(memory_bytes=4 * SMALL.memory_bytes, num_pids=1000, num_boxes=100, num_starting=4)
PATIENT_S = 60.0  # quick reports come late on a busy machine, and a node that is silent gets no box
QUICK = {"heartbeat_s": 0.2, "lease_s": 1.0, "room": ROOM, "wait_s": 20.0}

STORE_BYTES = 80 * 2**20
RAY_QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
CODE = {"env_vars": {"PYTHONPATH": str(ROOT)}}


def on(pool: ClusterPool, box: Box) -> str:
    return pool._where[box.box_id][0]


def run(home: Path, names: str, work: Callable[[ClusterPool, HereFleet], Coroutine[Any, Any, None]], **more: Any) -> None:
    async def main() -> None:
        fleet = HereFleet(set(names))
        try:
            async with ClusterPool(fleet, folder=home, **{**QUICK, **more}) as pool:
                pool._scheduler.max_age_s = PATIENT_S
                await work(pool, fleet)
        finally:
            await fleet.clean()

    asyncio.run(main())
    assert not list((home / "pools").iterdir())


def test_a_box_on_another_node_does_all_that_a_box_does(tmp_path: Path) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        box = await pool.create(limits=SMALL, labels={"run": "r"})
        pieces = list[bytes]()
        result = await box.exec("cat; exit 3", stdin=b"x" * (3 << 20), on_output=lambda _, piece: pieces.append(piece))
        assert (result.verdict, result.exit_code, sum(map(len, pieces))) == (Verdict.NONZERO, 3, 3 << 20)
        assert (await box.python("f", [1, 2], source="def f(x): return sum(x)")).value == 3
        await box.write_file("/tmp/a", data := os.urandom(2 << 20))
        assert await box.read_file("/tmp/a") == data
        with pytest.raises(FileNotFoundError):
            await box.read_file("/tmp/none")
        server = await box.start("cat; sleep 60")
        await server.kill()
        assert (await server.wait()).verdict is Verdict.SIGNAL
        terminal = await box.terminal(["/bin/sh", "-c", "read line; echo you said $line"])
        await terminal.write(b"hello\n")
        assert (await terminal.wait()).ok
        assert b"you said hello" in await terminal.read()
        if os.geteuid() == 0:
            used_up = await box.exec(["python3", "-c", "bytearray(500 << 20)"])
            assert used_up.verdict is Verdict.OUT_OF_MEMORY  # the counters come from there as well
            await box.pause()
            assert (await box.exec("echo on")).stdout.text == "on\n"
        with pytest.raises(UnsupportedError, match="snapshot: a box of the function layer cannot"):
            await box.snapshot()
        await pool.destroy(box)
        with pytest.raises(BoxLostError):
            await box.exec("true")

    run(tmp_path, "a", work)


def test_boxes_spread_and_the_node_has_the_last_word(tmp_path: Path) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        boxes = await asyncio.gather(*(pool.create(limits=SMALL) for _ in range(6)))
        assert Counter(on(pool, box) for box in boxes) == {"a": 3, "b": 3}
        spec = asdict(BoxSpec(LayerName.FUNCTION, limits=SMALL))
        host = fleet.hosts[0].host
        await host.tell("create", {"box": "x-1", "spec": spec, "labels": {}})
        with pytest.raises(RefusedError, match=r"384 of 384 memory_bytes \(MiB\) are taken, 96 more are asked for"):
            await host.tell("create", {"box": "x-2", "spec": spec, "labels": {}})
        with pytest.raises(ValueError, match="op: got 'close'"):
            await host.tell("close", {"box": "x-1"})
        more = await pool.create(limits=SMALL)  # by a report from before; if one node refuses, the other does not
        assert Counter(on(pool, box) for box in (*boxes, more)) == {"a": 3, "b": 4}
        await host.tell("destroy", {"box": "x-1"})

    run(tmp_path, "ab", work)


def test_who_finds_no_room_waits_for_it_by_turns_and_not_for_ever(tmp_path: Path) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        boxes = [await pool.create(limits=SMALL) for _ in range(4)]
        order = list[str]()

        async def one(label: str) -> None:
            box = await pool.create(limits=SMALL, labels={"run": label})
            order.append(label)
            await pool.destroy(box)

        waiting = [asyncio.create_task(one("greedy")) for _ in range(6)]
        await asyncio.sleep(0)
        waiting += [asyncio.create_task(one("modest")) for _ in range(2)]
        await asyncio.sleep(0.3)
        waiting[0].cancel()
        await pool.destroy(boxes[0])
        await asyncio.gather(*waiting[1:])
        assert len(order) == 7
        assert order.index("modest") <= 1
        assert Counter(order[:4]) == {"greedy": 2, "modest": 2}
        pool._wait_s = 0.3
        await pool.create(limits=SMALL)
        with pytest.raises(
            BoxUnavailableError, match=r"no room for a box of 96 MiB within 0.3 s \(1 nodes, 0 silent; taken: a 100%"
        ):
            await pool.create(limits=SMALL)
        with pytest.raises(UnsupportedError, match="a: it has 384 MiB for boxes, and 512 are asked for"):
            await pool.create()
        with pytest.raises(UnsupportedError, match=r"a: no container .crun. there: |a: no image none there"):
            await pool.create("container", image="none", limits=SMALL)

    run(tmp_path, "a", work)


def test_a_create_that_is_cancelled_leaves_no_box(tmp_path: Path) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        begun = asyncio.create_task(pool.create(limits=SMALL))
        while not fleet.hosts[0].told["create"]:
            await asyncio.sleep(0.001)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        while fleet.hosts[0].host._needs or fleet.hosts[0].host._beside:
            await asyncio.sleep(0.01)
        assert (await fleet.hosts[0].report()).used == Amount()

    run(tmp_path, "a", work)


def test_a_node_that_dies_takes_its_boxes_and_one_that_joins_gets_new_ones(tmp_path: Path) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        boxes = await asyncio.gather(*(pool.create(limits=SMALL) for _ in range(4)))
        gone = [box for box in boxes if on(pool, box) == "a"]
        assert len(gone) == 2
        running = [asyncio.create_task(box.exec("sleep 60", wall_s=90)) for box in gone]
        await asyncio.sleep(0.2)
        fleet.ended.add("a")
        for task in running:
            with pytest.raises(BoxLostError, match="node a"):
                await task
        for box in gone:
            with pytest.raises(BoxLostError, match="was lost with node a"):
                await box.exec("true")
            with pytest.raises(BoxLostError, match="was lost with node a"):
                await pool.tell("pause", box=box.box_id)
            await pool.destroy(box)
        assert pool.lost().keys() == {box.box_id for box in gone}
        assert pool.nodes() == ["b"]
        new = await pool.create(limits=SMALL)
        assert on(pool, new) == "b"
        for box in boxes:
            if box not in gone:
                assert (await box.exec("true")).ok
        fleet.names.add("c")
        while pool.nodes() != ["b", "c"]:
            await asyncio.sleep(0.05)
        joined = [await pool.create(limits=SMALL) for _ in range(3)]
        assert {on(pool, box) for box in joined} == {"c"}

    run(tmp_path, "ab", work)


def test_boxes_are_kept_ready_on_every_node(tmp_path: Path) -> None:
    async def ready(fleet: HereFleet) -> dict[str, int]:
        return {host.node: (await host.report()).used.num_boxes for host in fleet.hosts if host.node not in fleet.ended}

    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        await pool.warm(3, limits=SMALL)
        assert sorted((await ready(fleet)).values()) == [1, 2]
        box = await pool.create(limits=SMALL)
        assert (await box.exec("true")).ok
        await pool.release(box)
        fleet.ended.add("a")
        while await ready(fleet) != {"b": 3}:
            await asyncio.sleep(0.05)
        await pool.warm(0, limits=SMALL)
        assert await ready(fleet) == {"b": 0}

    run(tmp_path, "ab", work)


@pytest.mark.parametrize("killed", ["host", "keeper"])
def test_a_node_whose_host_or_keeper_ends_is_used_again_without_what_was_lost(tmp_path: Path, killed: str) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        box, first = await pool.create(limits=SMALL), fleet.hosts[0].host
        if killed == "keeper":
            assert first.pool._process is not None
            first.pool._process.kill()
        else:
            fleet.ended.add("a")
        while not pool.lost():
            await asyncio.sleep(0.02)
        fleet.ended.clear()
        while not pool.nodes():
            await asyncio.sleep(0.02)
        with pytest.raises(BoxLostError, match="was lost with node a"):
            await box.exec("true")
        while (await fleet.hosts[-1].report()).used.num_boxes:
            await asyncio.sleep(0.02)
        assert (await (await pool.create(limits=SMALL)).exec("true")).ok
        assert first._gate is not None
        assert first.pool._process is not None
        first._gate.close()
        if killed == "host":
            await fleet.hosts[-1].host.pool.tell("close")
        first.pool._process.wait(10)  # the one that came back is not its parent

    run(tmp_path, "a", work)


def test_a_client_that_comes_back_finds_its_boxes_on_their_nodes(tmp_path: Path) -> None:
    fleet = HereFleet({"a", "b"})

    async def first() -> tuple[str, str]:
        pool = ClusterPool(fleet, folder=tmp_path, name="again", **{**QUICK, "lease_s": 30.0})
        await pool.open()
        box = await pool.create(limits=SMALL, name="one")
        await box.write_file("/tmp/x", b"kept")
        said = (await box.exec("echo $$; cat /tmp/x")).stdout.text
        box.close_connection()  # as if it were killed
        assert pool._watching is not None
        pool._watching.cancel()
        for node in pool._nodes.values():
            assert node.listening is not None
            node.listening.cancel()
            node.close_connection()
        for host in fleet.hosts:
            assert host.host.pool._keeper is not None
            host.host.pool._keeper.close()
        return on(pool, box), said

    async def second() -> tuple[str, str]:
        async with ClusterPool(fleet, folder=tmp_path, name="again", **QUICK) as pool:
            box = await pool.create(limits=SMALL, name="one")
            await box.write_file("/tmp/x", b"kept")
            said = (await box.exec("echo $$; cat /tmp/x")).stdout.text
            assert (await box.exec("cat /tmp/x")).stdout.text == "kept"
            again = await pool.find(box.box_id, SMALL)
            with pytest.raises(CommandChangedError):
                await again.exec("echo something else")
            return on(pool, box), said

    async def both() -> None:
        assert await first() == await second()
        for host in fleet.hosts[:2]:  # nobody else will
            assert host.host._gate is not None
            assert host.host.pool._process is not None
            host.host._gate.close()
            host.host.pool._process.wait(10)

    asyncio.run(both())


def test_the_gate_opens_to_who_knows_the_token_alone(tmp_path: Path) -> None:
    async def work(pool: ClusterPool, fleet: HereFleet) -> None:
        box = await pool.create(limits=SMALL)
        [node] = pool._nodes.values()
        with pytest.raises(BoxLostError):
            await Agent.connect_to(node.gate, "0" * 32, "reach", box.box_id, "it")
        with pytest.raises(BoxLostError, match="none is gone"):
            await Agent.connect_to(node.gate, pool._settings.token, "reach", f"{pool.name}-none", "it")
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b""):
            reader, writer = await asyncio.open_connection(*node.gate)
            writer.write(words)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        assert (await box.exec("true")).ok

    run(tmp_path, "a", work)


@pytest.fixture(scope="module")
def ray_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A head without room for boxes, and two nodes with it; everything that belongs to them is known by its environment."""
    home = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMATH_TEST_CLUSTER", str(home))
        head = {"num_cpus": 2, "node_name": "head", "object_store_memory": STORE_BYTES, "include_dashboard": False}
        made = RayNodes(home, RayCluster(initialize_head=True, head_node_args={**head, "_system_config": RAY_QUICK}))
        try:
            made.add("a")
            made.add("b")
            yield made
        finally:
            made.cluster.shutdown()
    try:
        until(lambda: not made.processes(), "left running")
    finally:
        for process in made.processes():
            process.kill()


@dataclass
class RayNodes:
    home: Path
    cluster: RayCluster
    by_name: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str) -> None:
        self.by_name[name] = self.cluster.add_node(
            num_cpus=1, resources={"boxes": 1}, node_name=name, object_store_memory=STORE_BYTES
        )

    def kill(self, name: str) -> None:
        raylet = self.by_name[name].all_processes["raylet"][0].process
        raylet.kill()
        raylet.wait()

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.home) in process.environ().values() and process.pid != os.getpid():
                    found.append(process)
        return found


def until(holds: Callable[[], object], what: str, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def groups(name: str) -> list[str]:
    """The control groups of a pool's boxes, on whichever node."""
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/polymath/{name}.*")]


CLIENT = """
import asyncio, sys, ray
from pathlib import Path
from sandbox.actor import RayFleet
from sandbox.cluster import ClusterPool
from sandbox.placement import Amount
from sandbox.spec import Limits

async def main(address, home):
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": sys.path[0]}})
    small = Limits(memory_bytes=96 << 20, num_pids=32)
    room = Amount(memory_bytes=4 * small.memory_bytes, num_pids=1000, num_boxes=100, num_starting=4)
    pool = ClusterPool(RayFleet({"boxes": 1}), folder=Path(home), room=room, lease_s=2.0, heartbeat_s=0.3)
    await pool.open()
    boxes = await asyncio.gather(*(pool.create(limits=small) for _ in range(6)))
    print(pool.name, *sorted({name for name in pool.nodes()}), flush=True)
    await asyncio.gather(*(box.exec("setsid sleep 1000 & sleep 1000", wall_s=900) for box in boxes))

sys.path.insert(0, sys.argv[3])
asyncio.run(main(*sys.argv[1:3]))
"""


@pytest.mark.slow
def test_a_client_that_is_killed_leaves_nothing_on_any_node(ray_nodes: RayNodes) -> None:
    command = [sys.executable, "-c", CLIENT, ray_nodes.cluster.address, str(ray_nodes.home), str(ROOT)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        name, *names = client.stdout.readline().split()
        try:
            assert names == ["a", "b"]
            pools = list((ray_nodes.home / "pools").glob(f"{name}.*"))
            assert len(pools) == 2
            keepers = [process for process in ray_nodes.processes() if "sandbox.keeper" in process.cmdline()]
            assert len(keepers) == 2
            if os.geteuid() == 0:
                assert len({Path(path).name for path in groups(name)}) == 6
        finally:
            os.kill(client.pid, signal.SIGKILL)
    until(lambda: not any("HostActor" in line for line in lines(ray_nodes)), "Ray ends the actors of a client that is gone")
    assert any(keeper.is_running() for keeper in keepers), "a keeper outlives its owner"
    until(lambda: not any(keeper.is_running() for keeper in keepers), "the lease ends")
    assert not groups(name)
    assert not list((ray_nodes.home / "pools").iterdir())
    assert not any("sleep" in line or "bwrap" in line for line in lines(ray_nodes))


def lines(nodes: RayNodes) -> list[str]:
    found = []
    for process in nodes.processes():
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.slow
def test_boxes_over_raylets_outlive_one_that_is_killed_and_use_one_that_joins(ray_nodes: RayNodes) -> None:
    ray.init(ray_nodes.cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env=CODE)
    try:
        fleet = RayFleet({"boxes": 1})
        with BlockingPool(pool := ClusterPool(fleet, folder=ray_nodes.home, **{**QUICK, "lease_s": 2.0})) as boxes_of:
            pool._scheduler.max_age_s = PATIENT_S
            boxes = [boxes_of.create(limits=SMALL) for _ in range(6)]
            assert pool.nodes() == ["a", "b"]
            ids = {name: node for node, name in boxes_of.wait(fleet.nodes()).items()}
            at = {name: [box for box in boxes if on(pool, box.box) == ids[name]] for name in ("a", "b")}
            assert {name: len(found) for name, found in at.items()} == {"a": 3, "b": 3}
            for box in boxes:
                assert box.exec("cat", stdin=b"x" * 100_000).stdout.num_bytes == 100_000
            assert boxes[0].python("f", 20, source="def f(x): return x + 1").value == 21

            async def in_use() -> list[BaseException | Result]:
                running = [asyncio.create_task(box.box.exec("sleep 60", wall_s=90)) for box in at["a"]]
                await asyncio.sleep(0.3)
                await asyncio.to_thread(ray_nodes.kill, "a")
                return await asyncio.gather(*running, return_exceptions=True)

            for error in boxes_of.wait(in_use()):
                assert isinstance(error, BoxLostError)
                assert "node a" in str(error)
            until(lambda: pool.nodes() == ["b"], "the loss is noticed")
            assert pool.lost().keys() == {box.box.box_id for box in at["a"]}
            with pytest.raises(BoxLostError, match="was lost with node a"):
                at["a"][0].exec("true")
            assert on(pool, boxes_of.create(limits=SMALL).box) == ids["b"]
            assert all(box.exec("true").ok for box in at["b"])
            ray_nodes.add("c")
            until(lambda: pool.nodes() == ["b", "c"], "the node that joined")
            more = [boxes_of.create(limits=SMALL) for _ in range(3)]
            ids = {name: node for node, name in boxes_of.wait(fleet.nodes()).items()}
            assert {on(pool, box.box) for box in more} == {ids["c"]}
            assert more[0].exec("echo on c").stdout.text == "on c\n"
        until(lambda: not list((ray_nodes.home / "pools").iterdir()), "the keeper of the dead node ends with the lease")
        assert not groups(pool.name)
        assert not any("keeper" in line or "bwrap" in line for line in lines(ray_nodes))
    finally:
        ray.shutdown()
