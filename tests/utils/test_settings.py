"""Settings are checked from type hints, the same for methods, callbacks and plain dataclasses."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from lit_cvit.utils.settings import (
    AtLeastOne,
    BelowOne,
    CheckedSettings,
    NotNegative,
    Positive,
    Range,
    check_settings,
    dataclass_hints,
)


class Base(CheckedSettings):
    def __init__(
        self,
        size: AtLeastOne = 1,
        rate: Positive = 1.0,
        names: tuple[Literal["one", "two"], ...] = (),
        share: BelowOne | Literal["auto"] = "auto",
        other: object = None,
    ) -> None:
        self.size, self.rate, self.names, self.share = size, rate, names, share


class Derived(Base):
    settings_prefix = "model."

    def __init__(
        self,
        mode: Literal["fast", "slow"] = "fast",
        layers: list[int] | Literal["top"] = "top",
        step: AtLeastOne | None = None,
        flag: bool = False,
        text: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mode = mode


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "model.size must be at least 1, got 0"),
        ({"size": 1.5}, "model.size must be a whole number that is at least 1, got 1.5"),
        ({"size": True}, "model.size must be a whole number that is at least 1, got True"),
        ({"rate": 0.0}, "model.rate must be more than 0, got 0.0"),
        ({"rate": math.inf}, "model.rate must be finite and more than 0, got inf"),
        ({"rate": math.nan}, "model.rate must be finite and more than 0, got nan"),
        ({"share": 1.0}, "model.share must be at least 0 and less than 1, or one of auto; got 1.0"),
        ({"mode": "both"}, "model.mode must be one of fast, slow; got 'both'"),
        ({"names": ["one", 2]}, "model.names must be a list, each entry one of one, two; got ['one', 2]"),
        ({"layers": "bottom"}, "model.layers must be a list, each entry a whole number, or one of top; got"),
        ({"layers": [0.5]}, "model.layers must be a list"),
        ({"step": 0}, "model.step must be at least 1, or null; got 0"),
        ({"flag": "yes"}, "model.flag must be true or false, got 'yes'"),
        ({"text": 3}, "model.text must be a text, or null; got 3"),
    ],
)
def test_a_setting_out_of_its_hint_is_refused_by_option_value_and_what_is_allowed(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Derived(**settings)


@pytest.mark.parametrize(
    ("settings", "near"),
    [({"mode": "slo"}, "slow"), ({"names": ["one", "tow"]}, "two"), ({"share": "aut"}, "auto")],
)
def test_a_text_that_is_nearly_one_of_those_allowed_is_answered_with_it(
    settings: dict[str, Any], near: str
) -> None:
    with pytest.raises(ValueError, match=rf"\. Did you mean '{near}'\?$"):
        Derived(**settings)


def test_settings_that_fit_their_hints_are_taken() -> None:
    made = Derived("slow", [1, -1], 2, True, "x", size=3, rate=2, names=["one", "two"], share=0.5, other=0)
    assert (made.mode, made.size, made.rate, made.names, made.share) == ("slow", 3, 2, ["one", "two"], 0.5)
    assert Derived(step=None, text=None, share="auto").mode == "fast"


def test_a_setting_by_position_is_checked_too_and_named_after_its_class() -> None:
    with pytest.raises(ValueError, match=r"^Base\.size must be at least 1, got -1"):
        Base(-1)


def test_a_class_without_a_constructor_of_its_own_is_checked_by_the_one_it_inherits() -> None:
    class Plain(Derived):
        pass

    with pytest.raises(ValueError, match=r"^model\.mode must be"):
        Plain("never")


def test_a_subclass_that_narrows_a_hint_is_checked_by_its_own() -> None:
    class Narrow(Base):
        def __init__(self, size: Annotated[int, Range(at_least=2, at_most=3)] = 2) -> None:
            super().__init__(size)

    assert Narrow(3).size == 3
    for size in (1, 4):
        with pytest.raises(ValueError, match=f"Narrow.size must be at least 2 and at most 3, got {size}"):
            Narrow(size)


def test_a_copy_is_not_a_construction() -> None:
    assert copy.deepcopy(Derived("slow")).mode == "slow"


def test_a_dataclass_can_check_its_fields() -> None:
    @dataclass
    class Settings:
        rates: tuple[float, float] = (0.1, 0.2)
        decay: float = 0.0

        def __post_init__(self) -> None:
            hints = {**dataclass_hints(type(self)), "rates": tuple[NotNegative, NotNegative]}
            check_settings(hints, vars(self), prefix="optimizer.")

    assert Settings((0, 1)).rates == (0, 1)
    for rates in ((0.1,), (0.1, -1.0)):
        with pytest.raises(ValueError, match=r"optimizer\.rates must be a list, each entry .* at least 0"):
            Settings(rates)  # type: ignore[arg-type]


def test_hints_that_cannot_be_read_are_an_error_that_says_so() -> None:
    class Hidden(CheckedSettings):
        def __init__(self, size: Missing = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

    with pytest.raises(TypeError, match=r"Hidden.__init__ cannot be read .*'Missing'.*TYPE_CHECKING"):
        Hidden()
