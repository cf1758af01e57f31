"""Teaching `tiny` to see: the vision tower under labels per patch, the projector under words per patch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lit_cvit.miniature import corpus
from lit_cvit.miniature.glyphs import GLYPHS
from lit_cvit.miniature.recipe import Log, Recipe, adamw, draws, optimise
from lit_cvit.miniature.scenes import (
    CELL,
    COLOURS,
    FILLS,
    PATTERNS,
    SHAPES,
    SIZE,
    TINTS,
    Scene,
    Thing,
    draw,
    random_look,
    random_shift,
)
from lit_cvit.miniature.tiny_model import PATCH
from lit_cvit.utils.processes import end_with_parent

_NAMES = (*SHAPES, *GLYPHS)
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
_HEADS = {
    "name": len(_NAMES) + 1,
    "colour": len(COLOURS) + 1,
    "fill": len(FILLS) + 1,
    "pattern": len(PATTERNS),
    "tint": len(TINTS),
}


def pixels(scenes: list[Scene]) -> Tensor:
    """Draw scenes as a normalised (len(scenes), 3, 48, 48) float tensor, as the image processor does."""
    images = torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)
    return (images.float() / 255 - _MEAN) / _STD


def dense_scene(generator: np.random.Generator) -> Scene:
    """A crowded scene: more to learn from per image than the scenes that questions are asked about."""
    things = []
    for place in range(9):
        if generator.random() < 0.3:
            continue
        colour, shift = corpus.pick(generator, list(COLOURS)), random_shift(generator)
        if generator.random() < 0.5:
            things.append(Thing(corpus.pick(generator, GLYPHS), colour, place, shift=shift))
        else:
            fill = corpus.pick(generator, FILLS)
            things.append(Thing(corpus.pick(generator, SHAPES), colour, place, fill, shift))
    return Scene(tuple(things), **random_look(generator))  # type: ignore[arg-type]


def patch_labels(scene: Scene) -> dict[str, list[int]]:
    """The class of every 8 x 8 patch under each head; 0 is `nothing here` where a thing is asked for."""
    side = SIZE // PATCH
    labels = {head: [0] * (side * side) for head in ("name", "colour", "fill")}
    labels["pattern"] = [PATTERNS.index(scene.pattern)] * (side * side)
    labels["tint"] = [list(TINTS).index(scene.tint)] * (side * side)
    span = CELL // PATCH
    for thing in scene.things:
        row, column = divmod(thing.place, 3)
        for down in range(span):
            for right in range(span):
                patch = (row * span + down) * side + column * span + right
                labels["name"][patch] = _NAMES.index(thing.name) + 1
                labels["colour"][patch] = list(COLOURS).index(thing.colour) + 1
                labels["fill"][patch] = 0 if thing.is_glyph else FILLS.index(thing.fill) + 1
    return labels


def all_patch_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """`patch_labels` of several scenes: (scenes, patches) for every head."""
    labels = [patch_labels(scene) for scene in scenes]
    return {head: torch.tensor([row[head] for row in labels]) for head in _HEADS}


class PatchHeads(nn.Module):
    """Linear heads that tell from a patch's features what lies under it.

    Args:
        width: Size of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in _HEADS.items()})

    def forward(self, features: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Sum of the heads' cross entropies, and the share of patches that each has right."""
        losses, right = [], {}
        for name, head in self.heads.items():
            logits, wanted = head(features).flatten(0, 1), labels[name].flatten()
            losses.append(nn.functional.cross_entropy(logits, wanted))
            right[name] = round(float((logits.argmax(-1) == wanted).float().mean()), 4)
        return torch.stack(losses).sum(), right


class _VisionSteps(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Item k is the whole batch of step k, so the order cannot depend on the loader."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.vision_steps

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = draws(self.recipe, 1, step)
        scenes = [dense_scene(generator) for _ in range(self.recipe.vision_batch)]
        return pixels(scenes), all_patch_labels(scenes)


def patch_features(model: LlavaForConditionalGeneration, images: Tensor) -> Tensor:
    """(B, patches, d) features that the projector reads, without the class token."""
    features: Tensor = model.model.vision_tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    return features


def train_vision(model: LlavaForConditionalGeneration, recipe: Recipe, log: Log) -> None:
    """Step 1: the tower under linear heads on its patch features; the heads are thrown away."""
    tower = model.model.vision_tower
    heads = PatchHeads(tower.config.hidden_size)
    parameters = [p for n, p in tower.named_parameters() if "post_layernorm" not in n]
    optimizer = adamw([*parameters, *heads.parameters()], rate=recipe.vision_rate, decay=recipe.weight_decay)
    updates = optimise([optimizer], steps=recipe.vision_steps)
    steps = _VisionSteps(recipe)
    loader = DataLoader(
        steps, batch_size=None, num_workers=1, prefetch_factor=4, worker_init_fn=end_with_parent
    )
    for step, ((images, labels), update) in enumerate(zip(loader, updates, strict=True), start=1):
        loss, right = heads(patch_features(model, images), labels)
        update(loss)
        if step % recipe.log_every == 0 or step == recipe.vision_steps:
            log({"phase": "vision", "step": step, "loss": round(loss.item(), 4), **right})


def patch_words(scene: Scene) -> list[list[str]]:
    """The words that name what lies under every 8 x 8 patch."""
    labels = patch_labels(scene)
    fills, colours = list(FILLS), list(COLOURS)
    words = []
    for name, colour, fill in zip(labels["name"], labels["colour"], labels["fill"], strict=True):
        if name == 0:
            words.append([scene.pattern, scene.tint])
        else:
            words.append([_NAMES[name - 1], colours[colour - 1], *([fills[fill - 1]] if fill else [])])
    return words


def train_projector(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, log: Log
) -> None:
    """Step 2: draw patch embeddings to the sum of the embeddings of their words."""
    vocabulary = sorted({*_NAMES, *COLOURS, *FILLS, *PATTERNS, *TINTS})
    first = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in vocabulary]
    # A sign is its own token; a word begins with its space.
    ids = [tokens[1] if word in GLYPHS else tokens[0] for word, tokens in zip(vocabulary, first, strict=True)]
    embedding = model.get_input_embeddings().get_parameter("weight").detach()[torch.tensor(ids)]
    column = {word: number for number, word in enumerate(vocabulary)}
    projector = model.model.multi_modal_projector
    optimizer = adamw(projector.parameters(), rate=recipe.alignment_rate, decay=recipe.weight_decay)
    updates = optimise([optimizer], steps=recipe.alignment_steps)
    for step, update in enumerate(updates, start=1):
        generator = draws(recipe, 2, step)
        scenes = [dense_scene(generator) for _ in range(recipe.vision_batch)]
        counts = torch.zeros(len(scenes), (SIZE // PATCH) ** 2, len(vocabulary))
        for number, scene in enumerate(scenes):
            for patch, words in enumerate(patch_words(scene)):
                counts[number, patch, [column[word] for word in words]] = 1.0
        target = counts @ embedding
        with torch.no_grad():
            features = patch_features(model, pixels(scenes))
        error = (projector(features) - target).square().mean() / target.square().mean()
        update(error)
        if step % recipe.log_every == 0 or step == recipe.alignment_steps:
            log({"phase": "alignment", "step": step, "loss": round(error.item(), 4)})
