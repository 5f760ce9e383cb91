"""The campaign over seeds and controls: its pages come from its results alone, and a control is the cold start gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from recipes.load import load, resolved_yaml
from tests.soak import math_seeds, specialists


def test_the_published_pages_are_what_the_results_give() -> None:
    assert math_seeds.FOLDER.with_suffix(".md").read_text() == math_seeds.report(math_seeds.FOLDER)
    assert specialists.RESULTS.with_suffix(".md").read_text() == specialists.page(specialists.RESULTS)


@pytest.mark.parametrize("name", specialists.RECIPES)
def test_a_control_is_the_recipe_s_cold_start_for_as_long_as_grpo_took(name: str, tmp_path: Path) -> None:
    recipe = load(name).recipe
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    rows = [{"stage": "base", "elapsed_s": 9.0 + 0.5 * i + (i > 3)} for i in range(8)]  # it stood still for a second
    rows += [{"stage": "cold_start", "elapsed_s": 20.0 + 7 * i} for i in range(3)]
    rows += [{"stage": "grpo", "step_s": 3.0} for _ in range(10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage, grpo_s = specialists.control_stage(tmp_path)
    assert grpo_s == pytest.approx(30.0)
    assert stage["steps"] == 60
    shipped = yaml.safe_load(resolved_yaml(recipe))["stages"]
    assert [s["name"] for s in shipped] == ["base", "cold_start", "grpo"]
    assert {**shipped[1], "name": "control", "steps": 60} == stage
