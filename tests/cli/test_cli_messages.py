"""A user's error is one clear message with the nearest valid name, a non-zero exit, and no stack trace."""

from __future__ import annotations

import importlib
import signal
from pathlib import Path

import pytest
import torch
from cli_kit import only_message
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import Callback
from stream_kit import fit, small_method

from callbacks import StreamProgress
from lit_cvit.cli.parse_errors import explain
from lit_cvit.methods import ZeroShot
from lit_cvit.run import RunFolder

QUICK = ("fit", "--config", "quickstart")
METHODS = (
    "AGEM, CLoRA, DirLoRA, DoRA, EProj, EWC, EWCTIR, HiDe, L2, L2P, L2PPGP, LCIA, LwF, MoELoRA, ModelTailor, "
    "Multitask, OLoRA, PGP, ProgLoRADynamic, ProgLoRAStatic, SMoLoRA, SeqLoRA, ZeroShot"
)
BACKBONES = "InternVL, Llava, LlavaNext, LlavaOnevision, Qwen2VL, Qwen3VL, Tiny"
OWN = "or the import path of your own (package.Class)"


def has_all(message: str, parts: tuple[str, ...]) -> bool:
    """Whether a message names what it should: the key, the value, the nearest valid name."""
    return all(part in message for part in parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--foo", "1"), ("'foo'", "--help")),
        (("--confg", "x"), ("'confg'", "mean 'config'")),
        (("--data.batchsize", "3"), ("'data.batchsize'", "mean 'data.batch_size'")),
        (("--trainr.devices", "3"), ("'trainr'", "mean 'trainer'")),
        (("--trainer.max_epoch", "3"), ("'trainer.max_epoch'", "mean 'data.epochs'")),
        (("--trainer.max_epochs=3",), ("'trainer.max_epochs'", "mean 'data.epochs'")),
        (("quickstart",), ("'quickstart'", "--config quickstart")),
        (("--model", "SeqLora"), ("model: ", "'SeqLora'", "mean 'SeqLoRA'", METHODS, OWN)),
        (("--model", "lit_cvit.methods.Nope"), ("model: ", "cannot import 'lit_cvit.methods.Nope'")),
        (("--model", "nopackage.Nope"), ("model: ", "No module named 'nopackage'")),
        (("--model", "lit_cvit.Tiny"), ("model: ", "lit_cvit.Tiny is no ContinualMethod")),
        (("--model.backbone", "Tini"), ("model.backbone: ", "'Tini'", "mean 'Tiny'", BACKBONES)),
        (
            ("--model.optimizer.learning_rat", "1"),
            ("model.optimizer (OptimizerSettings)", "'learning_rat'", "mean 'learning_rate'", "warmup_ratio"),
        ),
        (
            ("--model.backbone.quantization", "nf5"),
            ("model.backbone.quantization: ", "'nf5'", "none, nf4, int8", "mean 'nf4'"),
        ),
        (("--model.targets", "[ffn,atention]"), ("model.targets: ", "'atention'", "mean 'attention'")),
        (("--data.instructions", "multiple"), ("'multiple'", "mean 'multi'")),
        (("--data.batch_size", "many"), ("data.batch_size: ", "'many'", "a whole number")),
        (("--data.batch_size", "0"), ("data.batch_size", "at least 1", "got 0")),
        (("--data.tasks", "GQA"), ("data.tasks: ", "'GQA'", "a list such as [a, b]")),
        (("--data.settings", "few"), ("data.settings: ", "'few'", "{key: value}")),
        (("--seed_everything", "a"), ("seed_everything: ", "'a'", "true or false or a whole number")),
        (("--model.rank", "x"), ("model.rank: ", "'x'", "a whole number")),
        (("--model.rank", "0"), ("model.rank", "at least 1", "got 0")),
        (
            ("--model.optimizer.warmup_ratio", "1"),
            ("model.optimizer.warmup_ratio", "less than 1", "got 1.0"),
        ),
        (("--data.settings", "{few"), ("data.settings: ", "'{few'", "{key: value}")),
        (("--model.optimizer.betas", "[1]"), ("model.optimizer.betas: ", "[1]", "a list")),
        (("--ckpt_path", "foo"), ("--ckpt_path", "'last'", "'foo'")),
        (("--data.tasks", "[GQA, TextVQa]"), ("data.tasks: ", "'TextVQa'", "mean 'TextVQA'", "Places365")),
        (("--data.tasks", "[VizWiz]"), ("data.tasks: ", "'VizWiz'", "only be tested")),
        (("--data.benchmark", "cvit-mni"), ("data.benchmark: ", "mean 'cvit-mini'", ".yaml file")),
        (("--data.benchmark", "mine.yaml"), ("data.benchmark: ", "no file mine.yaml")),
        (("--data.settings", "{num_trian: 3}"), ("data.settings", "mean 'num_train'")),
        (("--data.settings", "{num_train: few}"), ("num_train", "at least 1", "'few'")),
        (("--trainer.callbacks+=StageEvaluaton",), ("trainer.callbacks: ", "mean 'StageEvaluation'")),
        (
            ("--trainer.callbacks+=StageEvaluation", "--trainer.callbacks.tasks", "sen"),
            ("trainer.callbacks.tasks: ", "'sen'", "seen, all, last", "mean 'seen'"),
        ),
        (
            ("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "tb"),
            ("TensorBoardLogger", "not installed", "pip install 'tensorboard"),
        ),
    ],
)
@pytest.mark.compat
def test_a_wrong_argument_is_one_message_that_names_what_is_wrong(
    say, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = only_message(say(*QUICK, *arguments), "fit")
    assert has_all(message, parts), message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trainr: {devices: 1}\n", ("'trainr'", "mean 'trainer'")),
        ("data: {bach_size: 1}\n", ("'data.bach_size'", "mean 'data.batch_size'")),
        (
            "model: {class_path: SeqLoRA, init_args: {backbone: {class_path: Tiny}, rnk: 3}}\n",
            ("model (SeqLoRA): ", "'rnk'", "mean 'rank'", "loss_reduction, unrouted"),
        ),
        ("model: {class_path: SeqLora}\n", ("model: ", "mean 'SeqLoRA'", METHODS)),
        (
            "model: {class_path: SeqLoRA, init_args: {backbone: "
            "{class_path: Tiny, init_args: {dtype: f8}}}}\n",
            ("model.backbone.dtype: ", "'f8'", "float32, bfloat16, float16"),
        ),
        (
            "model: {class_path: SeqLoRA, init_args: {backbone: {class_path: Llava}}}\n",
            ("model.backbone: ", "Llava needs the setting 'name_or_path'"),
        ),
        ("data: {batch_size: many}\n", ("data.batch_size: ", "'many'", "a whole number")),
        ("data: {batch_size: 1, batch_size: 2}\n", ("--config {path}: ", "line 1", "'batch_size'")),
        ("data: 3\n", ("data: ", "got 3")),
        ("model: {init_args: 3}\n", ("model: ", "got 3", "a mapping of settings")),
        ("trainer: {callbacks: [{class_path: lit_cvit.Tiny}]}\n", ("trainer.callbacks: ", "is no Callback")),
        (
            "trainer: {callbacks+: [{class_path: StageEvaluation, init_args: {taks: all}}]}\n",
            ("trainer.callbacks (StageEvaluation): ", "'taks'", "mean 'tasks'"),
        ),
        (
            "trainer: {callbacks+: [{class_path: StageEvaluation, ini_args: {tasks: all}}]}\n",
            ("trainer.callbacks: ", "'ini_args'", "mean 'init_args'"),
        ),
        ("model: [a\n  b: c\n", ("--config {path}: ", "line 2, column 4")),
        ("only words\n", ("--config {path}: ", "'only words'", "a mapping")),
        ("", ("--config {path}: ", "None", "a mapping")),
    ],
)
@pytest.mark.compat
def test_a_wrong_configuration_is_one_message_that_names_what_is_wrong(
    say, tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    message = only_message(say(*QUICK, "--config", path), "fit")
    assert has_all(message, tuple(part.replace("{path}", str(path)) for part in parts)), message


def test_a_wrong_setting_in_a_file_that_a_configuration_names_is_found(say, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: seq.yaml\n")
    (tmp_path / "seq.yaml").write_text("class_path: SeqLoRA\ninit_args: {rnk: 4}\n")
    message = only_message(say("fit", "--config", tmp_path / "mine.yaml"), "fit")
    assert has_all(message, ("model (SeqLoRA): ", "'rnk'", "mean 'rank'")), message


class Picky(Callback):
    """A callback of a user, which refuses what its type allows."""

    def __init__(self, share: float) -> None:
        super().__init__()
        if share > 1:
            raise ValueError(f"Picky.share must be at most 1, got {share}")


def test_an_error_of_a_constructor_is_what_the_constructor_raised(say) -> None:
    callback = f"--trainer.callbacks+={__name__}.Picky"
    message = only_message(say(*QUICK, callback, "--trainer.callbacks.share", "2"), "fit")
    assert message == "Picky.share must be at most 1, got 2.0"
    missing = only_message(say(*QUICK, callback), "fit")
    assert has_all(missing, ("trainer.callbacks: ", "Picky needs the setting 'share'")), missing


def test_what_the_walk_does_not_explain_is_the_parsers_own_word(tmp_path: Path) -> None:
    error = ArgumentError(None, "many\nlines")
    try:
        raise ValueError("the\n  innermost") from None
    except ValueError as inner:
        error.__cause__ = inner
    assert explain(error, ["--anything", "1"], {}, ["anything"]) == "the innermost"


def test_a_configuration_that_is_not_utf8_is_one_message(say, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"# caf\xe9\n")
    message = f"--config {path}: not UTF-8 at byte 5; save it as UTF-8"
    assert only_message(say("fit", "--config", path), "fit") == message


def test_a_missing_configuration_names_the_nearest_shipped_one(say) -> None:
    message = only_message(say("fit", "--config", "quickstrat"), "fit")
    start = "--config: no file 'quickstrat'; unknown shipped configuration 'quickstrat'. "
    assert message.startswith(f"{start}Did you mean 'quickstart'? Known: ")


def test_fit_without_a_method_says_how_to_start(say) -> None:
    message = only_message(say("fit"), "fit")
    assert has_all(message, ("model: ", "--config quickstart", METHODS)), message


def test_a_method_without_its_backbone_says_so(say) -> None:
    message = only_message(say("fit", "--model", "SeqLoRA"), "fit")
    assert has_all(message, ("model: ", "SeqLoRA needs the setting 'backbone'")), message


def test_a_missing_model_folder_is_one_message(say) -> None:
    small = ("--data.tasks", "[GQA]", "--data.settings", "{num_train: 4, num_test: 2}")
    message = only_message(say(*QUICK, *small, "--model.backbone.name_or_path", "nowhere"), "fit")
    assert message.startswith(
        "backbone name_or_path 'nowhere' is not an existing folder; give a model folder"
    )


def test_an_unfit_run_name_is_one_message(say, tmp_path: Path) -> None:
    small = ("--data.tasks", "[GQA]", "--data.settings", "{num_train: 4, num_test: 2}")
    message = only_message(say(*QUICK, *small, "--run_root", tmp_path, "--name", "a/b"), "fit")
    assert message.startswith("run name 'a/b' is not a folder name; for example ")
    assert list(tmp_path.iterdir()) == []


def test_a_run_to_start_from_must_exist(say, tmp_path: Path) -> None:
    small = ("--data.tasks", "[GQA]", "--data.settings", "{num_train: 4, num_test: 2}")
    message = only_message(say(*QUICK, *small, "--start_from", tmp_path / "none"), "fit")
    assert f"no run folder {tmp_path / 'none'}" in message


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_a_missing_run_names_the_nearest(say, finished: RunFolder, verb: str) -> None:
    asked = ("--question", "x") if verb == "predict" else ()
    message = only_message(say(verb, "--run", finished.path.with_name("tow"), *asked), verb)
    assert message == f"no run folder {finished.path.with_name('tow')}; did you mean {finished.path}?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test",), "the following arguments are required: --run; `--help` lists the options"),
        (("test", "--rn", "x"), "unknown option --rn. Did you mean '--run'?"),
        (
            ("test", "--run", "x", "--stage", "b"),
            "argument --stage: invalid int value: 'b'; `--help` lists the options",
        ),
        (("predict", "--run", "x"), "give either --question (once per turn) or --jsonl"),
        (("predict", "--run", "x", "--quest", "y"), "unknown option --quest. Did you mean '--question'?"),
        (
            ("predict", "--run", "x", "--jsonl", "y", "--image", "z"),
            "--image, --instruction and --task go with --question; put them into --jsonl's rows",
        ),
        (
            ("predict", "--run", "x", "--question", "y", "--out", "z"),
            "--out goes with --jsonl; the answer to --question is printed",
        ),
        (("predict", "--run", "x", "--jsonl", "none.jsonl"), "--jsonl: no file none.jsonl"),
        (
            ("predict", "--run", "x", "--question", "y", "--max_new_tokens", "0"),
            "--max_new_tokens must be at least 1, got 0",
        ),
        (
            ("pretrain", "--recipe.sed", "1"),
            "unknown option or key 'recipe.sed'. Did you mean 'recipe.seed'?",
        ),
        (("pretrain", "--recipe.seed", "x"), "recipe.seed: got 'x'; it must be a whole number"),
        (
            ("pretrain", "--config", "quickstart"),
            "--config {quickstart}: want one key, `recipe`, got seed_everything, model, data",
        ),
        (
            ("check", "--config", "quickstart", "--data.bench", "x"),
            "unknown option or key 'data.bench'. Did you mean 'data.benchmark'?",
        ),
    ],
)
def test_the_other_verbs_have_one_message_too(say, arguments: tuple[str, ...], message: str) -> None:
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    assert only_message(say(*arguments), arguments[0]) == message.replace("{quickstart}", str(quickstart))


def test_a_wrong_task_and_a_wrong_stage_are_refused(say, finished: RunFolder) -> None:
    message = only_message(say("test", "--run", finished.path, "--tasks", "GQ"), "test")
    assert message.startswith("--tasks: unknown task 'GQ'. Did you mean 'GQA'? Known: ScienceQA, ")
    message = only_message(say("test", "--run", finished.path, "--stage", "3"), "test")
    assert message == f"stage 3 of {finished.path} is not trained; trained stages: 1, 2"


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_a_run_that_was_started_from_python_says_that_it_cannot_be_reopened(
    say, llava_folder: Path, tmp_path: Path, verb: str
) -> None:
    run = fit(tmp_path, small_method(llava_folder, ZeroShot), callbacks=[]).run
    asked = ("--question", "x") if verb == "predict" else ()
    message = (
        f"{run.path} was started from Python and has no configuration to build its method and data from, "
        "so the verbs cannot reopen it. Build both again in Python and call "
        "lit_cvit.stream.restore.restore_method, or train with `python -m lit_cvit fit`"
    )
    assert only_message(say(verb, "--run", run.path, *asked), verb) == message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "{",
            "broken JSON at column 2: Expecting property name enclosed in double quotes; a record file is a "
            "JSON list of objects, or JSONL with one object a line, in UTF-8",
        ),
        ('{"question": "x", "id": null}', "'id' must be a text or a whole number, got None"),
        ('{"image": "a.png"}', 'want an object with the key \'question\', got {"image": "a.png"}'),
        ('{"question": 3}', "'question' must be a text, got 3"),
        (
            '{"question": "x", "img": "a.png"}',
            "unknown key 'img'. Did you mean 'image'? Known: id, image, instruction, question, task",
        ),
    ],
)
def test_a_bad_question_in_a_file_names_file_and_line(
    say, finished: RunFolder, tmp_path: Path, row: str, message: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "What is it?"}\n' + row + "\n")
    reported = only_message(say("predict", "--run", finished.path, "--jsonl", path), "predict")
    assert reported == f"{path}, line 2: {message}"


def test_a_missing_image_is_one_message(say, finished: RunFolder, tmp_path: Path) -> None:
    asked = ("--image", tmp_path / "none.png", "--question", "What is it?")
    message = only_message(say("predict", "--run", finished.path, *asked), "predict")
    place = f"question 0: image 'none.png' under {tmp_path}"
    assert message == f"{place}: no such file; check the path and the image root"


def test_traceback_shows_where_the_error_came_from(say) -> None:
    status, _, err = say(*QUICK, "--data.batch_size", "0", "--traceback")
    assert status == 1
    assert err.startswith("Traceback (most recent call last):")
    assert 'datamodule.py", line' in err
    assert err.endswith("lit_cvit fit: data.batch_size must be at least 1, got 0\n")


INTERRUPTED = "lit_cvit fit: interrupted; continue with the same command and --ckpt_path last\n"


def test_a_device_that_is_not_there_is_one_message(say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = only_message(say(*QUICK, "--trainer.accelerator", "gpu"), "fit")
    assert message == "trainer: No supported gpu backend found!"


@pytest.mark.parametrize(
    ("verb", "reported"), [("fit", INTERRUPTED), ("test", "lit_cvit test: interrupted\n")]
)
def test_an_interrupt_ends_without_a_stack_trace(
    say, monkeypatch: pytest.MonkeyPatch, verb: str, reported: str
) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"lit_cvit.commands.{verb}"), "run", interrupted)
    assert say(verb) == (130, "", reported)


def test_an_interrupt_in_a_training_step_says_how_to_continue_and_that_continues(
    say, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*QUICK, "--config", small, "--run_root", tmp_path, "--data.tasks", "[GQA]")
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(StreamProgress, "on_step_end", _interrupt)
        status, _, err = say(*command)
    # Lightning ignores further interrupts from the first one on; this process lives on.
    signal.signal(signal.SIGINT, handler)
    assert (status, err) == (130, INTERRUPTED)
    status, _, err = say(*command, "--ckpt_path", "last")
    assert (status, err) == (0, "")
    (run,) = tmp_path.iterdir()
    assert RunFolder.open(run).stages_done() == [1]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
