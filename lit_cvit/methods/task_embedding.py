"""The embedding of a task: means over its training samples of image, instruction and answer embeddings.

ProgLoRA (Sec. 4.1) and TIR compare tasks by them. Both take the class token of a ViT and of BERT over about a
thousand evenly spaced training samples; here image and text encoder are any that the configuration names,
with their own pooling. Instruction means the whole text of the user's turn, the question included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lit_cvit.analysis.similarity import Transform, task_similarities
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.framing import open_images
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.tasks import Sample, SampleSource
from lit_cvit.encoders import ClipImageEncoder, SentenceEncoder, text_encoder
from lit_cvit.methods.prompt_features import TOWER
from lit_cvit.utils.distributed import gathered, num_ranks, rank

MODALITIES = ("image", "instruction", "answer")
_CHUNK = 16


class TaskEmbedder:
    """Embeds tasks; encoders are looked for when first used.

    Args:
        image_encoder: `tower`, the backbone's own vision tower, or the name or folder of a CLIP model.
        text_encoder: Name or folder of a sentence encoder or a CLIP model.
        num_samples: Training samples of a task that are embedded, evenly spaced over its rows.
        unit: Whether a sample's embedding is brought to length 1 before the mean is taken.
    """

    def __init__(
        self, image_encoder: str, text_encoder: str, num_samples: int, *, unit: bool = False
    ) -> None:
        self.image_encoder, self.text_encoder, self.num_samples = image_encoder, text_encoder, num_samples
        self.unit = unit

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders besides the backbone."""
        return tuple(name for name in (self.image_encoder, self.text_encoder) if name != TOWER)

    @cached_property
    def _texts(self) -> SentenceEncoder:
        return text_encoder(self.text_encoder)

    @cached_property
    def _images(self) -> ClipImageEncoder | None:
        return None if self.image_encoder == TOWER else ClipImageEncoder(self.image_encoder)

    @torch.no_grad()
    def embed(self, backbone: Backbone, source: SampleSource) -> dict[str, Tensor]:
        """Mean embeddings (d,) by modality, in float64 on the CPU; zeros for images if there are none.

        Chunks of samples are dealt to the ranks, and their sums are added up in the order of the chunks, so
        every rank gets the same bits, whatever the number of ranks. Every rank must call it.
        """
        rows = evenly_spaced(len(source), self.num_samples)
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        own = {
            number: self._sums(backbone, [source.sample(row) for row in chunk])
            for number, chunk in enumerate(chunks)
            if number % num_ranks() == rank()
        }
        sums = {number: value for part in gathered(own) for number, value in part.items()}
        total = {
            modality: torch.stack([sums[n][modality] for n in sorted(sums)]).sum(0) for modality in MODALITIES
        }
        # The last element counts.
        return {modality: value[:-1] / value[-1].clamp(min=1) for modality, value in total.items()}

    def _sums(self, backbone: Backbone, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """For each modality the sum over the samples that have it, and their number as last element."""
        values = {
            "image": self._image_features(backbone, samples),
            "instruction": self._texts.encode([sample.user_text for sample in samples]),
            "answer": self._texts.encode([sample.answers[0] for sample in samples]),
        }
        if self.unit:
            values = {name: functional.normalize(value.double()) for name, value in values.items()}
        counted = {
            name: torch.cat([v.double(), v.new_ones(len(v), 1).double()], dim=1) for name, v in values.items()
        }
        return {name: value.sum(0).cpu() for name, value in counted.items()}

    def _image_features(self, backbone: Backbone, samples: Sequence[Sample]) -> Tensor:
        if self._images is None:
            batch = backbone.encode(samples, with_answers=False)
            return backbone.image_features(batch.to(backbone.model.device)).float()
        aspect, mean = backbone.image_aspect, self._images.image_mean
        images = open_images(samples, aspect=aspect, mean=mean, centred=True)
        return self._images.encode(images, backbone.model.device)


class LearnedTasks:
    """The embeddings of the tasks of a stream, and how alike the newest is to those before it.

    It is measured when a stage is planned, stands in the plan, and is followed with it; the embeddings are
    tensors of the method.

    Args:
        embedder: Embeds a task.
        transform: What becomes of the cosines, see `task_similarities`.

    Attributes:
        embeddings: Of each task by modality, in the order of the stream.
        similarity: Of the newest task with each earlier one; None where none was measured.
    """

    def __init__(self, embedder: TaskEmbedder, transform: Transform) -> None:
        self.embedder, self.transform = embedder, transform
        self.embeddings: list[dict[str, Tensor]] = []
        self.similarity: list[float] | None = None
        self._fresh: dict[str, Tensor] | None = None

    def plan(self, backbone: Backbone, source: SampleSource) -> dict[str, Any]:
        """Embed a new task; returns the keys `similarity` and `embedding` (sizes) of its plan."""
        self._fresh = self.embedder.embed(backbone, source)
        tasks = [[each[modality] for modality in MODALITIES] for each in (*self.embeddings, self._fresh)]
        return {
            "similarity": task_similarities(tasks, transform=self.transform),
            "embedding": {modality: len(vector) for modality, vector in self._fresh.items()},
        }

    def follow(self, plan: Mapping[str, Any]) -> None:
        """Follow a plan; one that is followed again finds its embedding among the saved tensors."""
        self.similarity = plan.get("similarity")
        if "embedding" in plan:
            empty = {name: torch.zeros(size, dtype=torch.float64) for name, size in plan["embedding"].items()}
            self.embeddings.append(self._fresh or empty)
            self._fresh = None

    def tensors(self) -> dict[str, Tensor]:
        """The embeddings, by the names that they are stored under."""
        return {
            f"task_embeddings.{number}.{modality}": vector
            for number, embedding in enumerate(self.embeddings)
            for modality, vector in embedding.items()
        }
