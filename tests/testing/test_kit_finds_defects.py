"""The kit's tests fail for methods that are broken, each where it should."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.testing import MethodTests, Row, method_tests
from lit_cvit.testing.kit import Made

pytestmark = pytest.mark.processes

KIT = MethodTests()
FOUND_BY: dict[str, tuple[Callable[[Made], None], str]] = {
    "ReadsTask": (
        KIT.test_training_changed_what_it_says,
        "reads `sample.task`, which its property `access` does not declare",
    ),
    "Forgetful": (
        KIT.test_a_fresh_process_loads_it_to_identical_logits,
        "a fresh process that loads the run gives other logits",
    ),
    "IdleTerm": (KIT.test_every_loss_term_moves_something, "these loss terms move no trainable tensor: idle"),
    "Unreduced": (
        KIT.test_two_ranks_train_as_one_with_the_same_global_batch,
        "after stage 1 (ScienceQA) the ranks hold different parameters",
    ),
    "Restless": (
        KIT.test_it_is_deterministic,
        "not byte for byte the same: stages/01-ScienceQA/method.safetensors",
    ),
    "DeadBlock": (
        KIT.test_every_trainable_tensor_has_a_gradient_unless_its_block_rests,
        "no A of these layers got a gradient: ",
    ),
    "CountsPadding": (
        KIT.test_batched_answers_equal_single_ones,
        "answers change with what else is in the batch",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.parametrize("defect", list(FOUND_BY))
def test_a_defect_is_found(defect: str, tmp_path: Path, model: Path) -> None:
    test, message = FOUND_BY[defect]
    with pytest.raises(AssertionError, match=re.escape(message)):
        test(Made(Row(f"broken_methods.{defect}"), tmp_path, model))


def test_one_line_gives_a_method_of_another_package_every_test() -> None:
    found = method_tests("elsewhere.Mine", penalty=0.5, batched=False)
    assert found.rows == {"Mine": Row("elsewhere.Mine", {"penalty": 0.5}, batched=False)}
    names = {name for name in dir(found) if name.startswith("test_")}
    assert names == {name for name in dir(MethodTests) if name.startswith("test_")}
    assert len(names) == 13
