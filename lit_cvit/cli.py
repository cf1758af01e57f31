"""The composition root: configuration to objects, through LightningCLI, and from a run folder back to them.

Importing this imports torch, Lightning and every method and callback, so that short class names work.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import callbacks
from lit_cvit.backbones import Backbone
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.errors import CleanExit
from lit_cvit.methods import ContinualMethod
from lit_cvit.run import RunFolder, config_digest
from lit_cvit.shipped import find_config
from lit_cvit.trainer import ContinualTrainer, restore_method

_NOT_OF_THE_RUN = ("name", "run_root", "ckpt_path", "weights_only")
_LOADERS = ("train_dataloaders", "val_dataloaders")


class StreamCLI(LightningCLI):
    """LightningCLI for continual streams; unknown keys and classes name their nearest neighbours."""

    def __init__(self, args: Sequence[str], *, run: bool = True) -> None:
        _check_callbacks_package()
        _calm_lightning()
        strict = {"allow_abbrev": False, "exit_on_error": False}
        parser_kwargs: dict[str, Any] = {"fit": strict} if run else strict
        try:
            super().__init__(
                model_class=ContinualMethod,
                datamodule_class=ContinualDataModule,
                trainer_class=ContinualTrainer,
                subclass_mode_model=True,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_kwargs={"prog": "lit_cvit", **strict, **parser_kwargs},
                args=[*(["fit"] if run else []), *_with_configs(args)],
                run=run,
            )
        except ArgumentError as error:
            raise CleanExit(_with_hint(str(error))) from error

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit` alone: the other verbs work on a finished run."""
        return {"fit": {"model", "datamodule", *_LOADERS}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of a run that belong to no class alone."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run's folder.")
        parser.add_argument("--run_root", type=str, default="runs", help="Folder that holds the runs.")
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="Folder of a finished run whose method this run continues with.",
        )
        parser.link_arguments("seed_everything", "trainer.seed", compute_fn=int)
        parser.link_arguments("name", "trainer.run_name")
        parser.link_arguments("run_root", "trainer.run_root")
        parser.link_arguments("start_from", "trainer.start_from")

    def instantiate_trainer(self, **kwargs: Any) -> ContinualTrainer:
        """Build the trainer, with evaluation and progress unless the configuration names its own."""
        trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, ContinualTrainer)
        defaults: list[Callback] = [callbacks.StageEvaluation(), callbacks.StreamProgress()]
        for default in defaults:
            if not any(isinstance(callback, type(default)) for callback in trainer.callbacks):
                trainer.callbacks.append(default)
        config = self.resolved_config()
        trainer.config_text = yaml.safe_dump(config, sort_keys=False)
        trainer.config_digest = config_digest(config, ignore=())
        return trainer

    def resolved_config(self) -> dict[str, Any]:
        """The whole configuration as plain values, without what names one run of it."""
        parser = self._parser(self.subcommand) if self.subcommand else self.parser
        config = self.config[self.subcommand] if self.subcommand else self.config
        text = parser.dump(config, skip_none=False, skip_check=True)
        plain = yaml.safe_load(text)
        drop = (*_NOT_OF_THE_RUN, *_LOADERS, "config")
        return {key: value for key, value in plain.items() if key not in drop}


@dataclass
class LoadedRun:
    """A run brought back to life.

    Attributes:
        run: Its folder.
        method: The method as it was after `stage`, in evaluation mode.
        data: Its data module.
        trainer: A trainer configured as the run's was.
        stage: Stage number, from 1.
    """

    run: RunFolder
    method: ContinualMethod
    data: ContinualDataModule
    trainer: ContinualTrainer
    stage: int


def load_run(path: Path | str, *, stage: int | None = None) -> LoadedRun:
    """Load a run's method as it was after a stage.

    Args:
        path: The run folder.
        stage: Stage number; by default the last trained one.

    Raises:
        ValueError: the folder is no run, the stage is not trained, or a stored file changed.
    """
    run = RunFolder.open(path, verify=True)
    cli = StreamCLI(["--config", str(run.config_path)], run=False)
    method, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(method, ContinualMethod)
    assert isinstance(data, ContinualDataModule)
    assert isinstance(trainer, ContinualTrainer)
    data.attach(method.backbone.encoder)
    method.know_tasks((*data.stream, *data.downstream))
    method.prepare()
    state = restore_method(method, run, stage=stage)
    if state is None:
        raise ValueError(f"{run.path} has no trained stage yet")
    method.to(trainer.strategy.root_device).eval()
    return LoadedRun(run, method, data, trainer, state.stage)


def _with_configs(args: Iterable[str]) -> list[str]:
    """Let a bare name after --config stand for a shipped configuration."""
    found: list[str] = []
    for argument in args:
        if found and found[-1] in ("-c", "--config"):
            found.append(str(find_config(argument)))
        elif argument.startswith("--config="):
            found.append(f"--config={find_config(argument.removeprefix('--config='))}")
        else:
            found.append(argument)
    return found


def _check_callbacks_package() -> None:
    ours = Path(__file__).parent.parent / "callbacks"
    if Path(str(callbacks.__file__)).parent != ours:
        raise CleanExit(
            f"another package named `callbacks` hides the one of lit_cvit: {callbacks.__file__}. "
            "Start from another folder, or set PYTHONSAFEPATH=1 so that the current folder is not searched"
        )


def _calm_lightning() -> None:
    """Leave out what Lightning says at the start of every fit; a stream has many."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*number of training batches.*", ".*`_pytree.*"):
        warnings.filterwarnings("ignore", text)


def _with_hint(message: str) -> str:
    """Add the nearest valid key or class name to a parser's message about an unknown one."""
    quoted = re.findall(r"'([\w.]+)'", message) + re.findall(r"path string: ([\w.]+)", message)
    pool = sorted(_known_names())
    for name in quoted:
        leaf = name.rpartition(".")[2]
        near = [match for match in difflib.get_close_matches(leaf, pool, n=1, cutoff=0.7) if match != leaf]
        if near and leaf not in pool:
            return f"{message}\nDid you mean {near[0]!r}?"
    return message


def _known_names() -> set[str]:
    names = {"trainer", "model", "data", "seed_everything", "config", "ckpt_path", "start_from", "name"}
    names |= {"class_path", "init_args", "callbacks", "run_root"}
    for base in (ContinualMethod, Backbone, Callback, ContinualTrainer, ContinualDataModule):
        for each in (base, *_subclasses(base)):
            names.add(each.__name__)
            names |= {name for parent in each.__mro__ for name in inspect.signature(parent).parameters}
    return names


def _subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return direct + [each for child in direct for each in _subclasses(child)]
