"""What the tests of the miniature benchmarks share: reading scenes back, and a digest of all content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from lit_cvit.data.tasks import Benchmark, Sample, SampleSource
from lit_cvit.metrics.scoring import ExactContent
from lit_cvit.miniature.scenes import COLOURS, PLACES, SHAPES, DrawnImage, Scene, Thing

CONTENT = ExactContent(tuple(COLOURS), SHAPES, PLACES)


def samples(source: SampleSource | None, count: int | None = None) -> Iterator[Sample]:
    assert source is not None
    return (source.sample(index) for index in range(len(source) if count is None else count))


def scene_of(sample: Sample) -> Scene:
    assert isinstance(sample.image, DrawnImage)
    return sample.image.scene


def one(things: list[Thing]) -> Thing:
    (thing,) = things
    return thing


def shapes_in(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if not t.is_glyph]


def written(scene: Scene, row: int | None = None) -> str:
    """The signs of a scene, or of one of its rows, which must stand side by side in one row."""
    signs = sorted((t for t in scene.things if t.is_glyph), key=lambda t: t.place)
    signs = [t for t in signs if row is None or t.place // 3 == row]
    assert [t.place for t in signs] == list(range(signs[0].place, signs[0].place + len(signs)))
    assert len({t.place // 3 for t in signs}) == 1
    return "".join(t.name for t in signs)


def attribute(question: str, things: list[Thing]) -> str:
    """Answer to a question about one of several things, of which it must fit exactly one."""
    if match := re.fullmatch(r"What colour is the (\w+)\?", question):
        return one([t for t in things if t.name == match[1]]).colour
    if match := re.fullmatch(r"How is the (\w+) filled\?", question):
        return one([t for t in things if t.name == match[1]]).fill
    if match := re.fullmatch(r"Where is the (\w+)\?", question):
        return PLACES[one([t for t in things if t.name == match[1]]).place]
    match = re.fullmatch(r"What shape is the (\w+) thing\?", question)
    assert match
    return one([t for t in things if t.colour == match[1]]).name


def asked(sample: Sample, mark: str) -> str:
    """The question of a multiple-choice sample, whose options must be listed behind it, each with `mark`."""
    listed = "".join(
        mark.format(letter) + option for letter, option in zip("ABC", sample.choices, strict=True)
    )
    assert sample.question.endswith(listed)
    assert len(set(sample.choices)) == 3
    return sample.question.removesuffix(listed)


def number(question: str, things: list[Thing]) -> str:
    """Answer to a question for how many there are, in all or of a colour."""
    match = re.fullmatch(r"How many (?:(\w+) )?things are there\?", question)
    assert match
    return str(sum(match[1] in (None, t.colour) for t in things))


def answer_about(question: str, scene: Scene) -> str:
    """Answer to any question about what a scene shows: a sign, yes or no, a number or an attribute."""
    if question in ("What does it say?", "What is spelled out?", "Which signs can you make out?"):
        return written(scene)
    things = list(scene.things)
    if match := re.fullmatch(r"Is there a (\w+) (\w+)\?", question):
        return "yes" if any((t.colour, t.name) == match.groups() for t in things) else "no"
    return number(question, things) if question.startswith("How many") else attribute(question, things)


def kind_of(question: str) -> str:
    """The first words of a question, as far as they tell its kind."""
    first = question.split()[:2]
    return " ".join(first) if first[0] in ("What", "How") else first[0]


def is_caption_of(sample: Sample) -> bool:
    """Whether the five references differ, are one sentence each and name every thing with its place."""
    scene = scene_of(sample)
    for thing in shapes_in(scene):
        phrase = f"{thing.colour} {thing.name} (is |sits )?at the {PLACES[thing.place]}\\b"
        if not all(re.search(phrase, reference) for reference in sample.answers):
            return False
    one_sentence = all(reference.endswith(".") and reference.count(".") == 1 for reference in sample.answers)
    same = CONTENT(sample.answers, [sample] * len(sample.answers)) == [1.0] * 5
    return one_sentence and same and len(set(sample.answers)) == 5


def content_digest(benchmark: Benchmark, *, count: int = 200) -> str:
    """Digest of the first samples of every split: ids, texts, answers and all that the images show."""
    digest = hashlib.sha256()
    for task in (*benchmark.stream, *benchmark.downstream):
        for source in (task.train, task.test):
            for index in range(min(count, len(source)) if source else 0):
                assert source is not None
                sample = source.sample(index, epoch=index % 3)
                scene = None if sample.image is None else scene_of(sample)
                fields = (sample.id, sample.task, sample.question, sample.instruction, sample.answers)
                rest = (sample.choices, sample.history, sample.text, scene)
                digest.update(repr((*fields, *rest)).encode())
    return digest.hexdigest()
