"""Two trainer processes give the gradients, the update and the metrics of one."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from rl.batch import Sample, make_batches
from rl.config import ModelConfig, OptimizerConfig
from rl.data_parallel import Ranks
from rl.losses.build import build_loss
from rl.losses.config import DapoLossConfig, GrpoLossConfig, LossConfig
from rl.trainer import Trainer


def samples_of(num: int, *, seed: int = 0) -> list[Sample]:
    """Completions of different lengths after a few shared prompts."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(num):
        prompt = np.arange(10 + i % 3, 18 + i % 3)
        ids = np.concatenate([prompt, rng.integers(7, 250, 3 + 5 * (i % 4))]).astype(np.int32)
        mask = np.arange(len(ids)) >= len(prompt)
        made.append(Sample(ids, mask, np.where(mask, -5.0, 0.0).astype(np.float32), float(rng.normal())))
    return made


def one_step(folder: Path, loss: LossConfig, samples: Sequence[Sample], ranks: Ranks) -> tuple[dict[str, float], object]:
    """The metrics of a step, and the weights after it."""
    torch.set_num_threads(1)
    ranks.join(60.0)
    trainer = Trainer(
        folder,
        ModelConfig(path=str(folder)),
        # An update of g / (|g| + 1), so that weights that agree to 1e-6 mean gradients that do.
        OptimizerConfig(name="adamw", lr=1.0, eps=1.0, betas=(0.0, 0.0), weight_decay=0.0, max_grad_norm=1e9),
        build_loss(loss, 1.0),
        num_steps=10,
        microbatch_tokens=4096,
        reference_refresh_steps=5,
        aggregation=loss.aggregation,
        ranks=ranks,
    )
    metrics = {k: v for k, v in trainer.train_step(samples).items() if not k.endswith("_s")}
    return metrics, {name: w.numpy() for name, w in trainer.publish().tensors.items()}


def _rank(rank: int, address: str, folder: Path, loss: LossConfig, samples: Sequence[Sample]) -> None:
    result = one_step(folder, loss, samples, Ranks(rank, 2, address))
    (folder.parent / f"rank{rank}.pkl").write_bytes(pickle.dumps(result))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [GrpoLossConfig(kl_coef=0.1), DapoLossConfig()], ids=["grpo", "dapo"])
@pytest.mark.parametrize("num", [16, pytest.param(1, marks=pytest.mark.full)])  # one sample leaves a rank with nothing
def test_two_processes_train_as_one(model_folder: Path, tmp_path: Path, loss: LossConfig, num: int) -> None:
    folder, samples = tmp_path / "model", samples_of(num)
    folder.symlink_to(model_folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.spawn(_rank, (address, folder, loss, samples), nprocs=2)
    alone, weights = one_step(folder, loss, samples, Ranks())
    (first, a), (second, b) = (pickle.loads((tmp_path / f"rank{r}.pkl").read_bytes()) for r in (0, 1))
    assert first == second
    assert all(np.array_equal(a[name], b[name]) for name in a)  # the ranks stay together to the bit
    assert first.keys() == alone.keys() > {"sampler_gap", "sampler_gap_p99", "sampler_gap_max", "truncated_weight_share"}
    assert num == 1 or first["sampler_gap"] < 0.95 * first["sampler_gap_p99"] < 0.95 * first["sampler_gap_max"]
    for name in alone.keys() - {"num_model_tokens"}:
        assert first[name] == pytest.approx(alone[name], rel=1e-5, abs=1e-6), name
    assert all(np.allclose(a[name], weights[name], atol=1e-6, rtol=0) for name in a)  # type: ignore[index]


def test_the_ranks_microbatches_are_the_steps(model_folder: Path) -> None:
    """Every sample goes to one rank, with the weights of the whole step."""
    samples = samples_of(13)
    whole = make_batches(samples, 4096, torch.device("cpu"), packed=True)
    shares = [make_batches(samples, 4096, torch.device("cpu"), packed=True, ranks=Ranks(r, 3)) for r in range(3)]
    assert all(shares)

    def tokens(batches: Sequence[object]) -> list[tuple[int, float, float]]:
        return sorted(
            (int(t), float(a), float(w))
            for batch in batches
            for t, a, w in zip(batch.target_T, batch.advantage_T, batch.weight_T, strict=True)  # type: ignore[attr-defined]
        )

    assert tokens([b for share in shares for b in share]) == tokens(whole)
