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
        ("A is correct", "A"),
        ("I would say 'B'", "B"),
        ("It is a 'B'.", "B"),
        ("b!", "B"),
        ("C-section", None),
        ("T-shirt", None),
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
        ("\u7b54\u6848\u662fB", "B"),  # the answer is B
        ("\u7b54\u6848\u662fB\u3002", "B"),
        ("\u7b54\u6848\u662f b", "B"),
        ("\u6b63\u786e\u7b54\u6848\uff1a\uff22", "B"),  # right answer: B, full-width
        ("\u9009C", "C"),  # choose C
        ("\u6211\u9009\u62e9c\u3002", "C"),  # I choose c
        ("\u7b54\u3048\u306fD\u3067\u3059", "D"),  # the answer is D, Japanese
        ("\uc815\ub2f5\uc740 B\uc785\ub2c8\ub2e4", "B"),  # the same in Korean
        ("\u0e04\u0e33\u0e15\u0e2d\u0e1a\u0e04\u0e37\u0e2dB", "B"),  # and in Thai
        ("B\u662f\u5bf9\u7684", "B"),  # B is right
        ("B\u3001\u6708\u4eae", "B"),  # B, the moon
        ("B\u3001A\u5f88\u70ed", "B"),
        ("b\u3001\u6708\u4eae", "B"),
        ("b.\u6708\u4eae", "B"),
        ("\u3010B\u3011", "B"),
        ("\uff22", "B"),
        ("\uff08\uff43\uff09", "C"),
        ("\uff22\uff0e the moon", "B"),
        ("A\u548cB", None),  # A and B
        ("A\u3001B", None),
        ("\u7b54\u6848\u662fa dog", None),
        ("\u4ed6\u7a7f\u7740AB", None),
        ("caf\u00e9B", None),
        ("\u0444B", None),  # Cyrillic is written with spaces
    ],
)
def test_letters_beside_scripts_without_spaces_and_full_width_ones(text: str, letter: str | None) -> None:
    assert option_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("the answer is b because it rains", "B"),
        ("The answer is b, since it rains.", "B"),
        ("ANSWER: b", "B"),
        ("answer:b", "B"),
        ("The answer is (c) the moon", "C"),
        ("the answer is a.", "A"),
        ("the answer is a because it rains", "A"),
        ("the answer is a", "A"),
        ("option b is right", "B"),
        ("option a is right", "A"),
        ("I pick choice d here", "D"),
        ("the best choice is c here", "C"),
        ("the answer is a dog", None),
        ("the best choice is a dog", None),
        ("I cannot answer a question", None),
        ("the answer is i think unclear", None),
        ("the answer is a or b", None),
        ("option b, c or d", None),
        ("the answer is (a)/(b)", None),
        ("the answer is b, a dog", "B"),
        ("the answer is b, not c", "B"),
        ("the answer is b, I think", "B"),
        ("the answer is 'b'.", "B"),
        ("The answer is 'B'.", "B"),
        ("answers b", None),
        ("the answer is a.m.", None),
        ("the option i like is b", None),
        ("The option I like is B", "B"),
        ("The answer I got is B", "B"),
        ("the answer is e-mail", None),
        ("the answer is blue", None),
        ("option B's right", "B"),
        ("the answer is i'm unsure", None),
        ("the answer is b. The answer is c.", None),
        ("I\u2019m sure", None),
    ],
)
def test_lower_case_letters_count_after_answer_option_and_choice(text: str, letter: str | None) -> None:
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
