"""Runs probes: in boxes of one layer, and their controls outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.blocking import BlockingBox, BlockingPool
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxLostError
from sandbox.spec import Limits
from tests.containment.bombs import DISK_MIB, MEMORY_MIB, NUM_FILES, NUM_PIDS
from tests.containment.canaries import PYTHON, Canaries
from tests.containment.probe import LACKS, ON_HOST, Outcome, Probe, code_of, code_of_all, facts, outcome_of

LIMITS = Limits(
    wall_s=20.0,
    memory_bytes=MEMORY_MIB << 20,
    num_pids=NUM_PIDS,
    disk_bytes=DISK_MIB << 20,
    num_files=NUM_FILES,
    keep_bytes=256 << 10,
)
CONTROL_LIMIT_S = 60.0
BATCH = 45  # programs of one command


class Scene:
    """The boxes of one layer: one that the probes share, made again where it was lost, and one each for those that need it."""

    def __init__(self, pool: BlockingPool, words: Mapping[str, Any]) -> None:
        self.pool, self.words = pool, words
        self.box = pool.create(**words, limits=LIMITS)
        self._stateless: BlockingBox | None = None

    def user(self) -> int:
        """The user that commands are on this machine, as far as they are processes of it; else nobody."""
        reach = self.box.box._calls.reach
        if reach is not None and reach.user is not None:
            return int(reach.user[0])
        pids = list(Cgroup(self.box.box.box_id).processes())
        return os.stat(f"/proc/{pids[0]}").st_uid if pids else 65534

    def run(self, probes: Sequence[Probe]) -> dict[str, Outcome]:
        """What came of each, by its name."""
        with Canaries(self.user()) as self.canaries:
            simple = [probe for probe in probes if probe.is_simple]
            found = dict[str, Outcome]()
            for start in range(0, len(simple), BATCH):
                found |= self._batch(simple[start : start + BATCH])
            return {probe.name: found.get(probe.name) or self._attempt(probe) for probe in probes}

    def background(self, command: str) -> str:
        """Leaves this running in the box; the number to end it by."""
        return self.box.exec(f"({command}) > /dev/null 2>&1 & echo $!").stdout.text.strip()

    def end(self, pid: str) -> None:
        self.box.exec(f"kill -9 {pid}; rm -rf /tmp/race /tmp/d /tmp/l /tmp/m")

    def stateless(self) -> BlockingBox:
        if self._stateless is None:
            self._stateless = self.pool.create(**self.words, limits=LIMITS, stateless=True)
        return self._stateless

    def _batch(self, probes: Sequence[Probe]) -> dict[str, Outcome]:
        """Of several in one command; none where the host or the box was disturbed, so that each must be tried by itself."""
        command = ["python3", "-c", code_of_all([probe.program for probe in probes])]
        result = self.box.exec(command, stdin=json.dumps(self._facts()).encode())
        works = self._works()
        if not works:
            self.box = self.pool.create(**self.words, limits=LIMITS)
        if self.canaries.disturbed() or not result.ok or not works:
            self.canaries.restore()
            return {}
        said = json.loads(result.stdout.text)
        return {probe.name: outcome_of(text, text[-300:]) for probe, text in zip(probes, said, strict=True)}

    def _facts(self) -> dict[str, Any]:
        shares = self.words.get("runtime") == "crun"
        return facts(control=False, pool=str(self.pool.pool.folder), shares_user=shares, **self.canaries.facts())

    def _attempt(self, probe: Probe) -> Outcome:
        with self._own() if probe.own_box else contextlib.nullcontext():
            try:
                outcome = self._program(probe) if probe.drive is None else probe.drive(self)
            except (BoxLostError, OSError) as error:
                outcome = Outcome("broken", f"the box was lost: {error}")
            if not self._works():
                used_up = outcome.kind == "escaped" or (self._may_be_killed(probe) and outcome.kind == "contained")
                outcome = outcome if used_up else Outcome("broken", f"the box is of no more use; {outcome.said}")
                if not probe.own_box:
                    self.box = self.pool.create(**self.words, limits=LIMITS)
        if reached := self.canaries.disturbed():
            self.canaries.restore()
            return Outcome("escaped", reached)
        return outcome

    def _works(self) -> bool:
        try:
            return self.box.exec("echo fine").stdout.text == "fine\n"
        except (BoxLostError, OSError):
            return False

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        shared, self.box = self.box, self.pool.create(**self.words, limits=LIMITS)
        try:
            yield
        finally:
            own, self.box = self.box, shared
            self.pool.destroy(own)

    def _program(self, probe: Probe) -> Outcome:
        result = self.box.exec(["python3", "-c", code_of(probe.program)], stdin=json.dumps(self._facts()).encode())
        ending = f"{result.verdict} {result.exit_code} {result.signal or ''} {result.stderr.text[-300:]}"
        return outcome_of(result.stdout.text, ending, killed=self._may_be_killed(probe) and result.exit_code is None)

    def _may_be_killed(self, probe: Probe) -> bool:
        """Of gVisor's boxes every program that takes too much is ended with its box."""
        return probe.may_be_killed or self.words.get("runtime") == "runsc"


def controls(probes: Sequence[Probe]) -> dict[str, Outcome]:
    """Outside a box, as root: `shown`, `lacking` where this machine has no such thing, `not shown` and why, or `broken`."""
    found = dict[str, Outcome]()
    with Canaries(os.geteuid()) as canaries:
        for probe in probes:
            if probe.control != ON_HOST:
                found[probe.name] = Outcome("not shown", probe.control)
                continue
            told = facts(control=True, pool="/", shares_user=True, **canaries.facts())
            assert PYTHON is not None
            done = subprocess.run(
                [PYTHON, "-c", code_of(probe.program)],
                capture_output=True, text=True, timeout=CONTROL_LIMIT_S, input=json.dumps(told), cwd="/", check=False,
                start_new_session=True,
            )  # fmt: skip
            outcome = outcome_of(done.stdout, f"{done.returncode} {done.stderr[-300:]}")
            reached = canaries.disturbed()
            canaries.restore()
            if reached or outcome.kind == "escaped":
                found[probe.name] = Outcome("shown", reached or outcome.said)
            elif outcome.kind == "contained" and outcome.said.split(" ")[0] in LACKS:
                found[probe.name] = Outcome("lacking", outcome.said)
            else:
                found[probe.name] = Outcome("broken", outcome.said)
            with contextlib.suppress(OSError):
                Path(f"/tmp/jail-{canaries.token}").rmdir()
    return found
