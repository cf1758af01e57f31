"""A package `callbacks` of the user's that hides ours is named, before it is imported."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
from cli_kit import only_message

QUICK = ("fit", "--config", "quickstart")


@pytest.mark.parametrize(
    "content",
    ["", "raise RuntimeError('broken')\n", "from keras.callbacks import *\n"],
    ids=["empty", "broken", "needs-another"],
)
def test_a_foreign_callbacks_package_is_named_before_it_is_imported(
    say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    foreign = tmp_path / "callbacks" / "__init__.py"
    foreign.parent.mkdir()
    foreign.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n == "lit_cvit.cli.stream_cli" or re.match(r"callbacks(\.|$)", n)]:
        monkeypatch.delitem(sys.modules, name)
    assert only_message(say(*QUICK), "fit") == (
        f"another package named `callbacks` hides the one of lit_cvit: {foreign}. Start from another folder, "
        "or set PYTHONSAFEPATH=1 so that the current folder is not searched"
    )


def test_a_foreign_callbacks_module_that_is_imported_already_is_named(
    say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "callbacks.py"
    foreign.write_text("")
    module = types.ModuleType("callbacks")
    module.__spec__ = __import__("importlib.util").util.spec_from_file_location("callbacks", foreign)
    monkeypatch.delitem(sys.modules, "lit_cvit.cli.stream_cli")
    monkeypatch.setitem(sys.modules, "callbacks", module)
    assert f"hides the one of lit_cvit: {foreign}. " in only_message(say(*QUICK), "fit")
