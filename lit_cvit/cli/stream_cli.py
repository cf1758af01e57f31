"""The composition root: configuration to objects, through LightningCLI.

Importing this imports torch, Lightning and every method and callback, so that short class names work.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lit_cvit.cli.arguments import CONFIG_OPTIONS, options
from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.isolated import Isolated
from lit_cvit.cli.packages import missing_package
from lit_cvit.cli.parse_errors import explain
from lit_cvit.cli.shipped import find_config, read_config
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.methods import ContinualMethod
from lit_cvit.run import OF_THE_MACHINE, config_digest, usual_name
from lit_cvit.stream.trainer import ContinualTrainer


def _own_callbacks() -> ModuleType:
    """Import the package `callbacks` that belongs to lit_cvit, or say which other one hides it."""
    found = importlib.util.find_spec("callbacks")
    ours = Path(__file__).parents[2] / "callbacks" / "__init__.py"
    if found is None or not ours.is_file():
        raise CleanExit("the package `callbacks` of lit_cvit is missing; install lit_cvit again")
    if found.origin is None or not ours.samefile(found.origin):
        raise CleanExit(
            f"another package named `callbacks` hides the one of lit_cvit: {found.origin}. "
            "Start from another folder, or set PYTHONSAFEPATH=1 so that the current folder is not searched"
        )
    return importlib.import_module("callbacks")


# Found before it is imported: another package of that name may fail in any way.
callbacks = _own_callbacks()

_NOT_OF_THE_RUN = ("name", "run_root", "ckpt_path", "weights_only")
_TYPES = {
    "model": ContinualMethod,
    "data": ContinualDataModule,
    "trainer": ContinualTrainer,
    "seed_everything": bool | int,
}
_LOADERS = ("train_dataloaders", "val_dataloaders")


class StreamCLI(LightningCLI):
    """LightningCLI for continual streams; unknown keys and classes name their nearest neighbours."""

    def __init__(self, args: Sequence[str], *, run: bool = True) -> None:
        _calm_lightning()
        self._has_verbs = run
        strict = {"allow_abbrev": False, "exit_on_error": False}
        parser_kwargs: dict[str, Any] = {"fit": strict} if run else strict
        found = _with_configs(args)
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
                args=[*(["fit"] if run else []), *found],
                run=run,
            )
        except ArgumentError as error:
            parser = self._parser("fit") if run else self.parser
            raise CleanExit(explain(error, found, _TYPES, parser.get_defaults().keys())) from error

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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; Lightning's own would warn of arguments on the command line that it did not read itself."""
        self.config = parser.parse_args(args)
        config = self.config["fit"] if self._has_verbs else self.config
        if not all(isinstance(config[group], Namespace) for group in ("data", "trainer")):
            raise ArgumentError(None, "data and trainer must be mappings of settings")
        chosen = config["ckpt_path"] if self._has_verbs else None
        if chosen not in (None, "last"):
            raise CleanExit(f"--ckpt_path must be 'last' or left out, got {chosen!r}")

    def instantiate_classes(self) -> None:
        """Build the objects; where a constructor fails, its own error is raised, as it is without a parser.

        Raises:
            ValueError: an object cannot be built as it is configured, or its package is not installed.
        """
        failed: list[Exception] = []

        def construct(cls: type, *args: Any, **kwargs: Any) -> Any:
            try:
                return cls(*args, **kwargs)
            except Exception as error:
                failed.append(missing_package(cls, error) if isinstance(error, ImportError) else error)
                raise

        # Lightning's way too; the argument `instantiators` came with jsonargparse 4.53.
        self.parser.add_instantiator(construct, object, subclasses=True, prepend=True)
        try:
            self.config_init = self.parser.instantiate(self.config)
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
            self.trainer = self.instantiate_trainer()
        except MisconfigurationException as error:
            raise ValueError(f"trainer: {error}") from error
        except Exception:
            if not failed:
                raise
            # Where a type is a union, the parser tries its other members too and raises an error of its own.
            raise failed[0] from None

    def instantiate_trainer(self, **kwargs: Any) -> ContinualTrainer:
        """Build the trainer, with evaluation and progress unless the configuration names its own.

        Raises:
            ValueError: Lightning does not take the settings, or the variables of SLURM.
        """
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"trainer: {error}") from error
        assert isinstance(trainer, ContinualTrainer)
        defaults: list[Callback] = [callbacks.StageEvaluation(), callbacks.StreamProgress()]
        for default in defaults:
            if not any(isinstance(callback, type(default)) for callback in trainer.callbacks):
                trainer.callbacks.append(default)
        config = self.resolved_config()
        trainer.config_text = yaml.safe_dump(config, sort_keys=False)
        trainer.config_digest = config_digest(config, ignore=OF_THE_MACHINE)
        return trainer

    def before_fit(self) -> None:
        """Lightning calls it before the run.

        Raises:
            Isolated: there is to be a run for every task instead.
        """
        trainer, data = self.trainer, self.datamodule
        assert isinstance(data, ContinualDataModule)
        assert isinstance(trainer, ContinualTrainer)
        if data.isolated:
            name = (
                trainer.run_name or f"{usual_name(type(self.model).__name__, data.benchmark.name)}-isolated"
            )
            raise Isolated([task.name for task in data.stream], name)

    def resolved_config(self) -> dict[str, Any]:
        """The whole configuration as plain values, without what names one run of it."""
        parser = self._parser(self.subcommand) if self.subcommand else self.parser
        config = self.config[self.subcommand] if self.subcommand else self.config
        text = parser.dump(config, skip_unset=False, skip_validation=True)
        plain = yaml.safe_load(text)
        drop = (*_NOT_OF_THE_RUN, *_LOADERS, "config")
        return {key: value for key, value in plain.items() if key not in drop}


def _with_configs(args: Sequence[str]) -> list[str]:
    """Let a bare name after --config stand for a shipped configuration."""
    found: list[str] = []
    for option, text in options(args):
        if option in CONFIG_OPTIONS and text is not None:
            found += [option, _readable(text)]
        else:
            found.append(option if text is None else f"{option}={text}")
    return found


def _readable(name: str) -> str:
    path = find_config(name)
    read_config(path)
    return str(path)


def _calm_lightning() -> None:
    """Leave out what Lightning says at the start of every fit; a stream has many."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers",
        ".*number of training batches",
        # The backbone is frozen, so it stays in evaluation mode.
        "Found .* in eval mode at the start of training",
        ".*isinstance.treespec, LeafSpec.* is deprecated",
        # torch 2.13; its new name is not in 2.9.
        ".broadcast_buffers. is deprecated",
    ):
        warnings.filterwarnings("ignore", text)
