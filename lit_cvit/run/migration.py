"""Runs of earlier versions: what their record and configuration are in the words of this one.

Schema 1 is that of lit_cvit before its modules were moved (docs/migration.md). What such a run stored of its
stages is read as it is. Everything here maps plain values to plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 2

_PROG_LORA = ("lit_cvit.ProgLoRA", "lit_cvit.methods.ProgLoRA", "lit_cvit.methods.prog_lora.ProgLoRA")
_STATIC, _DYNAMIC = "ProgLoRAStatic", "ProgLoRADynamic"
# Options of the other form, which had no effect.
_NOT_OF = {
    _STATIC: ("pool", "pool_norm", "proj_dim", "temperature", "key_std", "train_old_keys", "kl_direction"),
    _DYNAMIC: ("static_weights", "replay_block"),
}


def migrate_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json` with the fields and names of this version; `schema` still says which it was.

    Args:
        record: The content, of any schema up to this version's.
    """
    found = dict(record)
    if found["schema"] >= SCHEMA_VERSION:
        return found
    facts = dict(found.get("facts", {}))
    if "knows" in facts:
        facts["access"] = facts.pop("knows")
    found["facts"] = facts
    if found.get("method") == "ProgLoRA":
        # The record has no options, but of the two forms one alone reads the task id, and always does.
        found["method"] = _STATIC if "task id" in facts.get("access", "") else _DYNAMIC
    return found


def migrate_config(config: Mapping[str, Any], *, schema: int) -> dict[str, Any]:
    """The resolved configuration of a run with the classes and options of this version.

    Args:
        config: The content of the run's `config.yaml`.
        schema: Schema version of the run's record.
    """
    found = dict(config)
    if schema >= SCHEMA_VERSION or found["model"]["class_path"] not in _PROG_LORA:
        return found
    options = dict(found["model"].get("init_args", {}))
    name = _DYNAMIC if options.pop("mode", "static") == "dynamic" else _STATIC
    own = {option: value for option, value in options.items() if option not in _NOT_OF[name]}
    found["model"] = {**found["model"], "class_path": f"lit_cvit.{name}", "init_args": own}
    return found
