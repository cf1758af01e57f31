"""Grouping of instructions: against recorded outputs of the published code, scikit-learn, and Table 10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_cvit.methods.lcia.grouping import (
    group_similarities,
    matching_group,
    official_instruction,
    text_similarity,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


PAIRS = golden("lcia_tfidf_pairs.json")["cases"]
SEQUENCES = golden("lcia_tfidf_grouping.json")["cases"]
EXTRACTIONS = golden("lcia_instruction_extraction.json")["cases"]


def test_pairs_are_as_similar_as_the_published_code_finds_them() -> None:
    known = [case for case in PAIRS if "similarity" in case]
    assert len(known) == 125
    for case in known:
        assert text_similarity(case["a"], case["b"]) == pytest.approx(case["similarity"], abs=1e-6)


def test_texts_without_a_usable_word_are_similar_to_themselves_alone() -> None:
    """The published code ends with an error on all of these."""
    failing = [case for case in PAIRS if "error" in case]
    assert len(failing) == 3
    assert [text_similarity(case["a"], case["b"]) for case in failing] == [0.0, 0.0, 0.0]
    assert text_similarity("the a of", "the a of") == 1.0
    assert text_similarity("the a of", "answer briefly") == 0.0


def test_the_closed_form_is_scikit_learn_fitted_on_each_pair() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    strings = sorted({case[key] for case in PAIRS for key in "ab" if "similarity" in case})[:80:8]
    for one in strings:
        for other in strings:
            try:
                vectors = TfidfVectorizer(stop_words="english").fit_transform([one, other])
            except ValueError:
                continue
            expected = float((vectors[0] @ vectors[1].T).toarray()[0, 0])
            assert text_similarity(one, other) == pytest.approx(expected, abs=1e-12)


def test_similarity_does_not_depend_on_the_order() -> None:
    for case in PAIRS:
        assert text_similarity(case["a"], case["b"]) == text_similarity(case["b"], case["a"])


@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case["id"])
def test_a_sequence_of_tasks_is_grouped_as_by_the_published_code(case: dict[str, Any]) -> None:
    groups: list[list[str]] = []
    strings: dict[str, list[str]] = {}
    for step in case["train_steps"]:
        found = group_similarities(step["instructions"], groups, "mean")
        assert found == pytest.approx(step["similarities"], abs=1e-6)
        group = matching_group(found, case["threshold"])
        assert (group is None) is step["new_group"]
        if group is None:
            groups.append([])
        group = len(groups) - 1 if group is None else group
        assert group == step["group"] - 1
        groups[group] += [text for text in step["instructions"] if text not in groups[group]]
        assert [len(each) for each in groups] == step["codebook_sizes_after"]
        strings[step["task"]] = step["instructions"]
    assert [sorted(group) for group in groups] == list(map(sorted, codebook(case)))
    for test in case["test_selection"]:
        found = group_similarities(strings[test["task"]], groups, "mean")
        assert found == pytest.approx(test["similarities"], abs=1e-6)
        group = matching_group(found, case["threshold"])
        assert (group is None) is test["fallback_to_last"]
        assert (len(groups) - 1 if group is None else group) == test["selected_group"] - 1


def codebook(case: dict[str, Any]) -> list[list[str]]:
    book = case["final_codebook"]
    return list(book.values()) if isinstance(book, dict) else book


@pytest.mark.parametrize("case", EXTRACTIONS, ids=lambda case: str(case["id"]))
def test_the_instruction_of_a_record_is_what_the_published_code_takes(case: dict[str, Any]) -> None:
    test = case["split"] == "test"
    if "error" in case:
        with pytest.raises(ValueError, match="takes the second line of a record"):
            official_instruction(case["value"], case["rule"], test=test)
    else:
        assert official_instruction(case["value"], case["rule"], test=test) == case["instruction"]


def test_the_first_of_equally_similar_groups_matches_and_the_threshold_itself_counts() -> None:
    assert matching_group([0.1, 0.5, 0.5], 0.5) == 1
    assert matching_group([0.1, 0.5, 0.5], 0.51) is None
    assert matching_group([], 0.0) is None


def test_the_maximum_looks_at_the_nearest_pair_alone() -> None:
    group = ["Answer the question briefly", "Name the object"]
    near = text_similarity("Name the object", "Answer the question briefly")
    assert group_similarities(["Name the object"], [group], "max") == [1.0]
    assert group_similarities(["Name the object"], [group], "mean") == [(1.0 + near) / 2]
