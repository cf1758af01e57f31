from __future__ import annotations

import pytest

from lit_cvit.cli.errors import CleanExit
from lit_cvit.commands.check import _options


@pytest.mark.parametrize("flag", ["--decode_images", "--decode-images"])
@pytest.mark.parametrize("workers", [["--workers", "3"], ["--workers=3"]])
def test_options_of_check_are_taken_and_the_others_stay_in_order(flag: str, workers: list[str]) -> None:
    given = ["--config", "a", flag, "--data.tasks", "[A, B]", *workers, "--all", "--data.num_workers", "2"]
    options, rest = _options(given)
    assert (options.decode_images, options.workers, options.all) == (True, 3, True)
    assert rest == ["--config", "a", "--data.tasks", "[A, B]", "--data.num_workers", "2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--decode_images", "--workers", "0"], "--workers must be a whole number of at least 1, got 0"),
        (["--decode_images", "--workers", "x"], "argument --workers: invalid int value: 'x'"),
        (["--workers", "2"], "--workers goes with --decode_images; records are read by one process"),
    ],
)
def test_a_wrong_number_of_workers_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(CleanExit) as caught:
        _options(given)
    assert str(caught.value) == message
