"""The run folder: layout, record, the one atomic writer, scores, and reading a finished run.

Everything a run stores is JSON, JSON lines, CSV or safetensors. Stage numbers start at 1.
"""

from __future__ import annotations

from lit_cvit.run.answers import AnswerJournal
from lit_cvit.run.conditions import KINDS, TINY, Change, Conditions, changes, in_words, kinds_of
from lit_cvit.run.digest import (
    OF_THE_MACHINE,
    config_agrees,
    config_changes,
    config_digest,
    file_digest,
    tensors_digest,
)
from lit_cvit.run.environment import describe_machine, package_versions, unused_gpu
from lit_cvit.run.files import read_json, read_jsonl, read_tensors
from lit_cvit.run.folder import RunFolder
from lit_cvit.run.lock import LockLost, RunInUse, RunLock
from lit_cvit.run.migration import SCHEMA_VERSION, migrate_config
from lit_cvit.run.naming import file_name, usual_name
from lit_cvit.run.newest import newest_record, newest_run, run_records
from lit_cvit.run.record import RunRecord, StageRecord, Status
from lit_cvit.run.scores import Cells, ScoreMatrix, StageScores, TaskScore
from lit_cvit.run.stages import StageState
from lit_cvit.run.state import check_plain, pack, unpack
from lit_cvit.run.writer import Fault, Writer

__all__ = [
    "KINDS",
    "OF_THE_MACHINE",
    "SCHEMA_VERSION",
    "TINY",
    "AnswerJournal",
    "Cells",
    "Change",
    "Conditions",
    "Fault",
    "LockLost",
    "RunFolder",
    "RunInUse",
    "RunLock",
    "RunRecord",
    "ScoreMatrix",
    "StageRecord",
    "StageScores",
    "StageState",
    "Status",
    "TaskScore",
    "Writer",
    "changes",
    "check_plain",
    "config_agrees",
    "config_changes",
    "config_digest",
    "describe_machine",
    "file_digest",
    "file_name",
    "in_words",
    "kinds_of",
    "migrate_config",
    "newest_record",
    "newest_run",
    "pack",
    "package_versions",
    "read_json",
    "read_jsonl",
    "read_tensors",
    "run_records",
    "tensors_digest",
    "unpack",
    "unused_gpu",
    "usual_name",
]
