"""What the tests of the command line share."""

from __future__ import annotations


def only_message(result: tuple[int, str, str], verb: str) -> str:
    """The message of a failed command, which must be all that it says."""
    status, out, err = result
    assert status in (1, 2)
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith(f"lit_cvit {verb}: ")
    assert err.count("\n") == 1, err
    return err.removeprefix(f"lit_cvit {verb}: ").rstrip("\n")
