"""Which option an answer names."""

from __future__ import annotations

import pytest

from lit_cvit.metrics.letters import official_option_letter, option_letter

CHOICES = ("the moon", "vitamin C", "water", "a dog")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" b.", "B"),
        ("(c)", "C"),
        ("**A**", "A"),
        ("_B_", "B"),
        ("B. the moon", "B"),
        ("C.the sun", "C"),
        ("b) gravity", "B"),
        ("(B) gravity", "B"),
        ("A: water", "A"),
        ("A - water", "A"),
        ("D\ngravity", "D"),
        ("The answer is B.", "B"),
        ("The answer is (B).", "B"),
        ("the answer is c", "C"),
        ("Answer: D", "D"),
        ("option c", "C"),
        ("It's B", "B"),
        ("I think it is C", "C"),
        ("The answer is A because it rains", "A"),
        ("It is a dog", None),
        ("A dog", None),
        ("I don't know", None),
        ("I'm sure", None),
        ("both A and B", None),
        ("A, B", None),
        ("B or C", None),
        ("The answer is A or B.", None),
        ("The answer is B. The answer is C.", None),
        ("AB", None),
        ("U.S. flag", None),
        ("a.m.", None),
        ("1", None),
        ("", None),
        (".", None),
    ],
)
def test_letter_without_known_choices(text: str, letter: str | None) -> None:
    assert option_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("vitamin C", "B"),
        ("The Moon", "A"),
        ("the moon.", "A"),
        ("A DOG", "D"),
        ("c", "C"),
        ("E", None),
        ("The answer is E, not B", "B"),
    ],
)
def test_choices_name_options_and_bound_the_letters(text: str, letter: str | None) -> None:
    assert option_letter(text, CHOICES) == letter


def test_text_of_two_equal_choices_names_none() -> None:
    assert option_letter("yes", ("yes", "Yes.", "no")) is None


@pytest.mark.parametrize(
    ("text", "letter"), [("It is a dog", "A"), ("It's B", "S"), ("AB", None), ("5 B", "5")]
)
def test_official_rule_takes_the_first_lone_character(text: str, letter: str | None) -> None:
    assert official_option_letter(text) == letter
