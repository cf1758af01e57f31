"""Loader workers: their errors are those that there are without workers, and they end with their parent."""

from __future__ import annotations

import os
import pickle
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_kit import ends_after_its_parent
from stream_kit import small_data
from torch.utils.data import Dataset

from lit_cvit.backbones import Llava
from lit_cvit.cli.errors import dead_worker
from lit_cvit.data.errors import RecordError
from lit_cvit.data.workers import BatchLoader, WorkerTrace, in_worker


class Made(Dataset[Any]):
    """Two items, the second as a function makes it."""

    def __init__(self, second: Callable[[], Any]) -> None:
        self.second = second

    def __getitem__(self, index: int) -> Any:
        return in_worker(self.second) if index else index

    def __len__(self) -> int:
        return 2


def loader(second: Callable[[], Any], workers: int) -> BatchLoader:
    return BatchLoader(Made(second), batch_size=None, num_workers=workers)


def error_of(second: Callable[[], Any], workers: int) -> Exception:
    """What the second item raises; the first one arrives."""
    items = iter(loader(second, workers))
    assert next(items) == 0  # type: ignore[comparison-overlap]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        next(items)
    return caught.value


class Demanding(ValueError):
    """Cannot be built from its message alone, so it cannot be sent as it is."""

    def __init__(self, name: str, value: int) -> None:
        super().__init__(f"{name} is {value}")


class DemandingBug(KeyError):
    def __init__(self, name: str, value: int) -> None:
        super().__init__(f"{name} is {value}")


def raises(error: Exception) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


@pytest.mark.parametrize(
    "error",
    [
        RecordError.of("got 3", place="a.json, index 12", field="id", fix="say why"),
        FileNotFoundError(2, "No such file or directory", "images/a.png"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        PermissionError(13, "Permission denied", "images/b.png"),
        TypeError("unsupported operand"),
        KeyError("colour"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_worker_arrives_whole(error: Exception) -> None:
    alone, sent = error_of(raises(error), 0), error_of(raises(error), 1)
    assert alone is error
    assert (type(sent), str(sent), sent.args) == (type(error), str(error), error.args)
    assert vars(sent) == vars(error)
    # A programming error keeps the place where it was raised.
    assert isinstance(sent.__cause__, WorkerTrace)
    assert 'test_workers.py", line' in str(sent.__cause__)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Demanding("rank", 3), ValueError, "rank is 3"),
        (DemandingBug("rank", 3), RuntimeError, "DemandingBug: 'rank is 3' .not sent as it is: .*"),
    ],
)
def test_an_error_that_cannot_be_sent_arrives_as_its_plain_kind(
    error: Exception, kind: type[Exception], message: str
) -> None:
    sent = error_of(raises(error), 1)
    assert type(sent) is kind
    assert re.fullmatch(message, str(sent))


def test_a_worker_that_is_killed_is_named_with_the_remedy() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(loader(lambda: os.kill(os.getpid(), signal.SIGKILL), 1))
    message = dead_worker(caught.value)
    assert message.startswith("a loader worker (process ")
    assert "(Killed); most likely memory ran out" in message
    assert "data.num_workers" in message
    assert "data.batch_size" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit.",
            "a loader worker (process 7) was ended by the system (Bus error); shared memory ran out: ",
        ),
        (
            "DataLoader worker (pid 7) exited unexpectedly with exit code 3. Details are lost due to "
            "multiprocessing. Rerunning with num_workers=0 may give better error trace.",
            "a loader worker (process 7) ended unexpectedly; data.num_workers 0 shows what it died of",
        ),
        (
            "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
            "a loader worker (process 7, 8) ended unexpectedly; data.num_workers 0 shows what it died of",
        ),
        ("Sizes of tensors must match", ""),
    ],
)
def test_what_torch_says_of_workers_that_died_becomes_advice(words: str, message: str) -> None:
    found = dead_worker(RuntimeError(words))
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_a_worker_in_the_middle_of_a_batch_ends_with_its_parent() -> None:
    """torch's own workers look for their parent between two batches alone."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:

        def long() -> Any:
            os.write(writing, b".")
            time.sleep(1000)

        list(loader(long, 1))
        os._exit(0)
    os.close(writing)
    assert ends_after_its_parent(parent, reading)
    os.close(reading)


def test_what_a_loader_hands_to_its_workers_pickles_as_spawned_ones_need_it(llava_folder: Path) -> None:
    data = small_data(num_workers=1)
    data.attach(Llava(str(llava_folder)).encoder)
    data.begin_stage(data.stages(seed=0)[0])
    for made in (data.train_dataloader(), data.eval_loader(data.stream[0])):
        asked = next(iter(made.sampler))
        copy = pickle.loads(pickle.dumps(made.dataset))
        here, there = made.dataset[asked].inputs, copy[asked].inputs
        assert here.keys() == there.keys()
        assert all(here[name].equal(there[name]) for name in here)
        assert pickle.loads(pickle.dumps(made.worker_init_fn)) is made.worker_init_fn
