"""predict: ask a run's model about an image, in one or several turns, or about a file of questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cvit.verb_parser import VerbParser

if TYPE_CHECKING:
    from lit_cvit.cli import LoadedRun
    from lit_cvit.data.tasks import Sample


def run(argv: Sequence[str]) -> int:
    """Run the verb; prints one answer a line."""
    options = _parser().parse_args(argv)
    if bool(options.question) == bool(options.jsonl):
        raise ValueError("give either --question (once per turn) or --jsonl")

    from lit_cvit.cli import load_run

    loaded = load_run(options.run, stage=options.stage)
    if options.jsonl:
        _answer_file(loaded, options.jsonl, options.out, batch_size=options.batch_size)
        return 0
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
    parser.add_argument("--jsonl", type=Path, default=None, help="questions, one JSON object a line")
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
        path = image if image.is_absolute() else root / image
        source = FileImage(path.parent, path.name, f"question {name}")
    return SampleType(name, task, question, instruction, ("",), image=source, history=history)


def _answer(loaded: LoadedRun, samples: list[Sample], max_new_tokens: int) -> list[str]:
    batch = loaded.data.encoder.encode(samples, with_answers=False)
    device = loaded.trainer.strategy.root_device
    return loaded.method.generate(batch.to(device), max_new_tokens=max_new_tokens)


def _answer_file(loaded: LoadedRun, path: Path, out: Path | None, *, batch_size: int) -> None:
    from lit_cvit.run import Writer

    samples = _read_questions(path)
    answers: list[str] = []
    for start in range(0, len(samples), batch_size):
        answers += _answer(loaded, samples[start : start + batch_size], 64)
    rows = [{"id": sample.id, "answer": text} for sample, text in zip(samples, answers, strict=True)]
    if out is None:
        print("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    else:
        Writer().write_lines(out, rows)


def _read_questions(path: Path) -> list[Sample]:
    """Read rows of `question`, and optionally `id`, `image`, `instruction` and `task`.

    Raises:
        ValueError: a line is no such object; names file and line.
    """
    keys = {"id", "image", "question", "instruction", "task"}
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON ({error})") from error
        if not isinstance(row, dict) or "question" not in row or set(row) - keys:
            raise ValueError(
                f"{place}: want an object with `question` and any of {sorted(keys)}, got {line[:80]}"
            )
        samples.append(
            _sample(
                str(row.get("id", number)),
                image=Path(row["image"]) if row.get("image") else None,
                root=path.parent,
                question=row["question"],
                instruction=row.get("instruction", ""),
                task=row.get("task", ""),
            )
        )
    return samples
