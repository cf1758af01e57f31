"""Pre-training of `tiny` on drawn scenes, in three steps (deterministic on one machine and thread count).

1. The vision tower alone, supervised per patch: which shape or sign, colour, fill and background lie under
   it. Learning to see through the language loss instead was an order of magnitude slower.
2. The projector alone: a patch's embedding is drawn to the sum of the embeddings of the words that name what
   lies under it. Images then begin as text does, and every attribute can be asked for alike. Without it,
   questions by colour were learned within 1,000 steps and questions by shape not within 6,000.
3. Tower frozen: projector and decoder on clauses about generic scenes (`corpus.py`). Several questions about
   one scene share its image tokens in one sequence; a block mask keeps the questions from seeing each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lit_cvit.backbones import corpus
from lit_cvit.backbones.tiny_model import PATCH, build_model, build_processor, build_tokenizer
from lit_cvit.data.glyphs import GLYPHS
from lit_cvit.data.scenes import (
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
Log = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        seed: Seed of weights, scenes and questions.
        vision_steps: Optimizer steps of the vision tower.
        vision_batch: Scenes per vision step.
        vision_rate: Peak learning rate of the vision step.
        language_steps: Optimizer steps of projector and decoder.
        language_batch: Scenes per language step.
        num_turns: Questions per scene.
        language_rate: Peak learning rate of the language step.
        alignment_steps: Optimizer steps of the projector alone.
        alignment_rate: Peak learning rate of the projector alone.
        weight_decay: Decoupled weight decay of every step.
        log_every: Steps between log rows.
    """

    seed: int = 0
    vision_steps: int = 2500
    vision_batch: int = 96
    vision_rate: float = 1.5e-3
    language_steps: int = 5000
    language_batch: int = 32
    num_turns: int = 6
    language_rate: float = 1e-3
    alignment_steps: int = 500
    alignment_rate: float = 3e-3
    weight_decay: float = 0.05
    log_every: int = 100


def _generator(recipe: Recipe, *key: int) -> np.random.Generator:
    return np.random.default_rng([recipe.seed, *key])


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


class _VisionSteps(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Item k is the whole batch of step k, so the order cannot depend on the loader."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.vision_steps

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = _generator(self.recipe, 1, step)
        scenes = [dense_scene(generator) for _ in range(self.recipe.vision_batch)]
        labels = [patch_labels(scene) for scene in scenes]
        return pixels(scenes), {head: torch.tensor([row[head] for row in labels]) for head in _HEADS}


@dataclass
class PackedTurns:
    """A language step. B scenes, L positions: all the turns of a scene behind its image tokens."""

    images: Tensor
    has_image: Tensor
    input_ids: Tensor
    group: Tensor
    position: Tensor
    labels: Tensor


class _LanguageSteps(Dataset[PackedTurns]):
    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.num_patches = (SIZE // PATCH) ** 2

    def __len__(self) -> int:
        return self.recipe.language_steps

    def __getitem__(self, step: int) -> PackedTurns:
        generator = _generator(self.recipe, 3, step)
        count = self.recipe.language_batch
        # One step in eight shows a real conversation, whose turns see each other.
        conversation = step % 8 == 7
        num_turns = 3 if conversation else self.recipe.num_turns
        episodes = [corpus.episode(generator, num_turns=num_turns) for _ in range(count)]
        rows = [self._pack(item, conversation) for item in episodes]
        length = max(len(row[0]) for row in rows)
        packed = [
            torch.tensor([row[field] + [fill] * (length - len(row[field])) for row in rows])
            for field, fill in enumerate((0, -1, 0, -100))
        ]
        scenes = [item.scene for item in episodes if item.scene is not None]
        has_image = torch.tensor([item.scene is not None for item in episodes])
        return PackedTurns(pixels(scenes), has_image, *packed)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _pack(
        self, item: corpus.Episode, conversation: bool
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        image = "<image>" * self.num_patches + "\n" if item.scene is not None else ""
        head = [self.tokenizer.bos_token_id, *self._ids(f"User: {image}" if image else "User:")]
        ids, group, position = list(head), [0] * len(head), list(range(len(head)))
        labels = [-100] * len(head)
        for number, (question, answer) in enumerate(item.turns, start=1):
            lead = "" if image else " "
            if conversation and number > 1:
                lead = "User: "
            asked = self._ids(f"{lead}{question} Assistant:")
            said = [*self._ids(f" {answer}"), self.tokenizer.eos_token_id]
            start = len(ids) if conversation else len(head)
            ids += asked + said
            group += [0 if conversation else number] * (len(asked) + len(said))
            position += range(start, start + len(asked) + len(said))
            labels += [-100] * len(asked) + said
        return ids, group, position, labels


def _patch_features(model: LlavaForConditionalGeneration, images: Tensor) -> Tensor:
    """(B, patches, d) features that the projector reads, without the class token."""
    features: Tensor = model.model.vision_tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    return features


def packed_loss(model: LlavaForConditionalGeneration, batch: PackedTurns) -> Tensor:
    """Mean cross entropy over the answer tokens of a packed step."""
    core = model.model
    embeddings = core.get_input_embeddings()(batch.input_ids)
    with torch.no_grad():
        features = _patch_features(model, batch.images)
    projected = core.multi_modal_projector(features)
    is_image = batch.input_ids == model.config.image_token_index
    embeddings = embeddings.masked_scatter(is_image.unsqueeze(-1), projected)
    group = batch.group
    length = group.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = group.unsqueeze(2) == group.unsqueeze(1)
    mask = causal & (same | (group == 0).unsqueeze(1))
    hidden = core.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask.unsqueeze(1),
        position_ids=batch.position,
        use_cache=False,
    ).last_hidden_state
    wanted = batch.labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][wanted])
    return nn.functional.cross_entropy(logits, batch.labels[:, 1:][wanted])


def _optimise(
    parameters: list[nn.Parameter], *, steps: int, rate: float, decay: float
) -> Iterator[Callable[[Tensor], None]]:
    """Yield one update function per step: AdamW, 5 % warm-up, cosine to zero, clipping at 1."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=(0.9, 0.98))
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def update(loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()

    for _ in range(steps):
        yield update


def train_vision(model: LlavaForConditionalGeneration, recipe: Recipe, log: Log) -> None:
    """Step 1: the tower under linear heads on its patch features; the heads are thrown away."""
    tower = model.model.vision_tower
    heads = nn.ModuleDict({name: nn.Linear(tower.config.hidden_size, n) for name, n in _HEADS.items()})
    parameters = [p for n, p in tower.named_parameters() if "post_layernorm" not in n]
    updates = _optimise(
        [*parameters, *heads.parameters()],
        steps=recipe.vision_steps,
        rate=recipe.vision_rate,
        decay=recipe.weight_decay,
    )
    loader = DataLoader(_VisionSteps(recipe), batch_size=None, num_workers=1, prefetch_factor=4)
    for step, ((images, labels), update) in enumerate(zip(loader, updates, strict=True), start=1):
        features = _patch_features(model, images)
        logits = {name: head(features).flatten(0, 1) for name, head in heads.items()}
        losses = [nn.functional.cross_entropy(logits[n], labels[n].flatten()) for n in _HEADS]
        loss = torch.stack(losses).sum()
        update(loss)
        if step % recipe.log_every == 0 or step == recipe.vision_steps:
            right = {n: float((logits[n].argmax(-1) == labels[n].flatten()).float().mean()) for n in _HEADS}
            log({"phase": "vision", "step": step, "loss": round(loss.item(), 4), **_rounded(right)})


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every parameter to what half precision holds, so that what follows learns on what is shipped.

    Parameters alone: rounding the buffer of rotary frequencies would shift positions against a loaded model.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


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
    embedding = model.get_input_embeddings().weight.detach()[torch.tensor(ids)]
    column = {word: number for number, word in enumerate(vocabulary)}
    projector = model.model.multi_modal_projector
    updates = _optimise(
        list(projector.parameters()),
        steps=recipe.alignment_steps,
        rate=recipe.alignment_rate,
        decay=recipe.weight_decay,
    )
    for step, update in enumerate(updates, start=1):
        generator = _generator(recipe, 2, step)
        scenes = [dense_scene(generator) for _ in range(recipe.vision_batch)]
        counts = torch.zeros(len(scenes), (SIZE // PATCH) ** 2, len(vocabulary))
        for number, scene in enumerate(scenes):
            for patch, words in enumerate(patch_words(scene)):
                counts[number, patch, [column[word] for word in words]] = 1.0
        target = counts @ embedding
        with torch.no_grad():
            features = _patch_features(model, pixels(scenes))
        error = (projector(features) - target).square().mean() / target.square().mean()
        update(error)
        if step % recipe.log_every == 0 or step == recipe.alignment_steps:
            log({"phase": "alignment", "step": step, "loss": round(error.item(), 4)})


def train_language(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, log: Log
) -> None:
    """Step 3: projector and decoder, tower frozen."""
    model.model.vision_tower.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    updates = _optimise(
        parameters, steps=recipe.language_steps, rate=recipe.language_rate, decay=recipe.weight_decay
    )
    steps = _LanguageSteps(recipe, tokenizer)
    loader = DataLoader(steps, batch_size=None, num_workers=1, prefetch_factor=4)
    running, since = 0.0, 0
    for step, (batch, update) in enumerate(zip(loader, updates, strict=True), start=1):
        loss = packed_loss(model, batch)
        update(loss)
        running, since = running + loss.item(), since + 1
        if step % recipe.log_every == 0 or step == recipe.language_steps:
            log({"phase": "language", "step": step, "loss": round(running / since, 4)})
            running, since = 0.0, 0


def _rounded(values: dict[str, float]) -> dict[str, object]:
    return {name: round(value, 4) for name, value in values.items()}


def pretrain(recipe: Recipe, out: Path, *, echo: Callable[[str], None] = print) -> Path:
    """Pre-train `tiny` from nothing and write a model folder in half precision.

    Args:
        recipe: What to train.
        out: Folder to write; created, must not hold a model already.
        echo: Receives one line per log row.

    Raises:
        ValueError: `out` already holds a model.
    """
    if (out / "model.safetensors").exists():
        raise ValueError(f"--out {out} already holds a model; name another folder or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    start = time.perf_counter()
    tokenizer = build_tokenizer(corpus.tokenizer_lines(_generator(recipe, 0)))
    model = build_model(tokenizer)
    with (out / "log.jsonl").open("w", encoding="utf-8") as stream:

        def log(row: dict[str, object]) -> None:
            line = json.dumps({**row, "seconds": round(time.perf_counter() - start, 1)})
            stream.write(line + "\n")
            stream.flush()
            echo(line)

        log({"phase": "recipe", **asdict(recipe), "threads": torch.get_num_threads()})
        train_vision(model, recipe, log)
        round_to_half(model)
        train_projector(model, tokenizer, recipe, log)
        train_language(model, tokenizer, recipe, log)
    build_processor(tokenizer).save_pretrained(out)
    model.half().save_pretrained(out)
    return out
