"""`coin` on made-up prepared records and on made-up files in the authors' form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prepared_kit import TASKS, WHAT, records, samples, write_image, write_jsonl, write_prepared

from lit_cvit.data.benchmarks.coin import coin
from lit_cvit.data.benchmarks.cvit import cvit
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.instructions import coin_instructions
from lit_cvit.data.prepare import converters_of
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Counts
from lit_cvit.data.validation.check import BenchmarkError, ProblemKind, check_benchmark, require_clean

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "lcia_coin_instructions.json").read_text(encoding="utf-8")
)
SHORT = "Answer the question using a single word or phrase"
REGION = "Please provide the bounding box coordinate of the region this sentence describes"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data"), "coin")


# -- tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["origin", "reverse", "alphabet"])
def test_orders_are_the_published_ones(prepared: Path, order: Any) -> None:
    names = GOLDEN["task_orders"][order]
    assert [task.name for task in coin(root=str(prepared), order=order).stream] == names
    data = ContinualDataModule("coin", order=order, settings={"root": str(prepared)})
    assert [task.name for task in data.stream] == names


@pytest.mark.parametrize("style", ["Original", "Diverse", "10Type"])
@pytest.mark.parametrize("wording", ["coin", "lcia_refined"])
def test_instructions_are_the_published_strings(prepared: Path, style: Any, wording: Any) -> None:
    for task in coin(root=str(prepared), instructions=style, wording=wording).stream:
        assert list(task.instructions) == GOLDEN[wording][style][task.name]
        assert {sample.instruction for sample in samples(task.test)} <= set(task.instructions)


def test_by_default_the_wording_is_that_from_which_lcias_groups_follow(prepared: Path) -> None:
    strings = {task.name: list(task.instructions) for task in coin(root=str(prepared)).stream}
    assert strings == GOLDEN["lcia_refined"]["Original"]


def test_prompts_are_put_together_as_in_coin(prepared: Path) -> None:
    refined, own = coin(root=str(prepared)), coin(root=str(prepared), wording="coin")
    region = refined.task("Grounding").test.sample(0)
    assert region.user_text == f"{REGION}: the left dog"
    assert (region.question, region.instruction) == ("the left dog", REGION)
    assert refined.task("GQA").test.sample(0).user_text == f"Is it red?\n{SHORT}"
    assert own.task("ImageNet").test.sample(0).user_text == f"What is the object in the image?\n{SHORT}"
    assert refined.task("ImageNet").test.sample(0).user_text == (
        "Answer the object in the image using a single word or phrase"
    )


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (
            "standard",
            "letter vqa_soft class_name exact vqa_soft grounding_iou vqa_soft short_answer",
        ),
        (
            "official",
            "official_scienceqa vqa_soft official_imagenet_coin official_gqa official_exact "
            "official_grounding official_exact official_ocrvqa",
        ),
        (
            "paper",
            "official_scienceqa vqa_soft official_imagenet_coin official_gqa official_exact "
            "official_grounding official_exact official_ocrvqa",
        ),
    ],
)
def test_main_scorers_are_those_that_were_asked_for(prepared: Path, choice: Any, names: str) -> None:
    stream = coin(root=str(prepared), scorer=choice).stream
    assert [task.scorer.name for task in stream] == names.split()
    assert stream[5].answer_format is AnswerFormat.BOX
    for task in stream:
        rows = samples(task.test)
        assert task.scorer([sample.answers[0] for sample in rows], rows)[0] in (0.0, 1.0)


def test_published_counts_are_those_of_progloras_table_in_thousands_or_exact(prepared: Path) -> None:
    thousands = {
        "ScienceQA": (12, 4),
        "TextVQA": (34, 5),
        "ImageNet": (129, 5),
        "GQA": (72, 1),
        "VizWiz": (20, 8),
        "Grounding": (55, 31),
        "VQAv2": (82, 107),
        "OCR-VQA": (165, 100),
    }
    exact = {
        ("ImageNet", "train"): 129_833,
        ("ImageNet", "test"): 5_050,
        ("TextVQA", "test"): 5_000,
        ("GQA", "train"): 72_140,
        ("Grounding", "train"): 55_885,
        ("Grounding", "test"): 30_969,
        ("VQAv2", "train"): 82_783,
    }
    for task in coin(root=str(prepared)).stream:
        published = task.published
        assert published is not None
        found = zip(("train", "test"), (published.train, published.test), published.units, strict=True)
        for number, (split, count, unit) in zip(thousands[task.name], found, strict=True):
            known = exact.get((task.name, split))
            assert (count, unit) == ((1000 * number, 1000) if known is None else (known, 1)), task.name
            assert count is not None
            assert abs(count - 1000 * number) < 1000


def test_prepare_and_check_tell_the_same_published_counts(prepared: Path) -> None:
    gqa = next(each for each in converters_of("coin") if each.task == "GQA").splits["coin"]
    published = coin(root=str(prepared)).task("GQA").published
    assert published is not None
    assert published.difference(0, 0) == "72140 train, about 1000 test"
    assert (gqa["train"].printed, gqa["test"].printed) == ("72140", "about 1000")


# -- HiDe's version ------------------------------------------------------------------------------------------


def test_hides_version_has_its_wording_scorers_and_counts(prepared: Path) -> None:
    benchmark = coin(root=str(prepared), version="hide", scorer="paper")
    assert [task.name for task in benchmark.stream] == GOLDEN["task_orders"]["origin"]
    assert benchmark.task("GQA").test.sample(0).user_text == f"Is it red?\n{SHORT}."
    assert benchmark.task("Grounding").test.sample(0).user_text == f"{REGION}: the left dog"
    assert benchmark.task("ImageNet").test.sample(0).question == "What is the object in the image?"
    assert {task.scorer.name for task in benchmark.stream} == {"paper_hide", "official_grounding"}
    official = coin(root=str(prepared), version="hide", scorer="official")
    assert official.task("ScienceQA").scorer.name == "official_scienceqa_hide"
    trained = dict.fromkeys(TASKS["coin"], 20_000) | {"TextVQA": 34_602, "VizWiz": 20_523}
    assert {task.name: task.published for task in benchmark.stream} == {
        name: Counts(count, 3_000) for name, count in trained.items()
    }


def test_hides_version_draws_down_to_its_counts(tmp_path: Path) -> None:
    root = write_prepared(tmp_path, "coin", num_train=9, num_test=3050)
    full, hide = coin(root=str(root)), coin(root=str(root), version="hide")
    assert {len(task.test) for task in full.stream} == {3050}
    assert {len(task.test) for task in hide.stream} == {3000}
    assert {len(task.train) for task in hide.stream if task.train} == {9}
    assert {len(task.test) for task in coin(root=str(root), version="hide", limit=7).stream} == {7}


def test_hide_has_one_style_alone(prepared: Path) -> None:
    with pytest.raises(ValueError, match="unknown instruction style 'Diverse'. Known: Original"):
        coin(root=str(prepared), version="hide", instructions="Diverse")
    other = coin(root=str(prepared), version="hide", instructions="Diverse", wording="coin")
    assert list(other.task("GQA").instructions) == GOLDEN["coin"]["Diverse"]["GQA"]
    with pytest.raises(ValueError, match="coin: unknown version 'hid'. Did you mean 'hide'"):
        coin(root=str(prepared), version="hid")  # type: ignore[arg-type]


def test_an_unknown_order_and_wording_are_refused(prepared: Path) -> None:
    with pytest.raises(ValueError, match="coin: unknown order 'revers'. Did you mean 'reverse'"):
        coin(root=str(prepared), order="revers")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown wording 'lcia'"):
        coin(root=str(prepared), wording="lcia")  # type: ignore[arg-type]


# -- the authors' own files ----------------------------------------------------------------------------------


def text_of(task: str, instruction: str) -> str:
    question = WHAT[task]["question"]
    return f"{instruction}: {question}" if task == "Grounding" else f"{question}\n{instruction}".strip()


def as_authors_write(folder: Path, task: str, instruction: str, *, single: bool = True) -> dict[str, str]:
    """The two files of a task as CoIN lays them out: training rows without ids, one answer of ten."""
    text, answers = text_of(task, instruction), WHAT[task]["answers"]
    image, other = f"./COCO2014/{task}.png", f"./COCO2014/{task}-test.png"
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": answers[0]}]
    train = [{"image": image, "conversations": turns} for _ in range(5)]
    test = [
        {"question_id": n, "image": other, "text": text, "answer": answers[0] if single else answers}
        for n in range(4)
    ]
    if task == "Grounding":
        test = [
            {key: value for key, value in row.items() if key != "answer"}
            | {"answer_bbox": answers[0], "origin_answer_bbox": "[1, 2, 3, 4]", "size": [640, 480]}
            for row in test
        ]
    (folder / task).mkdir(parents=True)
    (folder / task / "train.json").write_text(json.dumps(train))
    (folder / task / "test.json").write_text(json.dumps(test))
    for shown in (image, other):
        write_image(folder / "images" / shown)
    return {
        "train": str(folder / task / "train.json"),
        "test": str(folder / task / "test.json"),
        "image_root": str(folder / "images"),
    }


def from_files(folder: Path, *, stop: str = "", **settings: Any) -> Benchmark:
    """Every task of `coin` from files that show LCIA's strings, with a final stop or without."""
    files = {
        name: as_authors_write(folder, name, coin_instructions(name, "Original", "lcia_refined")[0] + stop)
        for name in TASKS["coin"]
    }
    return coin(files=files, **settings)


@pytest.mark.filterwarnings("ignore:coin. .* is scored by 'short_answer'")
@pytest.mark.parametrize("stop", ["", "."])
def test_the_authors_files_are_read_as_they_are(tmp_path: Path, stop: str) -> None:
    benchmark = from_files(tmp_path, stop=stop)
    for task in benchmark.stream:
        (instruction,) = coin_instructions(task.name, "Original", "lcia_refined")
        assert task.instructions == (f"{instruction}{stop}",)
        for split in (task.train, task.test):
            sample = samples(split)[1]
            assert sample.instruction == f"{instruction}{stop}"
            assert sample.question == WHAT[task.name]["question"]
            assert sample.user_text == text_of(task.name, f"{instruction}{stop}")
            assert sample.answers == (WHAT[task.name]["answers"][0],)
            assert sample.image is not None
            assert sample.image.open().size == (4, 4)
        assert [sample.id for sample in samples(task.train)] == list("01234")


def test_soft_accuracy_gives_way_where_there_is_one_answer(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is scored by 'short_answer'") as caught:
        benchmark = from_files(tmp_path)
    assert [str(warning.message) for warning in caught] == [
        f"coin: {name} is scored by 'short_answer': its records have 1 answers, and 'vqa_soft' compares "
        "with 10"
        for name in ("TextVQA", "VizWiz", "VQAv2")
    ]
    assert benchmark.task("VQAv2").scorer.name == "short_answer"
    ten = as_authors_write(tmp_path / "ten", "VQAv2", SHORT, single=False)
    assert coin(files={"VQAv2": ten}, tasks=["VQAv2"]).task("VQAv2").scorer.name == "vqa_soft"


def test_files_and_prepared_records_go_together(prepared: Path, tmp_path: Path) -> None:
    files = {"GQA": as_authors_write(tmp_path, "GQA", SHORT)}
    benchmark = coin(root=str(prepared), files=files, limit=3)
    assert {len(task.test) for task in benchmark.stream} == {3}
    assert benchmark.task("GQA").test.sample(0).id in "0123"
    assert benchmark.task("VQAv2").test.sample(0).id.startswith("test-")


@pytest.mark.parametrize("split", ["train", "test"])
def test_ids_may_repeat_in_the_authors_training_files_alone(tmp_path: Path, split: str) -> None:
    entry = as_authors_write(tmp_path, "GQA", SHORT)
    rows = json.loads(Path(entry[split]).read_text())
    Path(entry[split]).write_text(json.dumps([{**row, "question_id": "same"} for row in rows]))
    (report,) = check_benchmark(coin(files={"GQA": entry}, tasks=["GQA"]))
    assert report.counts[ProblemKind.DUPLICATE_ID] == (0 if split == "train" else len(rows) - 1)
    if split == "test":
        with pytest.raises(BenchmarkError, match="make ids unique"):
            require_clean([report])


def test_files_that_are_missing_are_all_named(tmp_path: Path) -> None:
    files = {
        "GQA": {"train": f"{tmp_path}/a.json"},
        "VQAv2": {"test": f"{tmp_path}/b.json", "image_root": "x"},
    }
    with pytest.raises(ValueError, match="coin") as caught:
        coin(files=files, tasks=["GQA", "VQAv2"])
    assert str(caught.value).replace(str(tmp_path), "DIR").splitlines()[:6] == [
        "coin: data is missing",
        "  data.settings.files.GQA.test: not given",
        "  data.settings.files.GQA.train: no file DIR/a.json",
        "  data.settings.files.VQAv2.train: not given",
        "  data.settings.files.VQAv2.test: no file DIR/b.json",
        "  data.settings.files.VQAv2.image_root: no folder x",
    ]


def test_a_file_with_other_instructions_says_what_it_has_and_can_name_them(tmp_path: Path) -> None:
    entry = as_authors_write(tmp_path, "GQA", "Reply in a word.")
    with pytest.raises(ValueError, match="GQA") as caught:
        coin(files={"GQA": entry}, tasks=["GQA"])
    assert str(caught.value) == (
        f"{entry['test']}: the first record shows none of the instructions of GQA ('{SHORT}'); its text ends "
        "with 'Is it red?\\nReply in a word.'. If the file is right, list its instructions in "
        "data.settings.files.GQA.instruction"
    )
    for given in ("Reply in a word.", ["Reply in a word.", "Be brief."]):
        task = coin(files={"GQA": {**entry, "instruction": given}}, tasks=["GQA"]).task("GQA")
        assert task.test.sample(0).instruction == "Reply in a word."
        assert task.instructions[0] == "Reply in a word."


@pytest.mark.parametrize(
    "shown",
    [
        "What is the object in the image?\nAnswer the question using a single word or phrase.",
        "What is the object in the image? Answer the question using a single word or phrase.",
        "What is the object in the image?\nAnswer the question using a single word or phrase",
    ],
)
def test_line_breaks_and_stops_of_an_instruction_may_differ(tmp_path: Path, shown: str) -> None:
    files = {"ImageNet": as_authors_write(tmp_path, "ImageNet", shown)}
    task = cvit(files=files, tasks=["ImageNet"], downstream=[]).task("ImageNet")
    assert task.instructions == (shown,)
    assert task.test.sample(0).user_text == shown


def test_a_record_of_our_own_form_may_name_its_instruction(tmp_path: Path) -> None:
    rows = [{**row, "instruction": f"{SHORT}."} for row in records("GQA", "test", 3)]
    path = str(write_jsonl(tmp_path / "own.jsonl", rows))
    entry = {"train": path, "test": path, "image_root": str(tmp_path)}
    sample = coin(files={"GQA": entry}, tasks=["GQA"]).task("GQA").test.sample(0)
    assert (sample.question, sample.instruction) == ("Is it red?", f"{SHORT}.")
