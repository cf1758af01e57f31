"""Finding the run to go on with among those below a folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from lit_cvit.run.files import read_json
from lit_cvit.run.folder import RECORD, RunFolder
from lit_cvit.run.record import RunRecord
from lit_cvit.run.writer import Writer


def newest_run(
    root: Path | str,
    config_digest: str | None,
    *,
    name: str | None = None,
    writer: Writer | None = None,
    verify: bool = False,
) -> RunFolder | None:
    """The run that `newest_record` finds; `writer` and `verify` are those of `RunFolder.open`."""
    found = newest_record(root, config_digest, name=name)
    return RunFolder.open(found[0], writer=writer, verify=verify) if found else None


def newest_record(
    root: Path | str, config_digest: str | None, *, name: str | None = None
) -> tuple[Path, RunRecord] | None:
    """Folder and record of the newest run of a configuration (None: of any) under `root`, or None.

    With `name`, only runs that were started under it count: the folder of that name, and those with a number
    behind it. Other folders are passed over, and with a warning runs that cannot be read.
    """
    found = [
        (path, record)
        for path, record in run_records(root, name=name)
        if config_digest in (None, record.config_digest)
    ]
    return max(found, key=lambda each: (each[1].created, each[0]), default=None)


def run_records(root: Path | str, *, name: str | None = None) -> Iterator[tuple[Path, RunRecord]]:
    """Folder and record of the runs under `root`, in the order of their names; `name` as above."""
    called = re.compile(rf"{re.escape(name)}(-\d+)?" if name else ".*")
    for path in sorted(Path(root).glob(f"*/{RECORD}")):
        try:
            record = RunRecord.from_json(read_json(path), source=path)
        except ValueError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
            continue
        if called.fullmatch(path.parent.name):
            yield path.parent, record
