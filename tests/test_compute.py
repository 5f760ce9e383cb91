"""The compute thread: an order, results, errors, what was cancelled in time; an engine beside long work in it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rewards.errors import UserError
from rl.compute import result_of, set_num_threads, submit
from rl.config import EngineConfig, ModelConfig, SamplingConfig
from rl.engine.invariance import Verdict
from rl.engine.protocol import GenerateRequest
from rl.engine.stepped import EngineStoppedError
from rl.engine.torch_engine import TorchEngine
from rl.policy import Policy
from rl.workers import EngineSpec, InlineRollouts, computed

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def busy() -> Iterator[threading.Event]:
    """Work that occupies the thread until the event is set, at the latest after the test."""
    go = threading.Event()
    yield go
    go.set()
    submit(lambda: None).result(60)


def test_work_runs_in_one_thread_in_order() -> None:
    seen: list[int] = []
    threads = [submit(lambda i=i: (seen.append(i), threading.get_ident())[1]) for i in range(20)]  # type: ignore[misc]
    assert len({future.result(10) for future in threads}) == 1
    assert seen == list(range(20))


def test_an_error_reaches_whoever_waits_and_the_thread_goes_on() -> None:
    def failing() -> None:
        raise SystemExit("no")

    with pytest.raises(SystemExit, match="no"):
        submit(failing).result(10)
    assert submit(lambda: 3).result(10) == 3


def test_what_is_cancelled_in_time_never_runs() -> None:
    go, ran = threading.Event(), list[str]()
    first = submit(lambda: go.wait(10))
    second = submit(lambda: ran.append("second"))
    assert second.cancel()
    go.set()
    assert first.result(10)
    submit(lambda: None).result(10)
    assert ran == []


def test_a_wait_that_is_over_says_what_for_and_its_work_never_runs(busy: threading.Event) -> None:
    ran = list[str]()

    async def wait() -> None:
        submit(lambda: busy.wait(60))
        with pytest.raises(TimeoutError, match=r"waited 0 s for the second; raise runtime\.timeout_s"):
            await computed(lambda: ran.append("second"), 0.05, "the second")

    asyncio.run(wait())
    busy.set()
    submit(lambda: None).result(60)
    assert ran == []


def test_the_function_s_own_timeout_is_not_mistaken_for_ours() -> None:
    def failing() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(result_of(submit(failing), 60, "it"))


def test_the_number_of_threads_reaches_a_thread_that_has_computed() -> None:
    before = torch.get_num_threads()
    try:
        for count in (2, 1):
            set_num_threads(count)
            assert submit(torch.get_num_threads).result(60) == torch.get_num_threads() == count
    finally:
        set_num_threads(before)


def test_an_engine_closes_beside_long_work_and_tells_its_streams(busy: threading.Event, policy: Policy) -> None:
    engine = TorchEngine(policy, EngineConfig(max_batch_size=2, max_seq_len=64), timeout_s=60)

    async def run() -> None:
        submit(lambda: busy.wait(60))
        request = GenerateRequest("r", [1, 2, 3], SamplingConfig(max_tokens=8), frozenset(), 0, 0)
        stream = asyncio.create_task(anext(aiter(engine.generate(request))))
        given_up, pausing = (asyncio.create_task(engine.pause()) for _ in range(2))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.sleep(0.05)
        start = time.monotonic()
        engine.close()
        assert time.monotonic() - start < 30  # the work goes on for 60 s
        for waiting in (stream, pausing):
            with pytest.raises(EngineStoppedError, match="closed"):
                await asyncio.wait_for(waiting, 30)
        with pytest.raises(EngineStoppedError, match="closed"):
            await engine.resume()

    asyncio.run(run())


def test_an_engine_that_cannot_be_deterministic_is_refused_at_once(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.engine.torch_engine.probe", lambda *_: Verdict(False, "rows differ"))
    spec = EngineSpec(str(model_folder), ModelConfig(path=str(model_folder)), EngineConfig(deterministic=True), 60.0)
    with pytest.raises(UserError, match=r"engine\.deterministic: got true, .*rows differ"):
        asyncio.run(InlineRollouts(60.0).open(spec))


def test_a_process_that_ends_while_the_thread_computes_ends_well() -> None:
    code = (
        "import torch; from rl.compute import submit\n"
        "def work():\n"
        "    a = torch.randn(300, 300)\n"
        "    for _ in range(200): a = torch.nn.functional.normalize(a @ a)\n"
        "    print('done', flush=True)\n"
        "submit(work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT, timeout=400)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
