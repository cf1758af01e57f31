"""docs/scorers.md against the code: every scorer, the scorers of every task, and what is said of defects."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from metrics_kit import Answered

from lit_cvit.data.benchmarks import coin, cvit, ucit
from lit_cvit.metrics.scoring import SCORERS, scorer

TEXT = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text(encoding="utf-8")
TASKS = {"cvit": cvit.STREAM | cvit.DOWNSTREAM, "coin": coin.TASKS, "ucit": ucit.TASKS}
TEN_DOGS = ("dog",) * 10
NINE_DOGS = (*TEN_DOGS[1:], "puppy")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its own heading and its line."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines[2:]]


def score(name: str, prediction: str, *answers: str) -> float:
    return scorer(name)([prediction], [Answered(answers)])[0]


def test_the_table_has_every_scorer_once_and_no_other() -> None:
    listed = [name for name, _, _ in rows("All of them")]
    assert sorted(listed) == sorted(each.name for each in SCORERS)


def test_the_table_of_the_benchmarks_is_what_they_do() -> None:
    reported = {}
    for benchmark, task, standard, official, paper in rows("Which benchmark uses which"):
        official = standard if official == "as standard" else official
        reported[benchmark, task] = (standard, official, official if paper == "as official" else paper)
    done = {
        (benchmark, name): tuple(spec.scorer_name(kind) for kind in ("standard", "official", "paper"))
        for benchmark, specs in TASKS.items()
        for name, spec in specs.items()
    }
    assert reported == done


@pytest.mark.parametrize(
    ("official", "standard", "prediction", "references", "scores"),
    [
        ("official_scienceqa", "letter", "It is a dog", ("A",), (1, 0)),
        ("official_scienceqa", "letter", "It's B", ("B",), (0, 1)),
        ("official_scienceqa", "letter", "A or B", ("A",), (1, 0)),
        ("official_scienceqa_hide", "letter", "B.", ("B",), (0, 1)),
        ("official_scienceqa_hide", "letter", "(B)", ("B",), (0, 1)),
        ("official_scienceqa_hide", "letter", "b", ("B",), (0, 1)),
        ("official_substring", "class_name", "", ("tabby cat",), (1, 0)),
        ("official_imagenet_coin", "class_name", "y", ("tabby cat",), (1, 0)),
        ("official_grounding", "grounding_iou", "[1.0, 0.0, 1.0, 1.0]", ("[0.0, 0.0, 1.0, 0.9]",), (1, 0)),
        ("official_grounding", "grounding_iou", "[0, 0, 1, 0.18]", ("[0, 0, 1, 0.19]",), (0, 1)),
        ("official_exact", "vqa_soft", "A dog.", TEN_DOGS, (0, 1)),
        ("official_ocrvqa", "short_answer", "Unanswerable", ("Unanswerable",), (0, 1)),
        ("official_gqa", "exact", "Dog", ("Dog",), (0, 1)),
        ("official_gqa", "exact", "dog ", ("dog",), (0, 1)),
        ("official_exact", "letter", "B.", ("B",), (0, 1)),
        ("paper_hide", "letter", "", ("B",), (1, 0)),
        ("official_vqav2", "vqa_soft", "a dog", TEN_DOGS, (0, 1)),
        ("official_vqav2", "vqa_soft", "a dog", NINE_DOGS, (1, 1)),
    ],
)
def test_the_defects_are_as_described(
    official: str, standard: str, prediction: str, references: tuple[str, ...], scores: tuple[float, float]
) -> None:
    assert (score(official, prediction, *references), score(standard, prediction, *references)) == scores


def test_captions_split_at_white_space_keep_full_stops_and_capitals() -> None:
    samples = [Answered(("a dog",)), Answered(("a cat",))]
    assert scorer("official_textcaps")(["A dog.", "a cat"], samples)[0] == 0.0
    assert scorer("cider")(["A dog.", "a cat"], samples)[0] > 0.0
