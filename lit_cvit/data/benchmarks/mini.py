"""Samples drawn from (seed, split, index): the source behind every miniature task.

Nothing is stored. A test scene is one whose content digest is 0 modulo five and a training scene is any
other, so the two splits can never show the same scene, whatever their sizes and seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lit_cvit.data.sampling import mix
from lit_cvit.data.scenes import DrawnImage, Scene
from lit_cvit.data.tasks import Sample

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
    """

    task: str
    split: Split
    size: int
    seed: int
    instructions: tuple[str, ...]
    draw: DrawSample

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Draw sample `index`; only its instruction depends on the epoch.

        Raises:
            ValueError: the index is out of range.
        """
        if not 0 <= index < self.size:
            raise ValueError(f"{self.task}: {self.split} sample {index} is not in 0..{self.size - 1}")
        generator = np.random.default_rng(mix("mini", self.seed, self.task, self.split, index))
        drawn = self.draw(generator, index)
        while drawn.is_test() != (self.split == "test"):
            drawn = self.draw(generator, index)
        chosen = mix("instruction", self.seed, self.task, self.split, epoch, index) % len(self.instructions)
        return Sample(
            id=f"{self.split}-{index}",
            task=self.task,
            question=drawn.question,
            instruction=self.instructions[chosen],
            answers=drawn.answers,
            image=None if drawn.scene is None else DrawnImage(drawn.scene),
            choices=drawn.choices,
        )

    def digest(self) -> str:
        """A digest of everything that decides the samples, drawing code excepted."""
        key = (self.task, self.split, self.size, self.seed, self.instructions, self.draw.__qualname__)
        return hashlib.sha256(repr(key).encode()).hexdigest()
