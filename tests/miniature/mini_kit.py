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


def yes_no_or_count(sample: Sample) -> str:
    """Answer to a question of VQAv2."""
    things = scene_of(sample).things
    if match := re.fullmatch(r"Is there a (\w+) (\w+)\?", sample.question):
        return "yes" if any((t.colour, t.name) == match.groups() for t in things) else "no"
    assert sample.question == "How many things are there?"
    return str(len(things))


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
