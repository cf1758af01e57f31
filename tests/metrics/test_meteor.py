"""METEOR: what it asks of the machine, how the program is driven, and its scores where it is installed."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from metrics_kit import Answered, golden

from lit_cvit.metrics import meteor as module
from lit_cvit.metrics.meteor import check_meteor, meteor
from lit_cvit.metrics.scoring import SCORERS, scorer

EXTRA = "the extra 'captions' (pip install 'lit_cvit[captions]')"
JAVA = "Java (no 'java' on the PATH)"
NEITHER = "; bleu_1 to bleu_4, rouge_l, cider and mean_of_six need neither"
NEEDY = ("meteor", "mean_of_seven")

# Keeps what it is asked, counts the words of every SCORE, answers EVAL with their thousandths and the sum.
PROGRAM = f"""#!{sys.executable}
import sys
with open(sys.argv[0] + ".log", "w", encoding="utf-8") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
    for line in sys.stdin.buffer:
        text = line.decode("utf-8")
        log.write(text)
        verb, *parts = text.strip().split(" |||")
        if verb == "SCORE":
            print(len(parts[-1].split()), flush=True)
        else:
            for part in parts:
                print(int(part) / 1000)
            print(sum(map(int, parts)) / 1000, flush=True)
"""
FAILS = "#!/bin/sh\necho 'Could not create the Java Virtual Machine.' >&2\nexit 1\n"


def installed() -> bool:
    try:
        check_meteor()
    except ValueError:
        return False
    return True


INSTALLED = installed()


def put_java(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called java, alone on the PATH."""
    java = folder / "bin" / "java"
    java.parent.mkdir()
    java.write_text(program)
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(java.parent))
    return java


def put_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an empty file in the place of the program."""
    jar = folder / "site" / "pycocoevalcap" / "meteor" / "meteor-1.5.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    monkeypatch.syspath_prepend(str(folder / "site"))
    return jar


def hide_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)


def test_the_extra_and_java_are_named_where_they_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put_extra(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="METEOR needs") as caught:
        meteor(["a"], [["a"]])
    assert str(caught.value) == f"METEOR needs {JAVA}{NEITHER}"
    hide_extra(monkeypatch)
    with pytest.raises(ValueError, match="METEOR needs") as caught:
        meteor(["a"], [["a"]])
    assert str(caught.value) == f"METEOR needs {EXTRA} and {JAVA}{NEITHER}"
    put_java(tmp_path, PROGRAM, monkeypatch)
    with pytest.raises(ValueError, match="METEOR needs") as caught:
        meteor(["a"], [["a"]])
    assert str(caught.value) == f"METEOR needs {EXTRA}{NEITHER}"


@pytest.mark.parametrize("name", NEEDY)
def test_a_scorer_that_cannot_run_is_refused_when_it_is_chosen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_extra(monkeypatch)
    with pytest.raises(ValueError, match=f"^scorer '{name}': METEOR needs the extra 'captions'"):
        scorer(name)


@pytest.mark.parametrize("name", NEEDY)
def test_a_scorer_is_given_where_all_it_needs_is_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_extra(tmp_path, monkeypatch)
    put_java(tmp_path, PROGRAM, monkeypatch)
    assert scorer(name) is next(each for each in SCORERS if each.name == name)


def test_the_program_gets_tokens_and_is_asked_for_the_pooled_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = put_extra(tmp_path, monkeypatch)
    java = put_java(tmp_path, PROGRAM, monkeypatch)
    samples = [Answered(("One dog.", "The dog's caf\u00e9")), Answered(("A ||| cat",))]
    scored = scorer("meteor").score(["A dog!", ""], samples)
    assert (scored.samples, scored.percent) == ([0.002, 0.0], pytest.approx(0.2))
    assert Path(f"{java}.log").read_text(encoding="utf-8").splitlines() == [
        f"-Dfile.encoding=UTF-8 -Xmx2G -jar {jar} - - -stdio -l en -norm",
        "SCORE ||| one dog ||| the dog 's caf\u00e9 ||| a dog",
        "SCORE ||| a cat ||| ",
        "EVAL ||| 2 ||| 0",
    ]


def test_an_error_of_java_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_extra(tmp_path, monkeypatch)
    java = put_java(tmp_path, FAILS, monkeypatch)
    with pytest.raises(ValueError, match="METEOR failed") as caught:
        meteor(["a"], [["a"]])
    assert str(caught.value).startswith(f"METEOR failed: {java} -Dfile.encoding=UTF-8")
    assert str(caught.value).endswith(": Could not create the Java Virtual Machine.")


def test_no_captions_need_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_extra(tmp_path, monkeypatch)
    put_java(tmp_path, FAILS, monkeypatch)
    assert meteor([], []).samples == []


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'captions' and Java")
def test_scores_are_those_of_the_coco_tools() -> None:
    """Recorded with the same program; see tests/golden/captions_SOURCE.md."""
    recorded = golden("caption_coco_varrefs")
    cases = recorded["cases"]
    scored = meteor([case["prediction"] for case in cases], [case["references"] for case in cases])
    assert scored.samples == pytest.approx([case["scores"]["METEOR"] for case in cases], abs=1e-6)
    assert scored.percent / 100 == pytest.approx(recorded["corpus"]["METEOR"], abs=1e-6)
