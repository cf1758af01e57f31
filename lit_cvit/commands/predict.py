"""predict: ask a run's model about an image, in one or several turns, or about a file of questions."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.verb_parser import VerbParser
from lit_cvit.utils.suggest import unknown

if TYPE_CHECKING:
    from lit_cvit.cli.load import LoadedRun
    from lit_cvit.data.tasks import Sample


def run(argv: Sequence[str]) -> int:
    """Run the verb; prints one answer a line."""
    options = _parser().parse_args(argv)
    _check(options)

    from lit_cvit.cli.load import load_run

    if options.jsonl:
        samples = _read_questions(options.jsonl)
        loaded = load_run(options.run, stage=options.stage)
        _require_tasks(loaded, (sample.task for sample in samples))
        _answer_file(loaded, samples, options)
        return 0
    loaded = load_run(options.run, stage=options.stage)
    _require_tasks(loaded, (options.task,))
    history: tuple[tuple[str, str], ...] = ()
    for question in options.question:
        sample = _sample(
            str(len(history)),
            image=options.image,
            root=Path.cwd(),
            question=question,
            instruction=options.instruction,
            task=options.task,
            history=history,
        )
        answer = _answer(loaded, [sample], options.max_new_tokens)[0]
        history = (*history, (sample.user_text, answer))
        print(answer)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect, and limits that make no sense."""
    if bool(options.question) == bool(options.jsonl):
        raise CleanExit("give either --question (once per turn) or --jsonl")
    if options.jsonl and (options.image or options.instruction or options.task):
        raise CleanExit("--image, --instruction and --task go with --question; put them into --jsonl's rows")
    if options.out and not options.jsonl:
        raise CleanExit("--out goes with --jsonl; the answer to --question is printed")
    if options.jsonl and not options.jsonl.is_file():
        raise CleanExit(f"--jsonl: no file {options.jsonl}")
    for name, value in (("max_new_tokens", options.max_new_tokens), ("batch_size", options.batch_size)):
        if value < 1:
            raise CleanExit(f"--{name} must be at least 1, got {value}")


def _require_tasks(loaded: LoadedRun, names: Iterable[str]) -> None:
    """Refuse a task that neither the run nor its benchmark has: a method would answer as for a new one."""
    benchmark = loaded.data.benchmark
    tasks = (task.name for task in (*benchmark.stream, *benchmark.downstream))
    known = dict.fromkeys((*loaded.run.record.stream, *loaded.run.record.downstream, *tasks))
    for name in names:
        if name and name not in known:
            raise CleanExit(f"--task: {unknown('task', name, known)}")


def _parser() -> VerbParser:
    parser = VerbParser("predict", __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--stage", type=int, default=None, help="ask the model as it was after this stage")
    parser.add_argument("--image", type=Path, default=None, help="image file")
    parser.add_argument(
        "--question", action="append", default=[], help="a question; repeat it for more turns"
    )
    parser.add_argument("--instruction", default="", help="instruction that is added to every question")
    parser.add_argument("--task", default="", help="task the question belongs to, for methods that must know")
    parser.add_argument(
        "--jsonl",
        type=Path,
        default=None,
        help="questions, one JSON object a line: `question`; `id`, `image`, `instruction`, `task` if need be",
    )
    parser.add_argument("--out", type=Path, default=None, help="answers to --jsonl; default: the terminal")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="longest answer, in tokens")
    parser.add_argument("--batch_size", type=int, default=32, help="questions of --jsonl answered at once")
    return parser


def _sample(
    name: str,
    *,
    image: Path | None,
    root: Path,
    question: str,
    instruction: str,
    task: str,
    history: tuple[tuple[str, str], ...] = (),
) -> Sample:
    from lit_cvit.data.images import FileImage
    from lit_cvit.data.tasks import Sample as SampleType

    source = None
    if image is not None:
        # A link that the user names may lead anywhere.
        path = Path(os.path.realpath(root / image))
        source = FileImage(path.parent, path.name, f"question {name}")
    return SampleType(name, task, question, instruction, ("",), image=source, history=history)


def _answer(loaded: LoadedRun, samples: list[Sample], max_new_tokens: int) -> list[str]:
    batch = loaded.data.encoder.encode(samples, with_answers=False)
    device = loaded.trainer.strategy.root_device
    return loaded.method.generate(batch.to(device), max_new_tokens=max_new_tokens)


def _answer_file(loaded: LoadedRun, samples: list[Sample], options: argparse.Namespace) -> None:
    from lit_cvit.run import Writer

    answers: list[str] = []
    for start in range(0, len(samples), options.batch_size):
        answers += _answer(loaded, samples[start : start + options.batch_size], options.max_new_tokens)
    rows = [{"id": sample.id, "answer": text} for sample, text in zip(samples, answers, strict=True)]
    if options.out is None:
        print("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    else:
        Writer().write_lines(options.out, rows)


def _read_questions(path: Path) -> list[Sample]:
    """Read rows of `question`, and optionally `id`, `image`, `instruction` and `task`.

    Raises:
        ValueError: the file is empty or broken, or a row is no such object; names file and line.
    """
    from lit_cvit.data.records.file import RecordFile

    rows = RecordFile(path)
    return [
        _read_question(rows[index], rows.where(index), name=str(index + 1), root=path.parent)
        for index in range(len(rows))
    ]


def _read_question(row: dict[str, Any], place: str, *, name: str, root: Path) -> Sample:
    keys = ("id", "image", "instruction", "question", "task")
    if "question" not in row:
        raise ValueError(f"{place}: want an object with the key 'question', got {json.dumps(row)[:80]}")
    for key, value in row.items():
        if key not in keys:
            raise ValueError(f"{place}: {unknown('key', key, keys)}")
        if not isinstance(value, str) and (key != "id" or type(value) is not int):
            kind = "a text or a whole number" if key == "id" else "a text"
            raise ValueError(f"{place}: {key!r} must be {kind}, got {value!r}")
    return _sample(
        str(row.get("id", name)),
        image=Path(row["image"]) if row.get("image") else None,
        root=root,
        question=row["question"],
        instruction=row.get("instruction", ""),
        task=row.get("task", ""),
    )
