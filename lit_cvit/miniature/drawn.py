"""What all miniature benchmarks share: samples drawn from (seed, split, index), and tasks made of them.

Nothing is stored. A test scene is one whose content digest is 0 modulo five and a training scene is any
other, so the two splits can never show the same scene, whatever their sizes and seeds.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import AnswerFormat, Sample, Task
from lit_cvit.metrics.scoring import ExactContent, scorer
from lit_cvit.miniature import VERSION
from lit_cvit.miniature.scenes import COLOURS, PATTERNS, PLACES, SHAPES, TINTS, DrawnImage, Scene, random_look

Split = Literal["train", "test"]
_TEST_SHARE = 5


@dataclass(frozen=True)
class Drawn:
    """What a task draws: a scene (None: text alone) with a question about it.

    Attributes:
        scene: What the image shows.
        answers: Reference answers, the first one trained on.
        question: The question without instruction.
        choices: Options of a multiple-choice question.
    """

    scene: Scene | None
    answers: tuple[str, ...]
    question: str = ""
    choices: tuple[str, ...] = ()

    def is_test(self) -> bool:
        """Whether this content belongs to the test split."""
        if self.scene is not None:
            return self.scene.digest() % _TEST_SHARE == 0
        digest = hashlib.blake2b(self.question.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % _TEST_SHARE == 0


@dataclass(frozen=True)
class Look:
    """How the pictures of a task look: what their ground is drawn from, and how good they are at best."""

    patterns: tuple[str, ...] = PATTERNS
    tints: tuple[str, ...] = tuple(TINTS)
    quality: float = 1.0

    def applied(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """The scene on a ground of this look."""
        ground: dict[str, Any] = random_look(generator, self.patterns, self.tints)
        return replace(scene, quality=min(scene.quality, self.quality), **ground)


DrawSample = Callable[[np.random.Generator, int], Drawn]


@dataclass(frozen=True)
class MiniSource:
    """A split of a miniature task.

    Attributes:
        task: Name of the task.
        split: `train` or `test`.
        size: Number of samples.
        seed: Seed of the benchmark.
        instructions: Strings to draw from; more than one is the multi-type setting.
        draw: A module-level function from generator and index to content, so that it pickles.
        look: How the pictures look; None leaves the scenes as they were drawn.
        layout: The user's turn with {question} and {instruction}; empty means one below the other.
    """

    task: str
    split: Split
    size: int
    seed: int
    instructions: tuple[str, ...]
    draw: DrawSample
    look: Look | None = None
    layout: str = ""

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Draw sample `index`; only its instruction depends on the epoch.

        Raises:
            ValueError: the index is out of range.
        """
        if not 0 <= index < self.size:
            raise ValueError(f"{self.task}: {self.split} sample {index} is not in 0..{self.size - 1}")
        drawn = _content(self, index)
        chosen = mix("instruction", self.seed, self.task, self.split, epoch, index) % len(self.instructions)
        instruction = self.instructions[chosen]
        return Sample(
            id=f"{self.split}-{index}",
            task=self.task,
            question=drawn.question,
            instruction=instruction,
            answers=drawn.answers,
            image=None if drawn.scene is None else DrawnImage(drawn.scene),
            choices=drawn.choices,
            text=self.layout.format(question=drawn.question, instruction=instruction),
        )

    def digest(self) -> str:
        """A digest of everything that decides the samples, drawing code excepted."""
        split = (self.task, self.split, self.size, self.seed)
        parts = (VERSION, *split, self.instructions, self.draw.__qualname__, self.look, self.layout)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.lru_cache(maxsize=8192)
def _content(source: MiniSource, index: int) -> Drawn:
    """What a sample shows, which a stage asks for to measure answers, to train and to score."""
    generator = np.random.default_rng(mix("mini", source.seed, source.task, source.split, index))
    while True:
        drawn = source.draw(generator, index)
        if source.look is not None and drawn.scene is not None:
            drawn = replace(drawn, scene=source.look.applied(drawn.scene, generator))
        if drawn.is_test() == (source.split == "test"):
            return drawn


@dataclass(frozen=True)
class MiniTask:
    """What makes a task of a miniature, its instructions and sizes aside.

    Attributes:
        draw: A module-level function from generator and index to content.
        answer_format: Form of the answers.
        scorer: Name of the scorer of the main score.
        look: How the pictures look; see `MiniSource`.
        layout: The user's turn where it is not the question above the instruction; see `MiniSource`.
    """

    draw: DrawSample
    answer_format: AnswerFormat
    scorer: str
    look: Look | None = None
    layout: str = ""

    def build(
        self,
        name: str,
        instructions: tuple[str, ...],
        *,
        num_train: int | None,
        num_test: int,
        seed: int,
        few_shot: bool = False,
    ) -> Task:
        """Make the task; without `num_train` it is only tested. Captions are also scored by exact content."""

        def source(split: Split, size: int) -> MiniSource:
            return MiniSource(name, split, size, seed, instructions, self.draw, self.look, self.layout)

        caption = self.answer_format is AnswerFormat.CAPTION
        return Task(
            name=name,
            answer_format=self.answer_format,
            scorer=scorer(self.scorer),
            also=(ExactContent(tuple(COLOURS), SHAPES, PLACES),) if caption else (),
            train=None if num_train is None else source("train", num_train),
            test=source("test", num_test),
            instructions=instructions,
            few_shot=few_shot,
        )
