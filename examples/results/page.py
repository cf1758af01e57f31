"""Generates the tables of docs/results.md and docs/miniature.md out of results/.

    python examples/results/page.py

A sweep leaves the results: `python -m lit_cvit sweep cvit_mini` writes results/cvit_mini. What a marker of
the page may say is at the top of lit_cvit/report/results_page.py; all other text is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from lit_cvit.report.results_page import render

ROOT = Path(__file__).parents[2]
PAGES, RESULTS = (ROOT / "docs" / "results.md", ROOT / "docs" / "miniature.md"), ROOT / "results"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")
