"""Answer tokens of training rows: measured once, kept, and right for parts of splits and for every epoch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import small_data
from torch import Tensor

from lit_cvit.backbones import Llava
from lit_cvit.data import measured
from lit_cvit.data.answer_tokens import AnswerTokens
from lit_cvit.data.measured import Measured
from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.stage import UnionSource
from lit_cvit.data.tasks import Sample
from lit_cvit.miniature.scenes import DrawnImage


@dataclasses.dataclass(frozen=True)
class Rows:
    """Samples whose answers have as many words as their number says, and instructions that an epoch draws."""

    name: str
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        return Sample(
            f"{self.name}-{index}", self.name, "", "short " * epoch, ("word " * self.numbers[index],)
        )

    def digest(self) -> str:
        return repr(self)


class Words:
    """Counts words, in the instruction too where the answers vary with it."""

    def __init__(self, *, vary: bool = False, name: str = "words") -> None:
        self.answers_vary, self.name = vary, name
        self.asked: list[str] = []

    def answer_tokens(self, samples: list[Sample]) -> list[int]:
        self.asked += [sample.id for sample in samples]
        also = [len(sample.instruction.split()) * self.answers_vary for sample in samples]
        return [len(sample.answers[0].split()) + more for sample, more in zip(samples, also, strict=True)]

    def digest(self) -> str:
        return self.name


class Shelf:
    """Keeps measurements in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def measurement(self, name: str) -> Tensor | None:
        return self.values.get(name)

    def save_measurement(self, name: str, values: Tensor) -> None:
        self.values[name] = values


def answers(encoder: Words, shelf: Shelf | None = None) -> AnswerTokens:
    store = Measured()
    if shelf is not None:
        store.keep_in(shelf)
    return AnswerTokens(encoder, store)  # type: ignore[arg-type]


A, B = Rows("A", (3, 1, 2)), Rows("B", (5, 4))
IDS = ["A-0", "A-1", "A-2", "B-0", "B-1"]


def test_unions_and_subsets_are_parts_of_splits_that_are_measured_once() -> None:
    encoder = Words()
    tokens = answers(encoder)
    replayed = SubsetSource(A, (2, 0))
    assert tokens.of(UnionSource((B, replayed))).tolist() == [5, 4, 2, 3]
    assert tokens.of(UnionSource((A, B))).tolist() == [3, 1, 2, 5, 4]
    assert tokens.of(UnionSource((replayed, UnionSource((A,))))).tolist() == [2, 3, 3, 1, 2]
    assert tokens.of(A).dtype == torch.int32
    assert sorted(encoder.asked) == IDS


def test_answers_that_no_instruction_changes_are_measured_for_all_epochs_at_once() -> None:
    encoder = Words()
    tokens = answers(encoder)
    tokens.measure(A, epochs=3)
    assert [tokens.of(A, epoch).tolist() for epoch in range(3)] == [[3, 1, 2]] * 3
    assert encoder.asked == IDS[:3]


def test_answers_that_the_instruction_changes_are_measured_in_every_epoch() -> None:
    encoder, shelf = Words(vary=True), Shelf()
    tokens = answers(encoder, shelf)
    tokens.measure(UnionSource((A,)), epochs=2)
    assert encoder.asked == IDS[:3] * 2
    assert [tokens.of(SubsetSource(A, (1,)), epoch).tolist() for epoch in range(2)] == [[1], [2]]
    assert len(shelf.values) == 2


def test_another_process_reads_what_was_measured() -> None:
    shelf, again = Shelf(), Words()
    answers(Words(), shelf).measure(UnionSource((A, B)), epochs=1)
    assert answers(again, shelf).of(UnionSource((B, A))).tolist() == [5, 4, 3, 1, 2]
    assert again.asked == []


def test_ranks_beside_the_first_take_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Tensor] = []

    def from_first(value: Tensor) -> Tensor:
        sent.append(value)
        return torch.tensor([3, 1, 2])

    monkeypatch.setattr(measured, "rank", lambda: 1)
    monkeypatch.setattr(measured, "from_first", from_first)
    encoder, shelf = Words(), Shelf()
    tokens = answers(encoder, shelf)
    tokens.measure(A, epochs=2)
    assert tokens.of(SubsetSource(A, (2,))).tolist() == [2]
    assert ([len(each) for each in sent], encoder.asked, shelf.values) == ([0], [], {})


@pytest.mark.parametrize(
    ("source", "encoder"),
    [(Rows("A", (3, 1, 1)), Words()), (A, Words(name="other words"))],
    ids=["data", "encoder"],
)
def test_other_data_or_another_encoder_is_measured_anew(source: Rows, encoder: Words) -> None:
    shelf = Shelf()
    answers(Words(), shelf).measure(A, epochs=1)
    assert answers(encoder, shelf).of(source).tolist() == list(source.numbers)
    assert encoder.asked == IDS[:3]
    assert len(shelf.values) == 2


def test_drawn_samples_are_measured_without_drawing_an_image(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_data(tasks=["Flickr30k"]).stream[0].train
    assert source is not None
    encoder = Llava(str(llava_folder)).encoder
    mask = encoder.encode([source.sample(row) for row in range(32)], with_answers=True).answer_mask
    assert mask is not None

    def forbidden(_: Any) -> None:
        raise AssertionError("an image was drawn")

    monkeypatch.setattr(DrawnImage, "open", forbidden)
    assert AnswerTokens(encoder, Measured()).of(source).tolist() == mask.sum(1).tolist()


def test_a_batch_with_other_answers_than_were_measured_is_an_error(llava_folder: Path) -> None:
    data = small_data(tasks=["GQA"])
    data.attach(Llava(str(llava_folder)).encoder)
    data.begin_stage(data.stages(seed=0)[0])
    counts = data.answer_tokens.of(data.stream[0].train).clone()  # type: ignore[arg-type]
    data.measured._values = dict.fromkeys(data.measured._values, counts)
    loader = data.train_dataloader()
    assert len(list(loader)) == 2
    counts[7] += 1
    with pytest.raises(RuntimeError, match=r"'train-7'.*answer tokens.*measured"):
        list(loader)
