"""Runs across Ray nodes: where workers sit, nodes that die in the middle of work, nodes that join, nothing left behind.

Three raylets on this machine are the nodes. Ray's heartbeats are made quick, so that a death is known within two seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from rewards.errors import UserError
from rl.config import ResourcesConfig, RuntimeConfig
from rl.placement import check_room, claims
from tests.soak.kills import ROOT, End, num_rows, output_of, rows, start

pytestmark = pytest.mark.slow

STORE_BYTES = 80 * 2**20
QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,  # of one that is busy; one that was killed refuses at once
    "health_check_failure_threshold": 3,
}
RECIPE = """
extends: math
name: tiny
data: {num_train: 100, num_eval: 20}
stages:
  - kind: grpo
    name: grpo
    steps: 6
    num_prompts: 6
    group_size: 4
    sampling: {max_tokens: 200}
    save_every: 2
    eval_every: 3
evaluation: {num_tasks: 10, num_tasks_during: 10, sampling: {max_tokens: 12}}
rewards: [{use: held.py:digits, timeout_s: 300}] # it is held up
engine: {max_batch_size: 24, max_seq_len: 256, deterministic: true} # the same bits on however many engines
"""
# Scores as long as no file says to wait: a test can be sure that it kills in the middle of scoring.
REWARD = """
import os, time

def digits(task, completion):
    while os.path.exists({hold!r}):
        time.sleep(0.02)
    return sum(c.isdigit() for c in completion) / max(1, len(completion))
"""


@dataclass
class Nodes:
    """A Ray cluster of raylets on this machine, and a folder to run in."""

    home: Path
    cluster: RayCluster
    mark: str  # in the environment of every process that belongs to it
    by_name: dict[str, Any] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)  # files in shared memory that its processes had

    def add(self, name: str, **resources: float) -> None:
        self.by_name[name] = self.cluster.add_node(
            num_cpus=2, resources=resources, node_name=name, object_store_memory=STORE_BYTES
        )

    def kill(self, name: str) -> None:
        """The node's raylet alone; what it had started ends by itself a second later."""
        raylet = self.by_name[name].all_processes["raylet"][0].process
        raylet.kill()
        raylet.wait()  # what it had started asks whether it exists, and a process that nobody waits for does

    def raylet(self, name: str) -> int:
        return int(self.by_name[name].all_processes["raylet"][0].process.pid)

    def actors(self, kind: str) -> dict[str, psutil.Process]:
        """The actors of a class by their nodes' names."""
        names = {self.raylet(name): name for name in self.by_name if self.by_name[name].all_processes["raylet"]}
        found = {}
        for raylet, name in names.items():
            for process in psutil.Process(raylet).children() if psutil.pid_exists(raylet) else []:
                with contextlib.suppress(psutil.Error):  # it has just ended
                    if f"ray::{kind}" in " ".join(process.cmdline()):
                        found[name] = process
        return found

    def processes(self) -> list[psutil.Process]:
        """Every living process that the cluster or a run on it has started, by their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if self.mark in process.environ().values() and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def look_at_shared_memory(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                self.shared |= {m.path for m in process.memory_maps() if m.path.startswith("/dev/shm/")}

    def of_runs(self) -> list[str]:
        """The command lines of living actors of runs, and of the children that rewards run in."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if re.search("ray::(Trainer|Rollout|Reward)Actor|import serve", line):
                    found.append(line[:100])
        return found

    @property
    def hold(self) -> Path:
        return self.home / "hold"

    @property
    def folder(self) -> Path:
        return self.home / "runs" / "tiny-1"

    @property
    def num_steps(self) -> int:
        return num_rows(self.folder)

    def events(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        return [e for e in map(json.loads, text.splitlines()[: text.count("\n")]) if e["event"] == name]


def begin(home: Path, *words: str) -> subprocess.Popen[str]:
    (home / "held.py").write_text(REWARD.format(hold=str(home / "hold")))
    (home / "tiny.yaml").write_text(RECIPE)
    return start(home, "run", "tiny.yaml", "runtime.num_threads=1", *words)


def wait(until: Callable[[], object], what: str, limit_s: float = 600.0) -> None:
    print(time.strftime("%X"), "waits for", what)  # pytest shows it where a test fails
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """A head that the trainer fits on, and nothing else yet. At the end no process and no shared memory is left."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # the nodes get the code from Ray, not from here
    monkeypatch.setenv("POLYMATH_TEST_CLUSTER", str(tmp_path))
    head = {"num_cpus": 2, "resources": {"train": 1}, "node_name": "head", "object_store_memory": STORE_BYTES}
    cluster = RayCluster(initialize_head=True, head_node_args={**head, "include_dashboard": False, "_system_config": QUICK})
    made = Nodes(tmp_path, cluster, str(tmp_path), {"head": cluster.head_node})
    try:
        yield made
        made.look_at_shared_memory()
    finally:
        for told in tmp_path.glob("runs/*/events.jsonl"):
            print(told.read_text()[-4000:])  # pytest shows it where a test fails
        logs = Path(cluster.head_node.get_logs_dir_path())
        for line in (logs / "gcs_server.out").read_text().splitlines():  # what Ray has thought of its nodes and actors
            if re.search(
                "Node is dead|Registering new node|(rea|reschedul)\\w+ placement group|Finished creating|Failed", line
            ):
                print(line[:200])
        cluster.shutdown()
    try:
        wait(lambda: not made.processes(), "left running", 20)
    finally:
        for process in made.processes():
            process.kill()
    assert made.shared, "Ray's object stores are in shared memory"
    assert not [path for path in made.shared if os.path.exists(path)]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> End:
    """What the recipe comes to in one process."""
    home = tmp_path_factory.mktemp("inline")
    process = begin(home, "runtime=inline")
    assert process.wait(timeout=800) == 0, output_of(home)
    return End.of(home / "runs" / "tiny-1")


def test_a_run_outlives_its_nodes(nodes: Nodes, untouched: End) -> None:
    """One engine's node is killed while it samples, the other's while it scores, a node joins between: the same end."""
    nodes.add("a", engine=1, score=1)
    nodes.add("b", engine=1, score=1)
    process = begin(
        nodes.home,
        f"runtime.address={nodes.cluster.address}",
        "runtime.num_rollout_workers=2",
        "runtime.num_reward_workers=2",
        "runtime.resources={trainer: {train: 1}, rollout: {engine: 1}, reward: {score: 1}}",
        "runtime.spread=true",
    )

    def back(worker: str) -> Callable[[], bool]:
        return lambda: process.poll() is not None or any(e["worker"] == worker for e in nodes.events("worker_restarted"))

    wait(lambda: process.poll() is not None or nodes.events("workers_placed"), "workers")
    [placed] = nodes.events("workers_placed")
    assert placed["nodes"]["trainer"] == "head"
    for kind in ("rollout", "reward"):
        assert {placed["nodes"][f"{kind} worker {i}"] for i in (0, 1)} == {"a", "b"}
    where = {kind: nodes.actors(f"{kind}Actor") for kind in ("Trainer", "Rollout", "Reward")}
    assert {kind: set(found) for kind, found in where.items()} == {
        "Trainer": {"head"}, "Rollout": {"a", "b"}, "Reward": {"a", "b"},
    }  # fmt: skip
    assert all("runtime_resources" in process.cwd() for found in where.values() for process in found.values())

    first = next(worker for worker, node in placed["nodes"].items() if node == "a" and worker.startswith("rollout"))
    engine = where["Rollout"]["a"]
    wait(lambda: nodes.events("engine"), "the engines")  # their first work: without weights to load, they sample at once
    used_s = sum(engine.cpu_times()[:2])
    wait(lambda: sum(engine.cpu_times()[:2]) > used_s + 0.1, "sampling")
    psutil.Process(nodes.raylet("a")).suspend()  # it cannot say that the engine ended: a broken connection is all there is,
    engine.kill()
    wait(lambda: first in [e["worker"] for e in nodes.events("worker_lost")], "the loss to be seen")
    nodes.kill("a")  # and a new engine was begun on a node that is dying
    lost = next(e for e in nodes.events("worker_lost") if e["worker"] == first)
    assert "rollouts of 3 tasks" in lost["error"]
    assert "unavailable" in lost["error"]
    nodes.look_at_shared_memory()
    wait(lambda: nodes.num_steps >= 2, "two steps with one engine")
    second = next(worker for worker in placed["nodes"] if worker.startswith("rollout") and worker != first)
    nodes.actors("RolloutActor")["b"].kill()
    wait(back(second), "the engine whose process alone died, while the other waits for a node")
    nodes.hold.touch()
    nodes.add("c", engine=1, score=1)
    wait(back(first), "the engine on the node that joined")
    wait(back("reward worker 0" if placed["nodes"]["reward worker 0"] == "a" else "reward worker 1"), "the scorer too")
    assert all(e["node"] == ("b" if e["worker"] == second else "c") for e in nodes.events("worker_restarted"))
    assert "b" in nodes.actors("RewardActor")
    nodes.kill("b")
    wait(lambda: any("the scores of" in e["error"] for e in nodes.events("worker_lost")), "a loss while scoring")
    assert any("its node has died" in e["error"] for e in nodes.events("worker_lost"))
    nodes.hold.unlink()
    assert process.wait(timeout=400) == 0, output_of(nodes.home)

    assert End.of(nodes.folder) == untouched
    assert all(row["num_failed_rollouts"] == 0 for row in rows(nodes.folder / "metrics.jsonl"))
    assert not nodes.events("failed")
    wait(lambda: not nodes.of_runs(), "actors or their children are left", 20)
    _check_other_versions_are_refused(nodes)
    ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}
        assert ray.available_resources()["engine"] == 1  # the node that is left, free for the next
        _check_errors()
    finally:
        ray.shutdown()


def _check_errors() -> None:
    """What a recipe asks for and the cluster lacks is said before anything waits for it."""
    for runtime, said in (
        (RuntimeConfig(resources=ResourcesConfig(rollout={"engin": 1})), "got engin 1, which no node .* c: CPU 2, engine 1"),
        (RuntimeConfig(resources=ResourcesConfig(reward={"CPU": 3})), r"reward: got CPU 3, which no node has"),
        (RuntimeConfig(resources=ResourcesConfig(rollout={"engine": 1}), num_rollout_workers=2), "claim 2 engine, .* has 1"),
        (RuntimeConfig(spread=True, num_rollout_workers=3), "spread: got true with 3 rollout workers, but only 2 nodes"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            check_room(runtime, claims(runtime, 0), 1)


def test_a_run_whose_trainer_loses_its_node_is_resumed_on_another(nodes: Nodes, untouched: End) -> None:
    nodes.add("t", learn=1)
    process = begin(
        nodes.home, f"runtime.address={nodes.cluster.address}", "runtime.resources={trainer: {learn: 1}, rollout: {train: 1}}"
    )
    wait(lambda: process.poll() is not None or nodes.num_steps >= 3, "three steps")
    assert set(nodes.actors("TrainerActor")) == {"t"}
    nodes.kill("t")
    assert process.wait(timeout=300) == 1, output_of(nodes.home)
    [failed] = nodes.events("failed")
    assert "died" in failed["error"]  # it, or with it the weights that an engine was loading
    assert failed["resume"].endswith("resume runs/tiny-1")
    assert "Traceback" not in output_of(nodes.home)
    wait(lambda: not nodes.of_runs(), "actors or their children are left", 20)
    nodes.add("u", learn=1)
    assert start(nodes.home, "resume", "tiny-1").wait(timeout=800) == 0, output_of(nodes.home)
    assert nodes.events("workers_placed")[-1]["nodes"]["trainer"] == "u"
    assert End.of(nodes.folder) == untouched


def _check_other_versions_are_refused(nodes: Nodes) -> None:
    """The command line in an environment whose Ray says that it is another one; and where no cluster is."""
    code = "import ray, sys; ray.__version__ = '2.0.1'; from recipes.cli import main; sys.exit(main(sys.argv[1:]))"
    for address, said in (
        (nodes.cluster.address, "cannot be joined: Version mismatch.* Ray: 2.0.1 .*; start every node with the versions"),
        ("127.0.0.1:1", "where nothing answers .*; start a cluster with `ray start --head`"),
    ):
        command = [sys.executable, "-c", code, "run", "tiny.yaml", f"runtime.address={address}"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=nodes.home, env=env, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 2
        assert re.search(f"runtime.address: got {address}, .*{said}", done.stderr), done.stderr[-1000:]
