"""Shared fixtures, and `--strict-skips`: a skipped test fails, for machines that must have every system part."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from rl.checkpoint import write_json
from rl.config import InitConfig, ModelConfig
from rl.policy import Policy, config_keys, init_policy
from rl.tokenizer import train_tokenizer
from tests.soak.kills import End, Whole, run_to_the_end

NEEDS_VLLM = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make env-vllm)")
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "tie_word_embeddings": True,
}
TEXTS = ["What is 345 + 278?", "ones 5+8=13; tens 4+7+1=12; hundreds 3+2+1=6", "Add 12 and 30.", "623"] * 8


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-skips", action="store_true", help="a skipped test is a failure")


def pytest_configure(config: pytest.Config) -> None:
    # Ray's own 15 starves its workers beside tests that are not Ray's.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name
    settings.register_profile("polymath", deadline=None)  # no test judges by the clock of a busy machine
    settings.load_profile("polymath")
    config.addinivalue_line("markers", "xdist_group(name): pytest-xdist's, which need not be there")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, which 3.8 cannot with pytest 9
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files run side by side, and of those about the sandbox the tests of each layer. Files of slow tests alone come first.

    So the last one to run is a short one.
    """
    for item in items:
        layer = getattr(item, "callspec", None) and item.callspec.params.get("layer")  # type: ignore[attr-defined]
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {layer or ''}"))
    quick = {item.path for item in items if item.get_closest_marker("slow") is None}
    items.sort(key=lambda item: item.path in quick)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--strict-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped under --strict-skips: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other


def tiny_policy(architecture: str = "qwen3", *, seed: int = 0, dtype: str = "float32", **config: object) -> Policy:
    """A random model of a few ten thousand parameters with a tokenizer of its own."""
    attention = "sdpa" if architecture not in ("gpt_oss", "mamba2", "deepseek_v4") else "eager"
    model = ModelConfig(path="-", dtype=dtype, attention=attention)  # type: ignore[arg-type]
    common = {key: value for key, value in TINY.items() if key in config_keys(architecture)}
    init = InitConfig(architecture=architecture, config={**common, **config})
    return init_policy(init, train_tokenizer(TEXTS, 512), model, seed=seed)


@pytest.fixture(scope="session")
def sandbox_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of the sandbox, whichever process they run in: images and templates are made once."""
    home = _shared(tmp_path_factory) / "sandbox"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Whole]:
    """The home of an uninterrupted inline run, and what it came to; one run for all tests, whichever process they run in."""
    home = _shared(tmp_path_factory) / "whole"
    with FileLock(f"{home}.lock"):
        if not home.with_suffix(".json").exists():
            write_json(home.with_suffix(".json"), run_to_the_end(home, "inline").startup_s)
    return home, Whole(End.of(home / "runs" / "tiny-1"), json.loads(home.with_suffix(".json").read_text()))


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(scope="session")
def model_folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model saved in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("model")
    policy.save(folder)
    return folder
