"""Names that are not known, and what is suggested for them."""

from __future__ import annotations

from lit_cvit.utils.suggest import nearest, unknown, unknown_key


def test_the_nearest_name_is_found_whatever_the_case() -> None:
    assert nearest("seqlora", ["SMoLoRA", "SeqLoRA"]) == "SeqLoRA"
    assert nearest("xyz", ["SMoLoRA", "SeqLoRA"]) == ""
    assert nearest("max_epoch", ["epochs", "benchmark"], cutoff=0.65) == "epochs"
    assert nearest("max_epoch", ["epochs", "benchmark"], cutoff=0.7) == ""


def test_of_names_that_differ_in_case_alone_the_first_is_meant() -> None:
    assert nearest("GQA", ["gqa", "GQA"]) == "gqa"


def test_an_unknown_name_lists_all_that_are_known() -> None:
    assert (
        unknown("task", "GQ", ["VQAv2", "GQA"]) == "unknown task 'GQ'. Did you mean 'GQA'? Known: VQAv2, GQA"
    )
    assert unknown("task", 3, ["VQAv2"]) == "unknown task 3. Known: VQAv2"


def test_a_dotted_key_is_compared_whole_then_by_its_last_part_best_under_the_same_parent() -> None:
    keys = ("model.rank", "model.alpha", "data.seed", "data.batch_size", "trainer.batch_limit")
    assert unknown_key("modle.rank", keys) == "unknown option or key 'modle.rank'. Did you mean 'model.rank'?"
    assert unknown_key("rank", keys).endswith("Did you mean 'model.rank'?")
    assert unknown_key("data.batchsize", keys).endswith("Did you mean 'data.batch_size'?")
    assert unknown_key("zzz", keys) == "unknown option or key 'zzz'. `--help` lists all"
