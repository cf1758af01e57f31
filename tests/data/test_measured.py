"""What is measured of the samples: once a run, for all passes and ranks, and never under another digest."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from stream_kit import small_data
from torch import Tensor

from lit_cvit.data import measured
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.measured import Measured, name_with_digest
from lit_cvit.data.sampling import EvalPlan
from lit_cvit.data.tasks import Sample


class Store(dict[str, Tensor]):
    """Stands for a run folder."""

    def measurement(self, name: str) -> Tensor | None:
        return self.get(name)

    def save_measurement(self, name: str, values: Tensor) -> None:
        self[name] = values


class Letters:
    """Stands for an encoder: a sample is as long as its text; writes down what it was asked."""

    def __init__(self, digest: str = "letters", longer: int = 0) -> None:
        self.own_digest, self.longer = digest, longer
        self.asked: list[str] = []

    def digest(self) -> str:
        return self.own_digest

    def prompt_lengths(self, samples: Iterable[Sample]) -> list[int]:
        lengths = []
        for sample in samples:
            self.asked.append(f"{sample.task} {sample.id}")
            lengths.append(self.longer * len(lengths) + len(sample.user_text))
        return lengths


def data_of(encoder: Any, store: Store | None = None, **changes: Any) -> ContinualDataModule:
    data = small_data(**{"eval_batch_size": 2, **changes})
    data.attach(encoder)
    if store is not None:
        data.measured.keep_in(store)
    return data


def plans(data: ContinualDataModule) -> list[EvalPlan]:
    return [data.eval_plan(task) for task in data.stream]


EVERY = [f"{task} test-{index}" for task in ("ScienceQA", "GQA") for index in range(5)]


def test_a_plan_holds_the_longest_samples_first() -> None:
    data = data_of(Letters())
    source = data.stream[0].test
    lengths = [len(source.sample(index).user_text) for index in range(5)]
    assert len(set(lengths)) > 1
    (plan, _) = plans(data)
    assert plan == EvalPlan.of(lengths, 2)
    assert [len(batch) for batch in plan.batches] == [2, 2, 1]


def test_every_split_is_measured_once_over_several_passes() -> None:
    encoder = Letters()
    data = data_of(encoder)
    first = plans(data)
    assert encoder.asked == EVERY
    assert plans(data) == first
    assert encoder.asked == EVERY


def test_what_was_measured_outlives_the_process() -> None:
    store, again = Store(), Letters()
    first = plans(data_of(Letters(), store))
    assert len(store) == 2
    assert plans(data_of(again, store)) == first
    assert again.asked == []


@pytest.mark.parametrize(
    ("encoder", "changes"),
    [(Letters("other", longer=1000), {}), (Letters(longer=1000), {"settings": {"seed": 7}})],
    ids=["encoder", "data"],
)
def test_what_is_stored_under_another_digest_is_ignored(encoder: Letters, changes: dict[str, Any]) -> None:
    store = Store()
    stored = plans(data_of(Letters(), store))
    found = plans(data_of(encoder, store, **changes))
    assert encoder.asked == EVERY
    assert found != stored
    # Every sample is longer than the one before it.
    assert [plan.batches for plan in found] == [[[4, 3], [2, 1], [0]]] * 2
    assert len(store) == 4


def test_all_ranks_have_what_rank_0_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def send(value: object) -> object:
        sent.append(pickle.dumps(value))
        return value

    monkeypatch.setattr(measured, "from_first", send)
    first, store, other = plans(data_of(Letters())), Store(), Letters()
    monkeypatch.setattr(measured, "rank", lambda: 1)
    monkeypatch.setattr(measured, "from_first", lambda _: pickle.loads(sent.pop(0)))
    data = data_of(other, store)
    assert plans(data) == first
    assert plans(data) == first
    assert (other.asked, store, sent) == ([], {}, [])


def test_the_numbers_are_small_and_in_order() -> None:
    found = Measured().values("a", lambda: [3, 1, 2])
    assert found.dtype == torch.int32
    assert found.tolist() == [3, 1, 2]
    assert Measured().values("a", lambda: []).tolist() == []


def test_the_name_of_a_measurement_depends_on_every_part_and_its_limits() -> None:
    names = [name_with_digest("a", "bc", "d"), name_with_digest("a", "b", "cd"), name_with_digest("a", "bcd")]
    assert len(set(names)) == 3
    assert all(name.startswith("a-") and len(name) == 34 for name in names)
