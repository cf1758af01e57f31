"""The scorers' own rules, errors and manners."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import pytest
from metrics_kit import Answered

from lit_cvit.metrics.following import follows
from lit_cvit.metrics.scoring import SCORERS, ExactContent, MatchScorer, Scorer, scorer
from lit_cvit.metrics.text import class_name, evalai_normalize

METEOR = ("meteor", "mean_of_seven")
WORLD = ExactContent(
    colours=("red", "blue", "dark blue"),
    shapes=("circle", "star"),
    places=("top", "top left", "bottom"),
)


def _score(name: str, prediction: str, *answers: str, choices: tuple[str, ...] = ()) -> float:
    return scorer(name)([prediction], [Answered(answers, choices)])[0]


@pytest.mark.parametrize("tested", SCORERS, ids=lambda tested: tested.name)
def test_every_scorer_survives_pickling(tested: Scorer) -> None:
    assert pickle.loads(pickle.dumps(tested)) == tested


# The others are in test_meteor.py.
@pytest.mark.parametrize("name", [each.name for each in SCORERS if each.name not in METEOR])
def test_every_scorer_is_found_by_its_name(name: str) -> None:
    assert scorer(name).name == name


def test_no_two_scorers_have_one_name() -> None:
    assert len({each.name for each in SCORERS}) == len(SCORERS)


def test_unknown_scorer_names_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match="unknown scorer 'short_anwser'. Did you mean 'short_answer'.* Known: letter, "
    ):
        scorer("short_anwser")


@pytest.mark.parametrize("tested", [*SCORERS, WORLD], ids=lambda tested: tested.name)
def test_predictions_and_samples_must_have_one_length(tested: Scorer) -> None:
    with pytest.raises(ValueError, match=f"scorer '{tested.name}' got 2 predictions for 1 samples"):
        tested(["A", "B"], [Answered(("A",))])


@pytest.mark.parametrize("tested", [*SCORERS, WORLD], ids=lambda tested: tested.name)
def test_sample_without_a_reference_is_named(tested: Scorer) -> None:
    with pytest.raises(ValueError, match=f"scorer '{tested.name}': sample 1 has no reference answer"):
        tested(["A", "B"], [Answered(("A",)), Answered(())])


@pytest.mark.parametrize(
    "tested", [scorer("letter"), scorer("exact"), scorer("cider"), WORLD], ids=lambda tested: tested.name
)
def test_the_score_of_a_split_is_100_times_the_mean(tested: Scorer) -> None:
    gold = ["A red star at the top.", "A blue circle at the bottom."]
    answers = ["A", "B"] if tested.name == "letter" else gold
    samples = [Answered((answer,)) for answer in answers]
    scored = tested.score([answers[0], "x"], samples)
    assert scored.samples == tested([answers[0], "x"], samples)
    assert scored.samples[0] > scored.samples[1] == 0.0
    assert scored.percent == 100 * sum(scored.samples) / 2


def test_scoring_imports_no_heavy_library() -> None:
    code = "import sys, lit_cvit.metrics.scoring; print({'torch', 'torchmetrics'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("Red bus", 1.0),
        (" red BUS. ", 1.0),
        ("red bus..", 0.0),
        ("the red bus", 0.0),
        ("omnibus", 1.0),
        ("", 0.0),
    ],
)
def test_exact_ignores_case_and_one_full_stop(prediction: str, score: float) -> None:
    assert _score("exact", prediction, "red bus", "Omnibus.") == score


@pytest.mark.parametrize(
    ("prediction", "score"),
    [("Two dogs!", 1.0), ("the 2 dogs", 1.0), ("dont know", 1.0), ("2 dog", 0.0), ("", 0.0)],
)
def test_short_answer_compares_evalai_forms(prediction: str, score: float) -> None:
    assert _score("short_answer", prediction, "2 dogs", "don't know") == score


@pytest.mark.parametrize(("prediction", "score"), [("the", 1.0), ("", 0.0), ("a", 0.0)])
def test_short_answer_of_articles_alone_is_not_empty(prediction: str, score: float) -> None:
    assert _score("short_answer", prediction, "The") == score


@pytest.mark.parametrize("name", ["exact", "short_answer", "class_name"])
@pytest.mark.parametrize("reference", [".", "...", "-", "?"])
def test_an_empty_prediction_does_not_equal_a_reference_of_marks_alone(name: str, reference: str) -> None:
    assert _score(name, "", reference) == 0.0
    assert _score(name, reference, reference) == 1.0


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("tabby cat", 1.0),
        ("A Tabby-cat.", 1.0),
        ("tabby_cat", 1.0),
        ("cat", 0.0),
        ("tabby cat and dog", 0.0),
        ("", 0.0),
        ("a", 0.0),
    ],
)
def test_class_name_is_equality_where_the_official_rule_takes_substrings(
    prediction: str, score: float
) -> None:
    assert _score("class_name", prediction, "tabby cat") == score


@pytest.mark.parametrize("prediction", ["", "a", "cat", "tabby cat and dog"])
def test_official_substring_rewards_almost_anything(prediction: str) -> None:
    assert _score("official_substring", prediction, "tabby cat") == 1.0


def test_the_substring_of_coin_minds_the_case() -> None:
    assert _score("official_substring", "CAT", "tabby cat") == 1.0
    assert _score("official_imagenet_coin", "CAT", "tabby cat") == 0.0
    assert _score("official_imagenet_coin", "a tabby cat", "x", "tabby cat") == 1.0


@pytest.mark.parametrize(
    ("prediction", "paper", "code"),
    [("red BUS", 1.0, 1.0), ("bus", 1.0, 0.0), ("", 1.0, 0.0), ("a red bus", 0.0, 0.0)],
)
def test_hides_paper_takes_any_part_of_the_answer_where_its_code_wants_the_whole(
    prediction: str, paper: float, code: float
) -> None:
    assert _score("paper_hide", prediction, "Red bus") == paper
    assert _score("official_exact", prediction, "Red bus") == code


def test_class_name_of_an_article_alone_keeps_it() -> None:
    assert class_name("A") == "a"


def test_vqa_soft_leaves_each_human_out_in_turn() -> None:
    # 3 of 10 agree: left out 3 times, min(1, 2/3); else 1.
    answers = ["red"] * 3 + ["blue"] * 7
    assert _score("vqa_soft", "Red", *answers) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert _score("vqa_soft", "green", *answers) == 0.0


def test_vqa_soft_needs_ten_answers() -> None:
    with pytest.raises(ValueError, match="scorer 'vqa_soft', sample 0: .* needs 10 human answers, got 1"):
        _score("vqa_soft", "red", "red")


def test_official_vqav2_normalises_only_if_humans_disagree() -> None:
    assert _score("official_vqav2", "a dog", *["dog"] * 10) == 0.0
    assert _score("official_vqav2", "a dog", *["dog"] * 9, "cat") == 1.0


def test_evalai_form_removes_no_more_than_32_full_stops() -> None:
    assert evalai_normalize("a.b" + "." * 40) == "ab" + "." * 9


def test_letter_accepts_a_wrapped_reference() -> None:
    assert _score("letter", "b", "(B)") == 1.0


def test_letter_reference_that_is_no_option_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="scorer 'letter', sample 0: the reference answer 'C' is not one of its 2 choices"
    ):
        _score("letter", "A", "C", choices=("yes", "no"))


BLANK = ("short_answer", "exact", "class_name", "official_substring", "cider", "bleu_4", "rouge_l")


@pytest.mark.parametrize(
    ("name", "answers", "message"),
    [
        ("letter", ("blue",), "the reference answer 'blue' is not an option letter"),
        ("vqa_soft", ("a",) * 9, "soft accuracy needs 10 human answers, got 9"),
        ("grounding_iou", ("[nan, 1, 2, 3]",), "the reference answer '[nan, 1, 2, 3]' is no box"),
        ("grounding_iou", ("[5, 1, 2, 3]",), "the reference box '[5, 1, 2, 3]' has no area"),
        ("official_grounding", ("[0, 3, 2, 3]",), "the reference box '[0, 3, 2, 3]' has no area"),
        *((name, ("red", " "), "the reference answer ' ' has nothing to compare with") for name in BLANK),
        ("official_exact", ("", "red"), "the reference answer '' has nothing to compare with"),
    ],
)
def test_a_scorer_refuses_references_it_cannot_compare_with(
    name: str, answers: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        scorer(name).check(Answered(answers))


@pytest.mark.parametrize("name", ["vqa_soft", "official_vqav2", "official_exact", "official_gqa"])
def test_humans_may_say_nothing_where_a_reference_alone_decides_nothing(name: str) -> None:
    scorer(name).check(Answered(("red", "", *["red"] * 8)))


@pytest.mark.parametrize("name", ["letter", "letter_or_short", "official_scienceqa"])
def test_a_letter_beyond_the_choices_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the reference answer 'D' is not one of its 2 choices"):
        scorer(name).check(Answered(("D",), ("yes", "no")))


@pytest.mark.parametrize("tested", [each for each in SCORERS if each.name in ("exact", "cider", "bleu_4")])
def test_a_scorer_of_any_text_takes_any_reference(tested: Scorer) -> None:
    tested.check(Answered(("?",)))


def test_letter_reference_may_be_the_text_of_a_choice() -> None:
    assert _score("letter", "B", "no", choices=("yes", "no")) == 1.0


@pytest.mark.parametrize(
    ("caption", "score"),
    [
        ("At the top left there is a red circle and a blue star is at the bottom.", 1.0),
        ("A blue star at the bottom; top-left: red circle", 1.0),
        ("a RED circle in the top left, a blue star in the bottom", 1.0),
        ("A red circle at the top and a blue star at the bottom.", 0.0),
        ("A red circle at the top left.", 0.0),
        ("A red circle at the top left, a blue star at the bottom and a red star at the top", 0.0),
        ("A dark blue star at the bottom and a red circle at the top left.", 0.0),
        ("A red blue star at the bottom and a red circle at the top left.", 0.0),
        ("A star at the bottom and a red circle at the top left.", 0.0),
        ("", 0.0),
    ],
)
def test_exact_content_wants_the_same_set_of_objects(caption: str, score: float) -> None:
    reference = "At the top left there is a red circle. At the bottom there is a blue star."
    assert WORLD([caption], [Answered((reference, "never read"))]) == [score]


def test_exact_content_reads_clauses_without_vocabulary_as_nothing() -> None:
    sample = Answered(("A red star at the top.",))
    assert WORLD(["This is a picture, with a red star at the top."], [sample]) == [1.0]


def test_exact_content_refuses_a_reference_it_cannot_read() -> None:
    with pytest.raises(
        ValueError, match="cannot read objects out of the reference 'A green star at the top.'"
    ):
        WORLD(["x"], [Answered(("A green star at the top.",))])


def test_exact_content_pickles() -> None:
    assert pickle.loads(pickle.dumps(WORLD)) == WORLD


def test_custom_match_scorer_takes_a_normal_form() -> None:
    assert MatchScorer("stripped", str.strip)([" a ", "A"], [Answered(("a",))] * 2) == [1.0, 0.0]


def test_unknown_answer_format_names_the_nearest_one() -> None:
    with pytest.raises(
        ValueError,
        match="unknown answer format 'captions'. Did you mean 'caption'. Known: letter, short, caption, box",
    ):
        follows("captions", "a dog.", ())


@pytest.mark.parametrize(
    ("format_name", "prediction", "answers", "expected"),
    [
        ("letter", " b\n", ("A",), True),
        ("letter", "B.", ("B",), False),
        ("short", "", ("red",), True),
        ("short", "one two three", ("red", "ONE two three"), True),
        ("short", "one two three", ("red",), False),
        ("caption", "Five words are needed here.", (), True),
        ("caption", "Five words are needed here", ("Five words are needed here",), False),
        ("caption", "four words are few.", ("Four words are few. So few.",), True),
        ("caption", "four words are few.", ("Four words are few",), False),
        ("box", " [0.41, 0.45,.63, 1]\n", ("[0.0, 0.0, 1.0, 1.0]",), True),
        ("box", "[0.41, 0.45, 0.63, 0.62].", ("[0.41, 0.45, 0.63, 0.62]",), False),
        ("box", "0.41, 0.45, 0.63, 0.62", ("[0.41, 0.45, 0.63, 0.62]",), False),
        ("box", "[0.41, 0.45, 0.63]", ("[0.41, 0.45, 0.63, 0.62]",), False),
        ("box", "[0.1, 0.2, 0.3, 0.4, 0.5]", ("[0.41, 0.45, 0.63, 0.62]",), False),
    ],
)
def test_format_rules(format_name: str, prediction: str, answers: tuple[str, ...], expected: bool) -> None:
    assert follows(format_name, prediction, answers) is expected
