"""The evaluation engine: scores of scripted answers, the rows it keeps, and what it leaves untouched."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stream_kit import fit, small_data, small_method

from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.evaluation import evaluate_task
from lit_cvit.methods import ContinualMethod, SeqLoRA
from lit_cvit.metrics.scoring import scorer
from lit_cvit.run import RunFolder

CPU = torch.device("cpu")
KEYS = ["id", "prompt", "text", "normalised", "references", "score", "also", "format_ok"]


class Scripted(SeqLoRA):
    """Answers the samples of even index as the reference says, the others with three words."""

    def generate(self, batch: Batch, *, max_new_tokens: int) -> list[str]:
        self.budgets.add(max_new_tokens)
        pairs = zip(batch.indices, batch.samples, strict=True)
        return [self.right(sample) if index % 2 == 0 else "one two three" for index, sample in pairs]

    budgets: set[int]

    def right(self, sample: Sample) -> str:
        return sample.answers[0]


def scripted(folder: Path) -> Scripted:
    method = small_method(folder, Scripted)
    assert isinstance(method, Scripted)
    method.prepare()
    method.budgets = set()
    return method


def evaluate(method: ContinualMethod, task: str, **changes: Any) -> Any:
    data = small_data(**changes)
    data.attach(method.backbone.encoder)
    return evaluate_task(method, data, data.benchmark.task(task), device=CPU)


@pytest.mark.parametrize(("task", "budget"), [("ScienceQA", 8), ("GQA", 24), ("Flickr30k", 96)])
def test_scores_of_scripted_answers_are_what_they_should_be(
    llava_folder: Path, task: str, budget: int
) -> None:
    method = scripted(llava_folder)
    result = evaluate(method, task, eval_batch_size=3)
    assert method.budgets == {budget}
    assert (result.score.count, result.score.mif) == (5, 60.0)
    if task != "Flickr30k":
        assert (result.score.score, result.score.also) == (60.0, {})
    else:
        assert result.score.also == {"exact_content": 60.0}


def test_a_caption_task_has_the_score_of_the_whole_split(llava_folder: Path) -> None:
    result = evaluate(scripted(llava_folder), "Flickr30k")
    test = small_data().benchmark.task("Flickr30k").test
    samples = [test.sample(index) for index in range(5)]
    texts = [s.answers[0] if index % 2 == 0 else "one two three" for index, s in enumerate(samples)]
    by_hand = scorer("cider")(texts, samples)
    assert [row["score"] for row in result.rows] == by_hand
    assert result.score.score == pytest.approx(100 * sum(by_hand) / 5, abs=1e-12)


def test_a_score_that_pools_counts_is_no_mean_of_the_rows(llava_folder: Path) -> None:
    method, data = scripted(llava_folder), small_data()
    data.attach(method.backbone.encoder)
    task = replace(
        data.benchmark.task("Flickr30k"), scorer=scorer("bleu_4"), also=(scorer("bleu_1"), scorer("rouge_l"))
    )
    result = evaluate_task(method, data, task, device=CPU)
    samples = [task.test.sample(index) for index in range(5)]
    for name, reported in {"bleu_4": result.score.score, **result.score.also}.items():
        scored = scorer(name).score([row["text"] for row in result.rows], samples)
        assert reported == scored.percent
    assert [row["score"] for row in result.rows] == pytest.approx([1, 0, 1, 0, 1], abs=1e-6)
    assert result.score.score == pytest.approx(56.479, abs=1e-3)
    assert result.score.also["rouge_l"] == pytest.approx(60.0)


def test_rows_are_in_the_order_of_the_split_with_the_documented_keys(llava_folder: Path) -> None:
    method = scripted(llava_folder)
    rows = evaluate(method, "ScienceQA", eval_batch_size=2).rows
    source = small_data().benchmark.task("ScienceQA").test
    samples = [source.sample(index) for index in range(5)]
    assert [list(row) for row in rows] == [KEYS] * 5
    assert [row["id"] for row in rows] == [f"test-{index}" for index in range(5)]
    assert [row["prompt"] for row in rows] == [method.backbone.prompt(sample) for sample in samples]
    assert [row["references"] for row in rows] == [list(sample.answers) for sample in samples]
    assert [row["format_ok"] for row in rows] == [True, False, True, False, True]
    assert [row["normalised"] for row in rows[:2]] == [samples[0].answers[0].lower(), "1 2 3"]


@pytest.fixture(scope="module")
def run(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit(tmp_path_factory.mktemp("runs"), small_method(llava_folder)).run


def test_scores_on_disk_are_the_means_of_the_predictions_on_disk(run: RunFolder) -> None:
    for stage, tasks in ((1, ["ScienceQA"]), (2, ["ScienceQA", "GQA"])):
        scores = run.scores(stage)
        assert scores is not None
        assert list(scores.tasks) == tasks
        for name, score in scores.tasks.items():
            rows = list(run.predictions(stage, name))
            task = small_data().benchmark.task(name)
            samples = [task.test.sample(index) for index in range(len(rows))]
            assert [row["score"] for row in rows] == task.scorer([row["text"] for row in rows], samples)
            assert score.score == 100 * sum(row["score"] for row in rows) / 5
            assert score.mif == 100 * sum(row["format_ok"] for row in rows) / 5


def test_a_run_measures_every_test_split_once_and_its_readers_never(
    llava_folder: Path, tmp_path: Path, split_sizes: list[int]
) -> None:
    run = fit(tmp_path, small_method(llava_folder)).run
    assert [len(run.scores(stage).tasks) for stage in (1, 2)] == [1, 2]
    assert split_sizes == [5, 5]
    data = small_data()
    data.measured.keep_in(run)
    method = scripted(llava_folder)
    data.attach(method.backbone.encoder)
    for _ in range(2):
        evaluate_task(method, data, data.benchmark.task("GQA"), device=CPU)
    assert split_sizes == [5, 5]
    evaluate_task(method, data, data.benchmark.task("VQAv2"), device=CPU)
    assert split_sizes == [5, 5, 5]


def test_progress_counts_every_sample_once(llava_folder: Path) -> None:
    counts: list[int] = []
    method, data = scripted(llava_folder), small_data(eval_batch_size=2)
    data.attach(method.backbone.encoder)
    evaluate_task(method, data, data.benchmark.task("GQA"), device=CPU, progress=counts.append)
    assert counts == [2, 2, 1]


def begun(folder: Path) -> ContinualMethod:
    method = small_method(folder, dropout=0.5)
    method.prepare()
    method.begin_stage(small_data().stages(seed=0)[0])
    for bank in method.banks.values():
        torch.nn.init.normal_(bank.block(0).B, generator=torch.Generator().manual_seed(1))
    return method


def test_evaluation_leaves_generators_and_modes_as_they_were(llava_folder: Path) -> None:
    method = begun(llava_folder)
    modes = {name: module.training for name, module in method.named_modules()}
    assert {True, False} == set(modes.values())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    evaluate(method, "GQA")
    assert {name: module.training for name, module in method.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states[1:]


def test_modes_come_back_after_an_error(llava_folder: Path, monkeypatch: Any) -> None:
    method = begun(llava_folder)
    modes = {name: module.training for name, module in method.named_modules()}
    monkeypatch.setattr(method, "generate", None)
    with pytest.raises(TypeError):
        evaluate(method, "GQA")
    assert {name: module.training for name, module in method.named_modules()} == modes


def test_evaluation_applies_no_dropout(llava_folder: Path) -> None:
    method = begun(llava_folder)
    texts = [[row["text"] for row in evaluate(method, "GQA").rows] for _ in range(2)]
    assert texts[0] == texts[1]


def test_the_batch_size_changes_no_answer(llava_folder: Path) -> None:
    method = begun(llava_folder)
    texts = [
        [row["text"] for row in evaluate(method, "ScienceQA", eval_batch_size=size).rows]
        for size in (1, 2, 64)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 1
