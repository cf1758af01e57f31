"""SMoLoRA's routers follow the seed of the run, which the plan of the first stage records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from stream_kit import differing, fit, quick_data, small_method, snapshot

from lit_cvit.methods import SMoLoRA
from lit_cvit.run import RunFolder


def routers(folder: Path, seed: int, **settings: Any) -> dict[str, torch.Tensor]:
    """The routing matrices and fusion vectors of a run of that seed, in its first stage."""
    method = small_method(folder, SMoLoRA, **settings)
    method.prepare()
    method.begin_stage(quick_data().stages(seed=seed)[0])
    return {name: tensor for name, tensor in snapshot(method).items() if ".router." in name}


def test_routers_follow_the_seed_of_the_run_unless_a_seed_fixes_them(llava_folder: Path) -> None:
    zero, one = routers(llava_folder, 0), routers(llava_folder, 1)
    assert not any(torch.equal(zero[name], one[name]) for name in zero)
    assert differing(zero, routers(llava_folder, 0, router_seed=0)) == []
    assert differing(one, routers(llava_folder, 0, router_seed=1)) == []
    assert differing(zero, routers(llava_folder, 1, router_seed=0)) == []
    # Those of every run before routers followed the seed.
    bare = small_method(llava_folder, SMoLoRA)
    bare.prepare()
    before = {name: tensor for name, tensor in snapshot(bare).items() if ".router." in name}
    assert differing(zero, before) == []


def test_a_plan_without_a_router_seed_leaves_the_routers_as_they_are(llava_folder: Path) -> None:
    """Runs of earlier versions have such plans, and their configurations name the seed."""
    method = small_method(llava_folder, SMoLoRA, router_seed=4)
    method.prepare()
    stage = quick_data().stages(seed=0)[0]
    plan = {key: value for key, value in method.plan_stage(stage).items() if key != "router_seed"}
    before = snapshot(method)
    method.begin_stage(stage, {**plan, "seed": 0})
    after = snapshot(method)
    assert differing(before, {name: after[name] for name in before}) == []


def test_a_run_that_starts_from_another_keeps_its_routers(llava_folder: Path, tmp_path: Path) -> None:
    def stored(run: RunFolder) -> dict[str, torch.Tensor]:
        state = run.load_stage(run.stages_done()[-1])
        return {name: tensor for name, tensor in state.tensors.items() if ".R_" in name}

    data = {"tasks": ["GQA"], "settings": {"num_train": 16, "num_test": 2}}
    first = fit(tmp_path, small_method(llava_folder, SMoLoRA), quick_data(**data), callbacks=[], seed=3).run
    assert first.record.stage(1).plan["router_seed"] == 3
    start_from = {"start_from": str(first.path), "seed": 5}
    method = small_method(llava_folder, SMoLoRA)
    second = fit(tmp_path, method, quick_data(**data), callbacks=[], **start_from).run
    assert "router_seed" not in second.record.stage(1).plan
    assert differing(stored(first), stored(second)) == []
    assert differing(stored(first), {n: t for n, t in routers(llava_folder, 3).items() if ".R_" in n}) == []
