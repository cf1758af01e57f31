"""The shipped experiments as their files describe them."""

from __future__ import annotations

import re

from lit_cvit.cli.shipped import CONFIGS

NAMES = sorted(path.stem for path in (CONFIGS / "experiments").glob("*.yaml"))


def header(name: str) -> list[str]:
    lines = (CONFIGS / "experiments" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = lines[: lines.index(f"name: {name}")]
    assert all(line.startswith("# ") for line in head)
    return [line.removeprefix("# ") for line in head]


def command(name: str) -> list[str]:
    """The arguments of the command in a file's header, behind `fit`."""
    text = "\n".join(header(name)).replace("\\\n", " ")
    (line,) = re.findall(r"^python -m lit_cvit fit (.*)$", text, flags=re.MULTILINE)
    return str(line).split()
