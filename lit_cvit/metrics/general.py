"""Scores of the general benchmarks (POPE, MME, MMBench, SEED-Bench) from stored prediction rows.

A row is what `lit_cvit.evaluation` keeps of a sample: `id`, `text`, `references` and `score`. The parts of an
id, between slashes, name the groups that a metric is taken over. All values are percent. A name without a
slash is a figure of the whole benchmark, one with a slash belongs to a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lit_cvit.metrics.scored import ScoredSample

Row = Mapping[str, Any]
Summary = Callable[[Sequence[Row]], dict[str, float]]

MME_CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
"""MME's categories (arXiv 2306.13394), by the sum that they count for."""

_SAYS_NO = frozenset({"No", "not", "no"})
_MME_PREFIX = 4


def official_pope_answer(text: str) -> str:
    """Read `no` if the first sentence has one of the words "No", "no", "not"; else `yes`.

    This is the rule of POPE's and LLaVA's scripts: whatever does not deny counts as a yes.
    """
    words = text.strip().partition(".")[0].replace(",", "").split(" ")
    return "no" if _SAYS_NO.intersection(words) else "yes"


def official_mme_answer(text: str) -> str | None:
    """Read `yes`, or else `no`, out of the first four characters in lower case; None if neither is there.

    This is the rule of MME's evaluation tool.
    """
    start = text.strip().lower()[:_MME_PREFIX]
    return next((word for word in ("yes", "no") if word in start), None)


def official_pope(prediction: str, sample: ScoredSample) -> float:
    """1 if POPE's reading of the prediction is the first reference; see `official_pope_answer`."""
    return float(official_pope_answer(prediction) == sample.answers[0].lower())


def official_mme(prediction: str, sample: ScoredSample) -> float:
    """1 if MME's reading of the prediction is the first reference; see `official_mme_answer`."""
    return float(official_mme_answer(prediction) == sample.answers[0].lower())


def pope(rows: Sequence[Row]) -> dict[str, float]:
    """POPE (arXiv 2305.10355): accuracy, precision, recall, F1 and share of yes, where yes is positive.

    The figures of the whole are means over the subsets. Precision, recall and F1 are 0 where nothing right
    was answered with yes. `unread` is the share of answers that begin with neither yes nor no.

    Args:
        rows: Their ids are "subset/number"; the references are `yes` or `no`.
    """
    parts = {subset: _detection(members) for subset, members in _groups(rows, 1).items()}
    names = next(iter(parts.values()))
    whole = {name: _mean(part[name] for part in parts.values()) for name in names}
    return whole | {"unread": _unread(rows)} | _flat(parts)


def mme(rows: Sequence[Row]) -> dict[str, float]:
    """MME (arXiv 2306.13394): accuracy + accuracy+ of every category, and their two sums.

    Accuracy+ is the share of images whose two questions are both answered rightly. A category has at most
    200, perception 2000 and cognition 800. `unread` as in `pope`.

    Args:
        rows: Their ids are "category/image/number".
    """
    scores = {}
    for category, members in _groups(rows, 1).items():
        plus = _mean(_all_right(pair) for pair in _groups(members, 2).values())
        scores[category] = _accuracy(members) + 100 * plus
    parts = {
        ability: {name: scores[name] for name in names if name in scores}
        for ability, names in MME_CATEGORIES.items()
    }
    sums = {ability: sum(values.values()) for ability, values in parts.items()}
    return sums | {"unread": _unread(rows)} | _flat(parts)


def mmbench(rows: Sequence[Row]) -> dict[str, float]:
    """MMBench's CircularEval (arXiv 2307.06281): a question is right if all its rotations are.

    `vanilla` is the accuracy of the first rotation alone.

    Args:
        rows: Their ids are "ability/category/question/rotation".
    """
    questions = _groups(rows, 3)
    right = {question: _all_right(members) for question, members in questions.items()}
    first = [row for row in rows if row["id"].rpartition("/")[2] == "0"]
    result = {"circular": 100 * _mean(right.values()), "vanilla": _accuracy(first)}
    for depth in (1, 2):
        parts: dict[str, list[bool]] = {}
        for question, is_right in right.items():
            parts.setdefault(_prefix(question, depth), []).append(is_right)
        result |= {f"circular/{part}": 100 * _mean(values) for part, values in parts.items()}
    return result


def seed_bench(rows: Sequence[Row]) -> dict[str, float]:
    """SEED-Bench (arXiv 2307.16125): accuracy by type of question; that of all is the task's score.

    Args:
        rows: Their ids are "type/number".
    """
    return {f"accuracy/{kind}": _accuracy(members) for kind, members in _groups(rows, 1).items()}


def _detection(rows: Sequence[Row]) -> dict[str, float]:
    answered_yes = [official_pope_answer(row["text"]) == "yes" for row in rows]
    true = [row["references"][0].lower() == "yes" for row in rows]
    hits = sum(s and t for s, t in zip(answered_yes, true, strict=True))
    return {
        "f1": _share(2 * hits, sum(answered_yes) + sum(true)),
        "accuracy": _accuracy(rows),
        "precision": _share(hits, sum(answered_yes)),
        "recall": _share(hits, sum(true)),
        "yes_ratio": _share(sum(answered_yes), len(rows)),
    }


def _unread(rows: Sequence[Row]) -> float:
    return _share(sum(official_mme_answer(row["text"]) is None for row in rows), len(rows))


def _groups(rows: Iterable[Row], depth: int) -> dict[str, list[Row]]:
    """Rows by the first `depth` parts of their ids, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_prefix(row["id"], depth), []).append(row)
    return groups


def _prefix(name: str, depth: int) -> str:
    return "/".join(name.split("/")[:depth])


def _flat(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


def _all_right(rows: Sequence[Row]) -> bool:
    return all(row["score"] == 1 for row in rows)


def _accuracy(rows: Sequence[Row]) -> float:
    return 100 * _mean(row["score"] for row in rows)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
