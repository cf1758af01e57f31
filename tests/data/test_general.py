"""`general`: the owners' files of POPE, MME, MMBench and SEED-Bench become tasks that are only tested."""

from __future__ import annotations

import csv
import json
import pickle
import re
from pathlib import Path

import pytest
from general_kit import (
    CATEGORIES,
    QUESTIONS,
    encoded,
    question,
    write_all,
    write_mmbench,
    write_mme,
    write_mme_table,
    write_pope,
    write_seed,
)

from lit_cvit.data.benchmarks import load_benchmark
from lit_cvit.data.benchmarks.general.suites import read_tasks, suites
from lit_cvit.data.tasks import Sample
from lit_cvit.data.validation.check import check_benchmark, require_clean

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def read(root: Path, name: str, limit: int | None = None) -> list[Sample]:
    benchmark = load_benchmark("general", {"root": str(root), "limit": limit}, tasks=[name])
    (task,) = benchmark.downstream
    return [task.test.sample(index) for index in range(len(task.test))]


def shade(sample: Sample) -> int:
    assert sample.image is not None
    pixel = sample.image.open().getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def test_all_four_are_clean_tasks_that_are_only_tested(tmp_path: Path) -> None:
    write_all(tmp_path)
    benchmark = load_benchmark("general", {"root": str(tmp_path)})
    sizes = {task.name: len(task.test) for task in benchmark.downstream}
    assert sizes == {"MMBench": 4 + 2, "MME": 14 * 2 * 2, "POPE": 3 * 2, "SEED": 3}
    assert benchmark.stream == ()
    assert [task.train for task in benchmark.downstream] == [None] * 4
    require_clean(check_benchmark(benchmark, decode_images=True))


def test_samples_travel_to_workers_and_digests_tell_their_texts(tmp_path: Path) -> None:
    write_mmbench(tmp_path)
    settings = {"root": str(tmp_path)}
    source = load_benchmark("general", settings, tasks=["MMBench"]).downstream[0].test
    again = pickle.loads(pickle.dumps(source))
    assert again.digest() == source.digest()
    assert shade(again.sample(0)) == 1
    write_mmbench(tmp_path, [{**QUESTIONS[0], "question": "Another?"}, QUESTIONS[1]])
    changed = load_benchmark("general", settings, tasks=["MMBench"]).downstream[0].test
    assert changed.digest() != source.digest()


# -- each as its owners have it -----------------------------------------------------------------------------


def test_pope_asks_the_three_subsets_in_llavas_words(tmp_path: Path) -> None:
    write_pope(tmp_path)
    samples = read(tmp_path, "POPE")
    assert [sample.id for sample in samples] == [
        f"{subset}/{number}" for subset in ("random", "popular", "adversarial") for number in (1, 2)
    ]
    assert samples[0].user_text == f"Is there a dog in the image?\n{SHORT}"
    assert [sample.answers for sample in samples[:2]] == [("yes",), ("no",)]
    assert [shade(sample) for sample in samples[::2]] == [0, 1, 2]
    assert [sample.id for sample in read(tmp_path, "POPE", limit=1)] == [
        "random/1",
        "popular/1",
        "adversarial/1",
    ]


def test_mme_asks_both_questions_of_every_image_without_its_own_instruction(tmp_path: Path) -> None:
    write_mme(tmp_path)
    samples = read(tmp_path, "MME")
    assert [sample.id for sample in samples[:4]] == [
        *("existence/0001.jpg/1", "existence/0001.jpg/2", "existence/0002.png/1", "existence/0002.png/2")
    ]
    assert samples[1].user_text == f"Is this not existence?\n{SHORT}"
    assert [sample.answers for sample in samples[:2]] == [("yes",), ("no",)]
    found = {sample.id.split("/")[0]: shade(sample) for sample in samples}
    assert found == {category: number for number, category in enumerate(CATEGORIES)}
    assert len(read(tmp_path, "MME", limit=1)) == 14 * 2


def test_mme_is_read_from_its_folders_without_the_outer_one_too(tmp_path: Path) -> None:
    write_mme(tmp_path)
    expected = [sample.id for sample in read(tmp_path, "MME")]
    for folder in (tmp_path / "MME" / "MME_Benchmark_release_version").iterdir():
        folder.rename(tmp_path / "MME" / folder.name)
    (tmp_path / "MME" / "MME_Benchmark_release_version").rmdir()
    assert [sample.id for sample in read(tmp_path, "MME")] == expected


def test_mme_is_read_from_its_table_where_an_image_may_be_that_of_another_row(tmp_path: Path) -> None:
    write_mme_table(tmp_path)
    samples = read(tmp_path, "MME")
    assert [sample.id for sample in samples] == ["OCR/a.jpg/1", "OCR/a.jpg/2", "OCR/b.jpg/1"]
    assert [shade(sample) for sample in samples] == [1, 1, 2]
    assert [sample.user_text for sample in samples[:1]] == [f"Is it?\n{SHORT}"]
    assert [sample.id for sample in read(tmp_path, "MME", limit=1)] == ["OCR/a.jpg/1", "OCR/a.jpg/2"]


def test_mmbench_asks_every_rotation_and_the_answer_goes_with_its_option(tmp_path: Path) -> None:
    write_mmbench(tmp_path)
    samples = read(tmp_path, "MMBench")
    stem = 'Look "here".\nTwice.\nQuestion 7?\n'
    assert samples[0].user_text == f"{stem}A. red\nB. green\nC. blue\nD. none of them\n{LETTER}"
    assert samples[1].user_text == f"{stem}A. green\nB. blue\nC. none of them\nD. red\n{LETTER}"
    assert [sample.answers[0] for sample in samples] == ["B", "A", "D", "C", "A", "B"]
    chosen = ["ABCD".index(sample.answers[0]) for sample in samples]
    right = [sample.choices[at] for sample, at in zip(samples, chosen, strict=True)]
    assert right == ["green"] * 4 + ["yes"] * 2
    names = [sample.id for sample in samples]
    assert names[3:5] == ["finegrained_perception/ocr/7/3", "coarse_perception/scene/9/0"]
    assert {shade(sample) for sample in samples} == {1}
    assert len(read(tmp_path, "MMBench", limit=1)) == 4


def test_mmbench_takes_the_rotations_that_the_owners_table_holds(tmp_path: Path) -> None:
    rows = [
        question(7, ("red", "green"), "B", image=encoded(3), C="nan", hint="None"),
        question(9, ("yes", "no"), "A", image=encoded(4)),
        question(1_000_007, ("green", "red"), "A", image="7"),
        question(1_000_009, ("no", "yes"), "B", image="9"),
    ]
    write_mmbench(tmp_path, rows)
    samples = read(tmp_path, "MMBench")
    assert [sample.id[-3:] for sample in samples] == ["7/0", "7/1", "9/0", "9/1"]
    assert [sample.answers[0] for sample in samples] == ["B", "A", "A", "B"]
    assert [shade(sample) for sample in samples] == [3, 3, 4, 4]
    assert samples[0].user_text == f"Question 7?\nA. red\nB. green\n{LETTER}"


def test_seed_bench_asks_about_images_alone(tmp_path: Path) -> None:
    write_seed(tmp_path)
    samples = read(tmp_path, "SEED")
    assert [sample.id for sample in samples] == [
        *("Scene Understanding/101669", "Scene Understanding/101670", "Instance Identity/101671")
    ]
    text = f"How many are in picture 1?\nA. one\nB. two\nC. three\nD. four\n{LETTER}"
    assert samples[1].user_text == text
    assert (samples[1].answers, samples[1].choices) == (("B",), ("one", "two", "three", "four"))
    assert [shade(sample) for sample in samples] == [0, 1, 2]
    assert [sample.id[-6:] for sample in read(tmp_path, "SEED", limit=1)] == ["101669", "101671"]


def test_a_table_of_large_images_is_read_in_pieces(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    big = encoded(5) + "A" * 400_000
    path = write_mmbench(tmp_path, [question(n, ("a", "b"), "A", image=big) for n in range(3)])
    (task,) = load_benchmark("general", {"root": str(tmp_path)}, tasks=["MMBench"]).downstream
    assert len(pickle.dumps(task.test)) < 10_000 < path.stat().st_size
    assert shade(task.test.sample(5)) == 5
    assert csv.field_size_limit() == before


# -- what is wrong is named ---------------------------------------------------------------------------------


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    write_mme(tmp_path, CATEGORIES[1:])
    broken = tmp_path / "MME" / "MME_Benchmark_release_version" / "count" / "0002.png"
    broken.unlink()
    (tmp_path / "seed_bench").mkdir()
    with pytest.raises(ValueError, match="general: ") as caught:
        load_benchmark("general", {"root": str(tmp_path)})
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("general: 9 files or folders are missing; ")
    assert [str(Path(line.strip().split(": ")[0]).relative_to(tmp_path)) for line in lines] == [
        "mmbench/mmbench_dev_20230712.tsv",
        "MME/MME_Benchmark_release_version/existence",
        "MME/MME_Benchmark_release_version/count/0002.txt",
        "pope/coco/coco_pope_random.json",
        "pope/coco/coco_pope_popular.json",
        "pope/coco/coco_pope_adversarial.json",
        "pope/val2014",
        "seed_bench/SEED-Bench.json",
        "seed_bench/SEED-Bench-image",
    ]


def test_files_of_tasks_that_are_not_asked_may_be_missing(tmp_path: Path) -> None:
    write_seed(tmp_path)
    assert len(read(tmp_path, "SEED")) == 3


@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        ({}, None, "general needs its setting 'root'"),
        ({"root": "nowhere"}, None, "root of general: no folder nowhere;"),
        (
            {"root": "."},
            ["Pope"],
            "unknown task 'Pope'. Did you mean 'POPE'? Known: MMBench, MME, POPE, SEED",
        ),
        ({"root": ".", "limit": 0}, None, "limit of general: got 0; it must be at least 1"),
        ({"root": "."}, [], "tasks of general: got none"),
        ({"rot": "."}, None, "unknown setting 'rot'. Did you mean 'root'?"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], tasks: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_benchmark("general", settings, tasks=tasks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": ""}, "line 2: field 'answer': got ''; it must be text that is not blank"),
        ({"answer": "D"}, "line 2: field 'answer': got 'D'; allowed are A, B"),
        ({"index": "x"}, "line 2: field 'index': got 'x'; it must be a whole number"),
        ({"B": "", "C": "c"}, "line 2: got the options A, C; there must be some, without a gap"),
        ({"image": "12"}, "line 2: column 'image': it must be base64, or the 'index' of a row with an image"),
    ],
)
def test_a_bad_row_of_mmbench_is_named_with_its_line(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    path = write_mmbench(tmp_path, [question(1, ("a", "b"), "A", image=encoded(1)) | changed])
    with pytest.raises(ValueError, match=re.escape(f"\n  MMBench: {path}, {message}")):
        read(tmp_path, "MMBench")


def test_lines_are_counted_over_cells_of_several_lines(tmp_path: Path) -> None:
    path = write_mmbench(tmp_path, [QUESTIONS[0], {**QUESTIONS[1], "answer": "E"}])
    with pytest.raises(ValueError, match="line 4: field 'answer': got 'E'"):
        read(tmp_path, "MMBench")
    text = path.read_text(encoding="utf-8").replace("\tE\t", "\tA\t")
    path.write_text(text[: text.rindex("\tdev")], encoding="utf-8")
    with pytest.raises(ValueError, match="line 4: got 11 cells for 12 columns; the file is cut off"):
        read(tmp_path, "MMBench")


def test_a_table_without_its_columns_is_refused_with_all_of_them(tmp_path: Path) -> None:
    path = write_mmbench(tmp_path)
    path.write_text("index\tquestion\n1\tWhy?\n")
    with pytest.raises(
        ValueError, match="lacks the columns image, hint, A, B, C, D, answer, category, l2-cat"
    ):
        read(tmp_path, "MMBench")


def test_two_tables_of_mmbench_are_refused_but_the_chinese_one_is_left_alone(tmp_path: Path) -> None:
    path = write_mmbench(tmp_path)
    path.with_name("mmbench_dev_cn_20231003.tsv").write_text("")
    assert len(read(tmp_path, "MMBench")) == 6
    path.with_name("MMBench_DEV_EN.tsv").write_text("")
    with pytest.raises(
        ValueError, match=r"got the tables MMBench_DEV_EN.tsv, mmbench_dev_20230712.tsv; leave"
    ):
        read(tmp_path, "MMBench")


def test_an_image_that_cannot_be_decoded_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_mmbench(tmp_path, [question(1, ("a", "b"), "A", image="abcd" * 20)])
    image = read(tmp_path, "MMBench")[0].image
    assert image is not None
    problem = f"{path}, line 2: column 'image': not a readable image (Unidentified"
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        image.open()
    path.write_text("short")
    with pytest.raises(ValueError, match="line 2: column 'image': "):
        image.open()
    path.unlink()
    with pytest.raises(ValueError, match="line 2: column 'image': .*No such file"):
        image.open()


def test_a_question_of_mme_may_hold_a_line_break_of_unicode(tmp_path: Path) -> None:
    write_mme(tmp_path)
    pair = tmp_path / "MME" / "MME_Benchmark_release_version" / "OCR" / "0001.txt"
    pair.write_text("Is it\u2028so?\tYes\r\nIs it not?\tNo\r\n", encoding="utf-8")
    texts = [sample.question for sample in read(tmp_path, "MME") if sample.id.startswith("OCR/0001.jpg/")]
    assert texts == ["Is it\u2028so?", "Is it not?"]


def test_a_bad_record_of_pope_mme_and_seed_bench_is_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    popular = tmp_path / "pope" / "coco" / "coco_pope_popular.json"
    popular.write_text(popular.read_text().replace('"no"', '"maybe"'))
    with pytest.raises(
        ValueError, match="popular.json, line 2: field 'label': got 'maybe'; allowed are yes, no"
    ):
        read(tmp_path, "POPE")
    pair = tmp_path / "MME" / "MME_Benchmark_release_version" / "OCR" / "0001.txt"
    pair.write_text("Is it?\tYes\nIs it not? No\n")
    with pytest.raises(
        ValueError, match="0001.txt, line 2: got .*; it must be a question, a tab, and Yes or No"
    ):
        read(tmp_path, "MME")
    pair.write_text("Is it?\tYes\n")
    with pytest.raises(ValueError, match="0001.txt: got 1 lines; MME has two questions on every image"):
        read(tmp_path, "MME")
    seed = tmp_path / "seed_bench" / "SEED-Bench.json"
    data = json.loads(seed.read_text())
    seed.write_text(json.dumps(data), encoding="utf-8-sig")
    assert len(read(tmp_path, "SEED")) == 3
    seed.write_text(json.dumps({**data, "question_type": ["Scene"]}))
    with pytest.raises(ValueError, match=r"field 'question_type': got \['Scene'\]; it must map names"):
        read(tmp_path, "SEED")
    del data["questions"][2]["choice_d"]
    seed.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="SEED-Bench.json, question 2: field 'choice_d': got nothing;"):
        read(tmp_path, "SEED")
    seed.write_text("[]")
    with pytest.raises(ValueError, match="it must be a JSON object with a list 'questions'"):
        read(tmp_path, "SEED")


def test_a_missing_benchmark_does_not_hide_broken_files_of_the_others(tmp_path: Path) -> None:
    write_pope(tmp_path)
    write_seed(tmp_path)
    pope = tmp_path / "pope" / "coco" / "coco_pope_random.json"
    pope.write_text(pope.read_text()[:-20])
    (tmp_path / "mmbench").mkdir()
    (tmp_path / "mmbench" / "dev.tsv").write_text("garbage")
    (seed,) = tmp_path.rglob("SEED-Bench.json")
    seed.write_text(re.sub(r'"answer": "."', '"answer": "E"', seed.read_text()))
    with pytest.raises(ValueError, match="^general: 14 files or folders are missing; ") as caught:
        read_tasks(tuple(suites().values()), tmp_path, None)
    first, *listed = str(caught.value).splitlines()
    assert first.endswith("some files are broken; the first problem of each benchmark is shown")
    assert len(listed) == 14 + 3
    assert listed[14].startswith(f"  MMBench: {tmp_path / 'mmbench' / 'dev.tsv'}: lacks the columns index")
    assert listed[15].startswith(f"  POPE: {pope}, line 2")
    assert listed[16].startswith(f"  SEED: {seed}, question ")
    assert "field 'answer': got 'E'; allowed are A, B, C, D" in listed[16]
