"""`cvit` on made-up prepared records, and what every published benchmark says about missing data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from prepared_kit import OPTIONS, TASKS, WHAT, records, samples, write_jsonl, write_prepared

from lit_cvit.data.benchmarks import benchmark_names, load_benchmark
from lit_cvit.data.benchmarks.cvit import cvit
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.instructions import cvit_instructions
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Counts
from lit_cvit.data.validation.check import BenchmarkError, ProblemKind, check_benchmark
from lit_cvit.data.validation.report import tolerated

STREAM = ["ScienceQA", "TextVQA", "Flickr30k", "ImageNet", "GQA", "VQAv2"]
DOWNSTREAM = ["VizWiz", "TextCaps", "OCR-VQA", "Places365"]
SHORT = "Answer the question using a single word or phrase."
CAPTION = "What is happening in the presented picture?\nPlease describe it in one complete sentence."


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data"), "cvit")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder that a test may change."""
    return write_prepared(tmp_path, "cvit")


def error_of(folder: Path, **settings: Any) -> str:
    with pytest.raises(ValueError, match="cvit") as caught:
        cvit(root=str(folder), **settings)
    return str(caught.value).replace(str(folder.parent), "DIR")


def tasks_of(benchmark: Benchmark) -> list[Any]:
    return [*benchmark.stream, *benchmark.downstream]


# -- tasks ---------------------------------------------------------------------------------------------------


def test_stream_and_downstream_tasks_are_those_of_the_paper(prepared: Path) -> None:
    benchmark = cvit(root=str(prepared))
    assert benchmark.name == "cvit"
    assert [task.name for task in benchmark.stream] == STREAM
    assert [task.name for task in benchmark.downstream] == DOWNSTREAM
    assert [task.name for task in tasks_of(benchmark) if task.train is None] == DOWNSTREAM[:3]
    assert [task.name for task in tasks_of(benchmark) if task.few_shot] == ["Places365"]


def test_it_is_a_shipped_benchmark_and_what_it_shares_is_none(prepared: Path) -> None:
    assert {"cvit", "coin", "ucit"} <= set(benchmark_names())
    assert not {"prepared", "prepared-files"} & set(benchmark_names())
    assert load_benchmark("cvit", {"root": str(prepared)}).name == "cvit"


def test_users_turns_are_put_together_as_in_the_authors_files(prepared: Path) -> None:
    benchmark = cvit(root=str(prepared))
    turns = {task.name: task.test.sample(0).user_text for task in tasks_of(benchmark)}
    assert turns == {
        "ScienceQA": f"{OPTIONS}\nAnswer with the option's letter from the given choices directly.",
        "TextVQA": f"What does it say?\n{SHORT}",
        "Flickr30k": CAPTION,
        "ImageNet": f"What is the object in the image?\n{SHORT}",
        "GQA": f"Is it red?\n{SHORT}",
        "VQAv2": f"What colour is it?\n{SHORT}",
        "VizWiz": f"What is this?\n{SHORT}",
        "TextCaps": CAPTION,
        "OCR-VQA": f"Who wrote this book?\n{SHORT}",
        "Places365": f"What is the background of the image?\n{SHORT}",
    }


def test_images_are_found_beside_the_prepared_folder(prepared: Path) -> None:
    for task in tasks_of(cvit(root=str(prepared))):
        image = task.test.sample(0).image
        assert image is not None
        assert image.open().size == (4, 4)


@pytest.mark.parametrize(("style", "count"), [("single", 1), ("multi", 5)])
def test_instructions_are_the_published_strings(prepared: Path, style: Any, count: int) -> None:
    for task in tasks_of(cvit(root=str(prepared), instructions=style)):
        assert task.instructions == cvit_instructions(task.name, style)
        assert len(task.instructions) == count
        assert {sample.instruction for sample in samples(task.test)} <= set(task.instructions)


def test_multi_type_draws_anew_in_every_epoch_and_with_every_seed(prepared: Path) -> None:
    def shown(seed: int, epoch: int) -> list[str]:
        train = cvit(root=str(prepared), instructions="multi", seed=seed).task("GQA").train
        return [sample.instruction for sample in samples(train, epoch)]

    assert shown(0, 0) == shown(0, 0)
    assert len({tuple(shown(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_prepared_folder_checks_without_a_problem(prepared: Path) -> None:
    for report in check_benchmark(cvit(root=str(prepared)), decode_images=True):
        assert report.ok
        assert report.num_test == 4


# -- scorers and counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (
            "standard",
            "letter vqa_soft cider class_name exact vqa_soft vqa_soft cider short_answer class_name",
        ),
        (
            "official",
            "official_scienceqa vqa_soft official_flickr30k official_substring official_gqa official_exact "
            "official_exact official_textcaps official_ocrvqa official_substring",
        ),
        (
            "paper",
            "official_scienceqa vqa_soft official_flickr30k official_substring official_gqa official_exact "
            "official_exact official_textcaps official_ocrvqa official_substring",
        ),
    ],
)
def test_main_scorers_are_those_that_were_asked_for(prepared: Path, choice: Any, names: str) -> None:
    found = tasks_of(cvit(root=str(prepared), scorer=choice))
    assert [task.scorer.name for task in found] == names.split()
    for task in found:
        rows = samples(task.test)
        gold = [sample.answers[0] for sample in rows]
        # CIDEr finds no words of weight in captions that are all the same.
        assert task.scorer(gold, rows)[0] > 0 or task.is_caption
        assert len({task.scorer.name, *(scorer.name for scorer in task.also)}) == 1 + len(task.also)


def test_captions_are_also_scored_by_other_metrics(prepared: Path) -> None:
    standard, official = (
        cvit(root=str(prepared), scorer=choice).task("Flickr30k") for choice in ("standard", "official")
    )
    assert standard.answer_format is AnswerFormat.CAPTION
    assert [scorer.name for scorer in standard.also] == ["bleu_4", "rouge_l"]
    assert [scorer.name for scorer in official.also] == ["cider", "bleu_4", "rouge_l"]


def test_an_official_score_compares_with_one_answer_of_ten(prepared: Path) -> None:
    task = cvit(root=str(prepared), scorer="official").task("VQAv2")
    rows = samples(task.test)[:2]
    assert rows[0].answers == tuple(WHAT["VQAv2"]["answers"])
    assert task.scorer(["RED", "crimson"], rows) == [1.0, 0.0]


def test_published_counts_are_those_of_table_8(prepared: Path) -> None:
    found = {task.name: task.published for task in tasks_of(cvit(root=str(prepared), shots=10))}
    assert found == {
        "ScienceQA": Counts(12726, 4241),
        "TextVQA": Counts(34602, 5000),
        "Flickr30k": Counts(145000, 1014),
        "ImageNet": Counts(117715, 5050),
        "GQA": Counts(72140, 12578),
        "VQAv2": Counts(82783, 53588),
        "VizWiz": Counts(None, 4319),
        "TextCaps": Counts(None, 15830 // 5),
        "OCR-VQA": Counts(None, 99926),
        "Places365": Counts(3650, 36500),
    }


def test_a_check_tells_counts_that_are_not_the_published_ones(prepared: Path) -> None:
    reports = check_benchmark(cvit(root=str(prepared)))
    lines = {report.task: report.lines() for report in reports}
    assert "  published sizes differ: 12726 train, 4241 test" in lines["ScienceQA"]
    assert "  published sizes differ: 4319 test" in lines["VizWiz"]
    limited = check_benchmark(cvit(root=str(prepared), limit=3))
    assert not [line for report in limited for line in report.lines() if "published" in line]


def sharing(folder: Path, count: int) -> ContinualDataModule:
    """GQA with so many of its four test records in the image of the training records."""
    rows = [
        {**row, "image": "a.png"} if n < count else row for n, row in enumerate(records("GQA", "test", 4))
    ]
    write_jsonl(folder / "GQA" / "test.jsonl", rows)
    settings = {"root": str(folder), "downstream": []}
    return ContinualDataModule("cvit", tasks=["GQA"], settings=settings)


def test_samples_that_the_published_splits_share_are_reported_and_trained_on(folder: Path) -> None:
    (report,) = sharing(folder, 2).check()
    assert report.counts == {ProblemKind.OVERLAP: 2}
    assert "GQA test: train/test overlap" in "\n".join(report.lines())
    assert tolerated([report]) == (
        "tolerated in published splits: GQA 2 train/test overlaps; `check` lists them"
    )


def test_a_published_test_split_that_was_mostly_trained_on_is_refused(folder: Path) -> None:
    with pytest.raises(BenchmarkError) as caught:
        sharing(folder, 3).check()
    assert (
        "GQA test: trained test split: 3 of 4 test samples, more than half, have image and text of a "
        "training sample; is one file in the place of the other?"
    ) in str(caught.value)


@pytest.mark.parametrize(
    ("published", "train", "test", "expected"),
    [
        (Counts(100, 10), 100, 10, ""),
        (Counts(100, 10), 99, 10, "100 train"),
        (Counts(100, 10), 99, 11, "100 train, 10 test"),
        (Counts(None, 10), 99, 10, ""),
        (Counts(12_000, 4_000, units=(1000, 1000)), 12_726, 4_241, ""),
        (Counts(12_000, 100_000, units=(1000, 1000)), 13_000, 99_926, "about 12000 train"),
        (Counts(12_000, 100, units=(1000, 1)), 13_000, 99, "about 12000 train, 100 test"),
    ],
)
def test_counts_differ_by_more_than_what_they_are_printed_in(
    published: Counts, train: int, test: int, expected: str
) -> None:
    assert published.difference(train, test) == expected


# -- draws ---------------------------------------------------------------------------------------------------


def test_shots_are_drawn_per_class_and_five_by_default(folder: Path) -> None:
    rows = [{"id": n, "question": "", "answers": [("beach", "attic")[n % 2]]} for n in range(30)]
    write_jsonl(folder / "Places365" / "train.jsonl", rows)
    five, ten = cvit(root=str(folder)).task("Places365"), cvit(root=str(folder), shots=10).task("Places365")
    assert sorted(sample.answers[0] for sample in samples(five.train)) == ["attic"] * 5 + ["beach"] * 5
    assert len(samples(ten.train)) == 20
    assert len(five.test) == 4


def test_a_limit_holds_for_every_split(prepared: Path) -> None:
    sizes = {
        (len(task.train) if task.train else 0, len(task.test))
        for task in tasks_of(cvit(root=str(prepared), limit=3))
    }
    assert sizes == {(3, 3), (0, 3)}


# -- what is missing -----------------------------------------------------------------------------------------


def test_everything_that_is_missing_is_named_at_once_with_the_command(folder: Path) -> None:
    shutil.rmtree(folder / "TextVQA")
    (folder / "GQA" / "test.jsonl").unlink()
    (folder / "VQAv2" / "manifest.json").unlink()
    shutil.rmtree(folder.parent / "raw" / "ImageNet")
    (folder / "Places365" / "manifest.json").write_text('{"image_root": ".", "benchmark": "other"}')
    assert error_of(folder).splitlines() == [
        "cvit: data is missing (data.settings.root is DIR/cvit)",
        "  TextVQA: no folder",
        "  ImageNet: no folder of images DIR/cvit/ImageNet/../../raw/ImageNet; set data.settings.image_root",
        "  GQA: no test.jsonl",
        "  VQAv2: no manifest.json",
        "  Places365: what lies there was prepared for the benchmark other",
        "prepare it from the downloads in a folder RAW: python -m lit_cvit prepare --benchmark cvit "
        "--raw RAW --out DIR/cvit --tasks TextVQA GQA VQAv2 Places365",
        "or name instruction files in data.settings.files; or learn fewer tasks (data.tasks), or test on "
        "fewer (data.settings.downstream)",
    ]


def test_a_root_that_is_missing_is_named_with_every_task(tmp_path: Path) -> None:
    lines = error_of(tmp_path / "nowhere").splitlines()
    assert lines[0] == (
        "cvit: data is missing (data.settings.root is DIR/nowhere, and there is no such folder)"
    )
    assert lines[1:11] == [f"  {name}: no folder" for name in TASKS["cvit"]]
    with pytest.raises(ValueError, match="ScienceQA: no data.settings.root to find it in") as caught:
        cvit()
    assert "prepare --benchmark cvit --raw RAW --out OUT" in str(caught.value)


def test_tasks_that_are_not_wanted_need_not_be_there(folder: Path) -> None:
    for name in (*STREAM[2:], *DOWNSTREAM[:3]):
        shutil.rmtree(folder / name)
    settings = {"root": str(folder), "downstream": []}
    data = ContinualDataModule("cvit", tasks=["TextVQA", "ScienceQA"], settings=settings)
    assert [task.name for task in data.stream] == ["TextVQA", "ScienceQA"]
    assert data.benchmark.downstream == ()
    few = ContinualDataModule("cvit", tasks=["Places365"], settings=settings)
    assert [task.name for task in few.stream] == ["Places365"]


def test_a_manifest_that_says_nothing_is_refused(folder: Path) -> None:
    path = folder / "GQA" / "manifest.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="'image_root'; prepare the task again"):
        cvit(root=str(folder))
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: not readable as JSON .*; prepare the task again"):
        cvit(root=str(folder))


def test_images_may_lie_elsewhere(folder: Path) -> None:
    shutil.move(folder.parent / "raw", folder.parent / "moved")
    moved = folder.parent / "moved"
    each = {name: str(moved / name) for name in TASKS["cvit"]}
    for task in tasks_of(cvit(root=str(folder), image_root=each)):
        assert task.test.sample(0).image is not None
    one = cvit(root=str(folder), image_root=str(moved / "GQA")).task("VQAv2").test.sample(0).image
    assert one is not None
    assert one.open().size == (4, 4)
    message = error_of(folder, image_root="nowhere")
    assert "  GQA: no folder of images nowhere; as data.settings.image_root says" in message
    assert "prepare" not in message


def test_a_root_may_begin_with_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    names = [task.name for task in tasks_of(cvit(root=str(folder)))]
    assert [task.name for task in tasks_of(cvit(root=f"~/{folder.name}"))] == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instructions": "multy"}, "unknown instruction style 'multy'. Did you mean 'multi'?"),
        ({"scorer": "oficial"}, "cvit: unknown scorer 'oficial'. Did you mean 'official'?"),
        ({"shots": 0}, "cvit: shots must be a whole number of at least 1, got 0"),
        ({"limit": 0}, "cvit: limit must be a whole number of at least 1, got 0"),
        ({"seed": "x"}, "cvit: seed must be a whole number, got 'x'"),
        ({"root": 3}, "cvit: data.settings.root must be the path of a folder, got 3"),
        (
            {"downstream": ["Vizwiz"]},
            "cvit: data.settings.downstream: unknown task 'Vizwiz'. Did you mean 'VizWiz'?",
        ),
        (
            {"downstream": "VizWiz"},
            "cvit: data.settings.downstream must be a list of task names, got 'VizWiz'",
        ),
        ({"tasks": ["GQ"]}, "cvit: data.tasks: unknown task 'GQ'. Did you mean 'GQA'?"),
        ({"image_root": 3}, "cvit: data.settings.image_root must be a folder, or map tasks to one, got 3"),
        ({"image_root": {"GQ": "x"}}, "cvit: data.settings: unknown task 'GQ'. Did you mean 'GQA'?"),
        ({"files": []}, "cvit: data.settings.files must map tasks to their files, got []"),
        ({"files": {"GQ": {}}}, "cvit: data.settings: unknown task 'GQ'. Did you mean 'GQA'?"),
        (
            {"files": {"GQA": "x"}},
            "cvit: data.settings.files.GQA must have train, test, image_root, instruction, got 'x'",
        ),
        (
            {"files": {"GQA": {"tain": "x"}}},
            "cvit: data.settings.files.GQA: unknown key 'tain'. Did you mean",
        ),
        ({"files": {"GQA": {"test": 3}}}, "cvit: data.settings.files.GQA.test must be a string, got 3"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(
    prepared: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"cvit|unknown") as caught:
        cvit(**{"root": str(prepared), **settings})
    assert str(caught.value).startswith(message)
