"""Where a run's workers sit on Ray's nodes: what each kind claims of its node, and a placement group for each worker.

With a group of its own, a worker whose node died waits for no other's room. `rl/cluster.py` starts actors in these places.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rewards.errors import UserError
from rl.config import RuntimeConfig

POLL_S = 0.05  # between two looks at whether a place was found
SLIVER = 0.01  # of a core: on one machine trainer and sampler take turns on the same cores
HIDDEN = ("memory", "object_store_memory")  # every node has them; shown only to who asks for them
Claim = Mapping[str, float]


@dataclass(frozen=True)
class Claims:
    """What each trainer, rollout worker and reward worker claims of its node."""

    trainer: Claim
    rollout: Claim
    reward: Claim


def claims(config: RuntimeConfig, num_gpus: int, num_judges: int = 0) -> Claims:
    """A sliver of a core for all; what the recipe says, or where it says nothing an equal share of the GPUs for models.

    A frozen judge claims what a rollout worker does.

    >>> claims(RuntimeConfig(num_rollout_workers=3), 2).rollout
    {'CPU': 0.01, 'GPU': 0.5}

    Raises:
        UserError: what the recipe claims leaves no GPU for a model that it claims nothing for.
    """
    asked = config.resources
    counts = ((config.num_trainers, asked.trainer), (config.num_rollout_workers + num_judges, asked.rollout))
    taken = sum(count * claim.get("GPU", 0.0) for count, claim in counts if claim is not None)
    taken += config.num_reward_workers * (asked.reward or {}).get("GPU", 0.0)
    num_models = sum(count for count, claim in counts if claim is None)
    share = gpu_share(num_models, num_gpus - taken)
    if num_gpus and num_models and not share:
        raise UserError(
            f"runtime.resources: the claims take {taken:g} of {num_gpus} GPUs, which leaves none for the trainers or rollout "
            "workers that no claim is written for; write one for them ({CPU: 1} to do without a GPU), or claim less"
        )
    model = {"GPU": share} if share else {}
    trainer, rollout = ({"CPU": SLIVER, **(model if claim is None else claim)} for _, claim in counts)
    return Claims(trainer, rollout, {"CPU": SLIVER, **(asked.reward or {})})


def gpu_share(num_models: int, num_gpus: float) -> float:
    """GPUs for each of so many workers: one each where there are enough, else the largest share that fits beside others.

    >>> gpu_share(3, 8), gpu_share(3, 2), gpu_share(7, 2), gpu_share(3, 0), gpu_share(2, 0.5)
    (1.0, 0.5, 0.25, 0.0, 0.25)
    """
    if num_gpus <= 0 or not num_models:
        return 0.0
    whole = max(1, int(num_gpus))  # a share does not span two
    return int(100 * min(1.0, num_gpus) / math.ceil(num_models / whole)) / 100


def check_room(config: RuntimeConfig, wanted: Claims, num_rewards: int, num_judges: int = 0) -> None:
    """Raise UserError where the cluster as it stands could not hold the workers even if it were idle."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    kinds = {
        "trainer": (config.num_trainers, wanted.trainer),
        "rollout": (config.num_rollout_workers, wanted.rollout),
        "reward": (num_rewards, wanted.reward),
        "judge": (num_judges, wanted.rollout),
    }
    for kind, (count, claim) in kinds.items():
        able = sum(all(node["Resources"].get(name, 0) >= amount for name, amount in claim.items()) for node in nodes)
        if count and not able:
            raise UserError(
                f"runtime.resources.{kind}: got {_shown(claim)}, which no node has; the cluster has "
                f"{_inventory(nodes, claim)}; start a node with it (`ray start --resources`), or ask for less"
            )
        if kind == "rollout" and config.spread and able < count:
            raise UserError(
                f"runtime.spread: got true with {count} rollout workers, but only {able} nodes have {_shown(claim)}; "
                f"the cluster has {_inventory(nodes, claim)}; lower runtime.num_rollout_workers, or start more nodes"
            )
    for name in {name for _, claim in kinds.values() for name in claim}:
        total = sum(node["Resources"].get(name, 0) for node in nodes)
        asked = sum(count * claim.get(name, 0) for count, claim in kinds.values())
        if asked > total:
            raise UserError(
                f"runtime.resources: all workers together claim {asked:g} {name}, and the cluster has {total:g}; "
                "lower the claims or the numbers of workers, or start more nodes"
            )


class Place:
    """Where one worker sits, or several that start together: a placement group, made anew when its node has died."""

    def __init__(self, what: str, bundles: Sequence[Claim], apart: Sequence[Place], lock: asyncio.Lock) -> None:
        """`apart`: places that must be on other nodes than this; they look for a node one at a time, under one lock."""
        self.what, self.bundles, self.node = what, bundles, ""  # of the first bundle: Ray's id of a node
        self._apart, self._lock = apart, lock
        self._group: PlacementGroup | None = None

    async def settle(self, timeout_s: float | None) -> None:
        """Returns once the place has a living node, however long that takes where `timeout_s` is None.

        Raises:
            UserError: no node had room in time.
        """
        if self.stands():  # before the lock, which one whose node has died may hold for long
            return
        async with self._lock:
            if self.stands():
                return
            if self._group is not None:
                remove_placement_group(self._group)
            taken = self._taken()
            apart = [{"ray.io/node-id": f"!in({','.join(sorted(taken))})"}] * len(self.bundles) if taken else None
            self._group = placement_group([dict(b) for b in self.bundles], strategy="PACK", bundle_label_selector=apart)
            try:
                async with asyncio.timeout(timeout_s):
                    while not (node := self._found()):
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                raise UserError(
                    f"runtime: {self.what}, which claims {_shown(self.bundles[0])}, found no room within {timeout_s:.0f} s; "
                    f"the cluster has {_shown(ray.available_resources())} free"
                ) from None
            self.node = node

    def _taken(self) -> set[str]:
        return {place.node for place in self._apart if place is not self and place.node}

    def stands(self) -> bool:
        """Whether it has a living node of its own; where Ray has moved it, this is noted."""
        if self._group is None:
            return False
        self.node = self._found()
        return self.node in node_names() and self.node not in self._taken()

    def stands_on(self, node: str) -> bool:
        """Whether it does so on this node still."""
        return self.stands() and self.node == node

    def _found(self) -> str:
        """The node that Ray found for the group; nothing while it looks."""
        table = placement_group_table(self._group)
        return str(table["bundles_to_node_id"][0]) if table["state"] == "CREATED" else ""

    def start(self, cls: type, *arguments: Any, bundle: int = 0) -> Any:
        """A new actor of this class here."""
        assert self._group is not None, "settle() comes first"
        claim = self.bundles[bundle]
        options = {
            "num_cpus": claim["CPU"],
            "num_gpus": claim.get("GPU", 0),
            "max_concurrency": 64,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle),
        }
        return ray.remote(**options)(cls).remote(*arguments)


def node_names() -> dict[str, str]:
    """The living nodes' names (their addresses, unless `ray start --node-name` said another) by Ray's ids."""
    return {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}


def _inventory(nodes: Sequence[Mapping[str, Any]], claim: Claim) -> str:
    return "; ".join(
        f"{node['NodeName']}: {_shown({n: a for n, a in node['Resources'].items() if n in claim or n not in HIDDEN})}"
        for node in nodes
    )


def _shown(resources: Claim) -> str:
    kept = {name: amount for name, amount in resources.items() if not name.startswith("node:") and amount != SLIVER}
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(kept.items())) or "nothing"
