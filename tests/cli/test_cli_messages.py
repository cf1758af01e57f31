"""A user's error is one clear message with the nearest valid name, a non-zero exit, and no stack trace."""

from __future__ import annotations

import importlib
import re
import signal
import sys
import types
from pathlib import Path

import pytest
import torch
from stream_kit import fit, small_method

from callbacks import StreamProgress
from lit_cvit.methods import ZeroShot
from lit_cvit.run import RunFolder

QUICK = ("fit", "--config", "quickstart")
METHODS = "DirLoRA, HiDe, LCIA, Multitask, ProgLoRADynamic, ProgLoRAStatic, SMoLoRA, SeqLoRA, ZeroShot"
BACKBONES = "InternVL, Llava, LlavaNext, LlavaOnevision, Qwen2VL, Qwen3VL, Tiny"
OWN = "or the import path of your own (package.Class)"


def only_message(result: tuple[int, str, str], verb: str) -> str:
    """The message of a failed command, which must be all that it says."""
    status, out, err = result
    assert status in (1, 2)
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith(f"lit_cvit {verb}: ")
    assert err.count("\n") == 1, err
    return err.removeprefix(f"lit_cvit {verb}: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--foo", "1"), "unknown option --foo. `--help` lists the options"),
        (("--confg", "x"), "unknown option --confg. Did you mean --config?"),
        (("--data.batchsize", "3"), "unknown option --data.batchsize. Did you mean --data.batch_size?"),
        (("--trainr.devices", "3"), "unknown option --trainr.devices. Did you mean --trainer.devices?"),
        (("--trainer.max_epoch", "3"), "unknown option --trainer.max_epoch. Did you mean --data.epochs?"),
        (("--trainer.max_epochs=3",), "unknown option --trainer.max_epochs. Did you mean --data.epochs?"),
        (
            ("quickstart",),
            "got 'quickstart', which belongs to no option; `--config quickstart` names a configuration",
        ),
        (
            ("--model", "SeqLora"),
            f"model: unknown class 'SeqLora'. Did you mean 'SeqLoRA'? Known: {METHODS}; {OWN}",
        ),
        (
            ("--model", "lit_cvit.methods.Nope"),
            "model: cannot import 'lit_cvit.methods.Nope': module 'lit_cvit.methods' has no attribute 'Nope'",
        ),
        (("--model", "nopackage.Nope"), "model: cannot import 'nopackage.Nope': No module named 'nopackage'"),
        (
            ("--model.backbone", "Tini"),
            f"model.backbone: unknown class 'Tini'. Did you mean 'Tiny'? Known: {BACKBONES}; {OWN}",
        ),
        (
            ("--model.optimizer.learning_rat", "1"),
            "model.optimizer (OptimizerSettings): unknown setting 'learning_rat'. "
            "Did you mean 'learning_rate'? Known: learning_rate, projector_learning_rate, weight_decay, "
            "warmup_ratio, schedule, betas",
        ),
        (
            ("--model.backbone.quantization", "nf5"),
            "model.backbone.quantization: got 'nf5'; it must be one of none, nf4, int8. Did you mean 'nf4'?",
        ),
        (
            ("--model.targets", "[ffn,atention]"),
            "model.targets: got 'atention'; it must be one of ffn, attention, projector. "
            "Did you mean 'attention'?",
        ),
        (
            ("--data.instructions", "multiple"),
            "unknown instruction style 'multiple'. Did you mean 'multi'? Known: single, multi",
        ),
        (("--data.batch_size", "many"), "data.batch_size: got 'many'; it must be a whole number"),
        (("--data.batch_size", "0"), "data.batch_size must be at least 1, got 0"),
        (("--data.tasks", "GQA"), "data.tasks: got 'GQA'; it must be a list such as [a, b]"),
        (
            ("--data.settings", "few"),
            "data.settings: got 'few'; it must be a mapping such as {key: value}",
        ),
        (("--seed_everything", "a"), "seed_everything: got 'a'; it must be true or false or a whole number"),
        (("--model.rank", "x"), "model.rank: got 'x'; it must be a whole number"),
        (("--model.rank", "0"), "rank must be at least 1, got 0"),
        (("--ckpt_path", "foo"), "--ckpt_path must be 'last' or left out, got 'foo'"),
        (
            ("--data.tasks", "[GQA, TextVQa]"),
            "data.tasks: unknown task 'TextVQa'. Did you mean 'TextVQA'? Known: ScienceQA, TextVQA, "
            "Flickr30k, ImageNet, GQA, VQAv2, VizWiz, TextCaps, OCR-VQA, Places365",
        ),
        (
            ("--data.tasks", "[VizWiz]"),
            "data.tasks: 'VizWiz' has no training samples; it can only be tested",
        ),
        (
            ("--data.benchmark", "cvit-mni"),
            "data.benchmark: unknown benchmark 'cvit-mni'. Did you mean 'cvit-mini'? "
            "Known: coin, coin-mini, cvit, cvit-mini, general, ucit, ucit-mini; for your own data give the "
            "path of a .yaml file",
        ),
        (("--data.benchmark", "mine.yaml"), "data.benchmark: no file mine.yaml"),
        (
            ("--data.settings", "{num_trian: 3}"),
            "data.settings of cvit-mini: unknown setting 'num_trian'. Did you mean 'num_train'? "
            "Known: instructions, num_train, num_test, shots, seed",
        ),
        (
            ("--data.settings", "{num_train: few}"),
            "cvit-mini: num_train must be a whole number of at least 1, got 'few'",
        ),
        (
            ("--trainer.callbacks+=StageEvaluation", "--trainer.callbacks.tasks", "sen"),
            "trainer.callbacks.tasks: got 'sen'; it must be one of seen, all, last. Did you mean 'seen'?",
        ),
    ],
)
def test_a_wrong_argument_is_one_message(say, arguments: tuple[str, ...], message: str) -> None:
    assert only_message(say(*QUICK, *arguments), "fit") == message


def test_a_wrong_callback_is_refused_with_the_nearest(say) -> None:
    message = only_message(say(*QUICK, "--trainer.callbacks+=StageEvaluaton"), "fit")
    start = "trainer.callbacks: unknown class 'StageEvaluaton'. Did you mean 'StageEvaluation'? Known: "
    assert message.startswith(start)
    assert "StreamProgress" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainr: {devices: 1}\n", "unknown key 'trainr.devices'. Did you mean 'trainer.devices'?"),
        ("data: {bach_size: 1}\n", "unknown key 'data.bach_size'. Did you mean 'data.batch_size'?"),
        (
            "model: {class_path: SeqLoRA, init_args: {backbone: {class_path: Tiny}, rnk: 3}}\n",
            "model (SeqLoRA): unknown setting 'rnk'. Did you mean 'rank'? Known: backbone, rank, alpha, "
            "dropout, targets, projector, projector_carry, optimizer, loss_reduction, unrouted",
        ),
        (
            "model: {class_path: SeqLora}\n",
            f"model: unknown class 'SeqLora'. Did you mean 'SeqLoRA'? Known: {METHODS}; {OWN}",
        ),
        (
            "model: {class_path: SeqLoRA, init_args: {backbone: "
            "{class_path: Tiny, init_args: {dtype: f8}}}}\n",
            "model.backbone.dtype: got 'f8'; it must be one of float32, bfloat16, float16",
        ),
        ("data: {batch_size: many}\n", "data.batch_size: got 'many'; it must be a whole number"),
        (
            "model: [a\n  b: c\n",
            "--config {path}: broken YAML, line 2, column 4: expected ',' or ']', but got ':'",
        ),
        ("only words\n", "--config {path}: want a mapping of settings such as `model:`, got 'only words'"),
        ("", "--config {path}: want a mapping of settings such as `model:`, got None"),
    ],
)
def test_a_wrong_configuration_is_one_message(say, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert only_message(say(*QUICK, "--config", path), "fit") == message.replace("{path}", str(path))


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
    assert only_message(say("fit"), "fit") == (
        "no method (model) is named; start with `--config quickstart`, or give your own configuration. "
        f"Known: {METHODS}"
    )


def test_a_method_without_its_backbone_says_so(say) -> None:
    message = only_message(say("fit", "--model", "SeqLoRA"), "fit")
    assert message == "model: SeqLoRA needs the setting 'backbone', and there is none"


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
        (("test", "--rn", "x"), "unknown option --rn. Did you mean --run?"),
        (
            ("test", "--run", "x", "--stage", "b"),
            "argument --stage: invalid int value: 'b'; `--help` lists the options",
        ),
        (("predict", "--run", "x"), "give either --question (once per turn) or --jsonl"),
        (("predict", "--run", "x", "--quest", "y"), "unknown option --quest. Did you mean --question?"),
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
        (("pretrain", "--recipe.sed", "1"), "unknown option --recipe.sed. Did you mean --recipe.seed?"),
        (("pretrain", "--recipe.seed", "x"), "recipe.seed: got 'x'; it must be a whole number"),
        (
            ("pretrain", "--config", "quickstart"),
            "--config {quickstart}: want one key, `recipe`, got seed_everything, model, data",
        ),
        (
            ("check", "--config", "quickstart", "--data.bench", "x"),
            "unknown option --data.bench. Did you mean --data.benchmark?",
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
        patch.setattr(StreamProgress, "on_train_batch_end", _interrupt)
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


# -- a package of the user's that hides ours ----------------------------------------------------------------


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
