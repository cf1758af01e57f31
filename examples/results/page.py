"""Generates the tables of docs/results.md and docs/miniature.md, and what methods expect, out of results/.

    python examples/results/page.py

A sweep leaves the results: `python -m lit_cvit sweep cvit_mini` writes results/cvit_mini. What a marker of
a page may say is at the top of lit_cvit/report/results_page.py, what the line in a header of configs/methods
says in results_headers.py beside it; all other text is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from lit_cvit.report.results_headers import render_header
from lit_cvit.report.results_page import render

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
PAGES = dict.fromkeys((ROOT / "docs" / "results.md", ROOT / "docs" / "miniature.md"), render)
HEADERS = dict.fromkeys(sorted((ROOT / "configs" / "methods").glob("*.yaml")), render_header)


if __name__ == "__main__":
    for path, generated in (PAGES | HEADERS).items():
        before = path.read_text(encoding="utf-8")
        after = generated(before, RESULTS)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
