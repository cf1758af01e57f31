"""The line of a configuration's header that says what to expect, generated out of results.

    # Expect on cvit-mini (results/cvit_mini, SMoLoRA): ...

What stands behind the colon is replaced by AP, BWT and MIF, captions counted by exact content.
"""

from __future__ import annotations

import re
from pathlib import Path

from lit_cvit.report.results import over_seeds, read_results, summary_metric
from lit_cvit.report.results_page import counted

_LINE = re.compile(
    r"^(# Expect on [\w-]+ \(results/(?P<sweep>[\w-]+), (?P<group>[\w-]+)\):).*$", re.MULTILINE
)
_METRICS = ("AP", "BWT", "MIF")


def render_header(text: str, results: Path) -> str:
    """A configuration with its expected results as they are now.

    Args:
        text: The file's text.
        results: Folder that holds the results of each sweep in a folder of their own.

    Raises:
        ValueError: a file of results is not valid.
    """
    return _LINE.sub(lambda found: f"{found[1]} {_expected(results / found['sweep'], found['group'])}", text)


def _expected(folder: Path, group: str) -> str:
    runs = [counted(run, "content") for run in read_results(folder) if run.group == group]
    if not runs:
        return "not measured yet."

    shown = {name: over_seeds(runs, summary_metric(name)) for name in _METRICS}
    words = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
    return f"{words} ({len(runs)} seed{'s' * (len(runs) > 1)})."
