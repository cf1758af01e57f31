"""METEOR 1.5 of captions, run from the extra `captions`; it needs Java.

METEOR: Denkowski and Lavie, WMT 2014. The program and its paraphrase table come with `pycocoevalcap`; it is
driven as the COCO caption tools do it (`-l en -norm`), over our PTB tokens. METEOR pools the counts of a
split as BLEU does.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from lit_cvit.metrics.ptb import ptb_tokenize
from lit_cvit.metrics.scored import Scored, check_captions

_JAR = Path("meteor", "meteor-1.5.jar")
# The first is for Java 17 and older in a locale that is not UTF-8.
_OPTIONS = ("-Dfile.encoding=UTF-8", "-Xmx2G")
_ARGUMENTS = ("-", "-", "-stdio", "-l", "en", "-norm")


def check_meteor() -> None:
    """Refuse METEOR where it cannot run.

    Raises:
        ValueError: the extra `captions` or Java is missing.
    """
    _command()


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Score captions, from 0 to 1 per sample; starting Java takes seconds.

    Args:
        predictions: One caption per sample.
        references: The reference captions of each sample, at least one.

    Raises:
        ValueError: the lengths differ, a sample has no reference, the extra or Java is missing, or it fails.
    """
    check_captions("METEOR", predictions, references)
    command = _command()
    if not predictions:
        return Scored([], math.nan)
    lines = [
        " ||| ".join(["SCORE", *map(_words, captions), _words(prediction)])
        for prediction, captions in zip(predictions, references, strict=True)
    ]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            values = _run(command, lines, errors)
        except (OSError, ValueError) as error:
            errors.seek(0)
            raise ValueError(
                f"METEOR failed: {' '.join(command)}: {errors.read().strip() or error}"
            ) from error
    return Scored(values[:-1], 100 * values[-1])


def _run(command: list[str], lines: list[str], errors: IO[str]) -> list[float]:
    """The scores of the lines, then that of all."""
    pipe = subprocess.PIPE
    # The program answers a line with its counts, and all counts together with the scores.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, encoding="utf-8") as process:
        counts = [_ask(process, line) for line in lines]
        first = _ask(process, " ||| ".join(["EVAL", *counts]))
        return [float(first), *(float(_read(process)) for _ in lines)]


def _command() -> list[str]:
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = spec.submodule_search_locations if spec is not None else None
    jars = [jar for folder in folders or () if (jar := Path(folder, _JAR)).is_file()]
    java = shutil.which("java")
    if jars and java:
        return [java, *_OPTIONS, "-jar", str(jars[0]), *_ARGUMENTS]
    needs = {
        "the extra 'captions' (pip install 'lit_cvit[captions]')": jars,
        "Java (no 'java' on the PATH)": java,
    }
    missing = " and ".join(need for need, found in needs.items() if not found)
    raise ValueError(f"METEOR needs {missing}; bleu_1 to bleu_4, rouge_l, cider and mean_of_six need neither")


def _words(caption: str) -> str:
    # "|||" is what separates the captions of a line.
    return " ".join(ptb_tokenize(caption.replace("|||", " ")))


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return _read(process)


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise ValueError("it ended without an answer")
    return line
