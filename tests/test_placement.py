"""What each worker claims of its node, and what a recipe may say about it."""

from __future__ import annotations

import dataclasses

import pytest

from recipes.load import load
from recipes.tree import RecipeError
from rewards.errors import UserError
from rl.config import ResourcesConfig, RuntimeConfig
from rl.placement import SLIVER, claims

RUNTIME = RuntimeConfig(num_trainers=1, num_rollout_workers=3, num_reward_workers=2)


def gpus(num_gpus: int, **resources: dict[str, float]) -> tuple[float, ...]:
    """The GPUs that a trainer, a rollout worker and a reward worker claim."""
    found = claims(dataclasses.replace(RUNTIME, resources=ResourcesConfig(**resources)), num_gpus)
    return tuple(claim.get("GPU", 0.0) for claim in (found.trainer, found.rollout, found.reward))


def test_gpus_go_to_models_in_equal_shares_unless_the_recipe_says_otherwise() -> None:
    assert gpus(0) == (0, 0, 0)
    assert gpus(8) == (1, 1, 0)
    assert gpus(2) == (0.5, 0.5, 0)
    assert gpus(4, trainer={"GPU": 2}) == (2, 0.5, 0)  # three share the two that are left
    assert gpus(4, rollout={"GPU": 1, "engine_node": 1}) == (1, 1, 0)
    assert gpus(4, reward={"GPU": 1}) == (0.5, 0.5, 1)
    assert gpus(4, trainer={"CPU": 1}, rollout={"CPU": 1}) == (0, 0, 0)
    assert gpus(1, trainer={"GPU": 0.5}) == (0.5, 0.16, 0)  # three share the half that is left
    assert gpus(1, trainer={"GPU": 1}, rollout={"CPU": 1}) == (1, 0, 0)
    with pytest.raises(UserError, match="take 1 of 1 GPUs, which leaves none for"):
        gpus(1, trainer={"GPU": 1})


def test_a_claim_keeps_its_sliver_of_a_core_unless_it_says_more() -> None:
    resources = ResourcesConfig(trainer={"node": 1}, reward={"CPU": 2})
    found = claims(dataclasses.replace(RUNTIME, resources=resources), 0)
    assert (found.trainer, found.reward) == ({"CPU": SLIVER, "node": 1}, {"CPU": 2})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("runtime.address=ray://head:10001", "runtime.address: got .*; allowed: auto, host:port"),
        ("runtime.address=head", "runtime.address: got .*; allowed: auto, host:port"),
        ("runtime={mode: inline, address: auto}", "runtime.address: got .* where runtime is inline"),
        ("runtime.resources.rollout.GPU=1.5", "runtime.resources.rollout.GPU: got 1.5; allowed: whole GPUs"),
        ("runtime.resources.rollout.GPU=0", "runtime.resources.rollout.GPU: got 0; allowed"),
        ("runtime.resources.rollouts={GPU: 1}", "rollouts: unknown key; .*did you mean rollout"),
    ],
)
def test_what_a_recipe_may_not_say(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load("math", [override])


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "node-1.local:6379", "[fd00::1]:6379"])
def test_addresses(address: str) -> None:
    assert load("math", [f"runtime.address={address!r}"]).recipe.runtime.address == address
