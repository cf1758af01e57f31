"""Pre-training of `tiny` on drawn scenes, in five steps (deterministic on one machine and thread count).

1. The vision tower alone, supervised per patch: which shape or sign, colour, fill and background lie under
   it. Learning to see through the language loss instead was an order of magnitude slower.
2. The projector alone: a patch's embedding is drawn to the sum of the embeddings of the words that name what
   lies under it. Images then begin as text does, and every attribute can be asked for alike.
3. Tower frozen: projector and decoder on clauses about generic scenes (`corpus.py`). Several questions about
   one scene share its image tokens in one sequence; a block mask keeps the questions from seeing each other.
   The decoder's matrices are trained by Muon (after 700 steps its loss was 0.42, AdamW's 0.48).
4. The same with more choosing and filling, and with the patch labels of step 1 once more, now read off the
   projector's output: step 3 had let the projector forget how things are filled.

   The output rows of tokens that no answer ever had are then drawn apart (`space_unwritten`).
5. The same with the forms of answers that a cue asks for, and with what things are called (`instruct.py`): an
   instruction-tuned model brings both to a stream.

Steps 2 to 5 start from weights rounded to the half precision that is shipped. Each step leaves its weights in
`phases/` of the folder; a pre-training that was cut off goes on behind the last of them, with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lit_cvit.miniature import corpus
from lit_cvit.miniature.instruct import instructed_skills
from lit_cvit.miniature.phases import PhaseFiles
from lit_cvit.miniature.recipe import Log, Recipe, adamw, draws, optimise
from lit_cvit.miniature.scenes import SIZE
from lit_cvit.miniature.seeing import (
    PatchHeads,
    all_patch_labels,
    patch_features,
    pixels,
    train_projector,
    train_vision,
)
from lit_cvit.miniature.tiny_model import PATCH, build_model, build_processor, build_tokenizer
from lit_cvit.utils.processes import end_with_parent

# At transformers' initial scale a perfect match raises the attention by a third; so scaled, sixfold.
_SHARPNESS = 2.5


@dataclass
class PackedTurns:
    """A language step. B scenes, L positions: all the turns of a scene behind its image tokens."""

    images: Tensor
    has_image: Tensor
    input_ids: Tensor
    group: Tensor
    position: Tensor
    labels: Tensor
    patches: dict[str, Tensor]


@dataclass(frozen=True)
class LanguagePhase:
    """One of steps 3 to 5.

    Attributes:
        name: Name in the log.
        steps: Optimizer steps.
        rate: Peak learning rate under AdamW.
        matrix_rate: Peak learning rate under Muon.
        draw: Number that tells its random draws from those of other steps.
        skills: Share of each skill among the questions.
        sight_weight: Weight of the loss over patches.
    """

    name: str
    steps: int
    rate: float
    matrix_rate: float
    draw: int
    skills: Mapping[corpus.Skill, float]
    sight_weight: float = 0.0


class _LanguageSteps(Dataset[PackedTurns]):
    def __init__(self, recipe: Recipe, phase: LanguagePhase, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.phase, self.tokenizer = recipe, phase, tokenizer
        self.num_patches = (SIZE // PATCH) ** 2

    def __len__(self) -> int:
        return self.phase.steps

    def __getitem__(self, step: int) -> PackedTurns:
        generator = draws(self.recipe, self.phase.draw, step)
        count = self.recipe.language_batch
        # One step in eight shows a real conversation, whose turns see each other.
        conversation = step % 8 == 7
        num_turns, skills = 3 if conversation else self.recipe.num_turns, self.phase.skills
        episodes = [corpus.episode(generator, num_turns=num_turns, skills=skills) for _ in range(count)]
        rows = [self._pack(item, conversation) for item in episodes]
        length = max(len(row[0]) for row in rows)
        packed = [
            torch.tensor([row[field] + [fill] * (length - len(row[field])) for row in rows])
            for field, fill in enumerate((0, -1, 0, -100))
        ]
        scenes = [item.scene for item in episodes if item.scene is not None]
        has_image = torch.tensor([item.scene is not None for item in episodes])
        patches = all_patch_labels(scenes) if self.phase.sight_weight else {}
        input_ids, group, position, labels = packed
        return PackedTurns(pixels(scenes), has_image, input_ids, group, position, labels, patches)

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
            answered = [*self._ids(f" {answer}"), self.tokenizer.eos_token_id]
            start = len(ids) if conversation else len(head)
            ids += asked + answered
            group += [0 if conversation else number] * (len(asked) + len(answered))
            position += range(start, start + len(asked) + len(answered))
            labels += [-100] * len(asked) + answered
        return ids, group, position, labels


def packed_loss(model: LlavaForConditionalGeneration, batch: PackedTurns) -> tuple[Tensor, Tensor]:
    """Mean cross entropy over the answer tokens of a packed step, and what the projector put out."""
    core = model.model
    embeddings = core.get_input_embeddings()(batch.input_ids)
    with torch.no_grad():
        features = patch_features(model, batch.images)
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
    return nn.functional.cross_entropy(logits, batch.labels[:, 1:][wanted]), projected


@torch.no_grad()
def search_alike(model: LlavaForConditionalGeneration) -> None:
    """Let every attention head of the decoder begin as a search for what is alike, by equal queries and keys.

    Image tokens begin as the sum of their words (step 2), so the word `star` then finds the star from the
    first step on. With it, and answers that name the shape first (`corpus._describe`), the colour of a named
    shape was right in 92 % after 400 steps; with either alone it was at chance (52 and 45 %, 60 questions).
    """
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.mul_(_SHARPNESS)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


def train_language(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    phase: LanguagePhase,
    log: Log,
) -> Tensor:
    """Steps 3 to 5: projector and decoder, tower frozen.

    Returns:
        (vocabulary,) Whether an answer had the token.
    """
    written = torch.zeros(len(tokenizer), dtype=torch.bool)
    heads = PatchHeads(model.lm_head.in_features)
    model.model.vision_tower.requires_grad_(False)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in named if not (p.ndim == 2 and ".layers." in name)]
    muon = torch.optim.Muon(
        matrices, lr=phase.matrix_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    plain = adamw([*others, *heads.parameters()], rate=phase.rate, decay=recipe.weight_decay)
    updates = optimise([plain, muon], steps=phase.steps)
    steps = _LanguageSteps(recipe, phase, tokenizer)
    loader = DataLoader(
        steps, batch_size=None, num_workers=1, prefetch_factor=4, worker_init_fn=end_with_parent
    )
    running, since = 0.0, 0
    for step, (batch, update) in enumerate(zip(loader, updates, strict=True), start=1):
        loss, projected = packed_loss(model, batch)
        sight, right = loss.new_zeros(()), {}
        if phase.sight_weight:
            sight, right = heads(projected, batch.patches)
        update(loss + phase.sight_weight * sight)
        written[batch.labels[batch.labels >= 0]] = True
        running, since = running + loss.item(), since + 1
        if step % recipe.log_every == 0 or step == phase.steps:
            log({"phase": phase.name, "step": step, "loss": round(running / since, 4), **right})
            running, since = 0.0, 0
    return written


@torch.no_grad()
def space_unwritten(head: Tensor, written: Tensor, recipe: Recipe) -> None:
    """Draw the output rows of tokens that were never written apart, about the direction that they share.

    Every answer pushes all of them one way, and an adaptive optimizer moves them far, however weak the
    push: they end parallel (cosine 1.00). What adapts the model later, without training its head, could then
    not say `[` without saying hundreds of others, which costs the logarithm of their number in every such
    token. Their mean stays, so they are as unlikely as before; about it each gets a direction of its own, as
    long as written rows have.

    Args:
        head: (vocabulary, width) Output rows, changed in place.
        written: (vocabulary,) Whether an answer had the token.
        recipe: For the seed.
    """
    own = (head[written] - head[written].mean(0)).norm(dim=1).mean()
    noise = torch.from_numpy(draws(recipe, 5).standard_normal((int((~written).sum()), head.shape[1])))
    head[~written] = head[~written].mean(0) + own * nn.functional.normalize(noise.float(), dim=1)


def pretrain(recipe: Recipe, out: Path, *, echo: Callable[[str], None] = print) -> Path:
    """Pre-train `tiny` from nothing and write a model folder in half precision.

    Args:
        recipe: What to train.
        out: Folder to write. One with the steps of a pre-training that was cut off goes on behind them.
        echo: Receives one line per log row.

    Raises:
        ValueError: `out` already holds a model, or phases of another recipe.
    """
    if (out / "model.safetensors").exists():
        raise ValueError(f"--out {out} already holds a model; name another folder or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(corpus.tokenizer_lines(draws(recipe, 0)))
    training = Pretraining(build_model(tokenizer), tokenizer, recipe)
    phases = PhaseFiles(out, recipe)
    with phases.log(echo) as log:
        for name, run in training.phases().items():
            if not phases.restore(name, training):
                run(log)
                phases.save(name, training)
    build_processor(tokenizer).save_pretrained(out)
    training.model.half().save_pretrained(out)
    phases.clear()
    return out


class Pretraining:
    """The steps of the recipe, in order.

    Args:
        model: With random weights.
        tokenizer: Its tokenizer.
        recipe: What to train.

    Attributes:
        written: (vocabulary,) Whether an answer had the token.
    """

    def __init__(
        self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
    ) -> None:
        self.model, self.tokenizer, self.recipe = model, tokenizer, recipe
        self.written = torch.zeros(len(tokenizer), dtype=torch.bool)

    def phases(self) -> dict[str, Callable[[Log], None]]:
        """The steps by name."""
        return {
            "vision": self._see,
            "alignment": self._align,
            "language": self._speak,
            "sight": self._look_again,
            "instruction": self._follow,
        }

    def _see(self, log: Log) -> None:
        train_vision(self.model, self.recipe, log)

    def _align(self, log: Log) -> None:
        train_projector(self.model, self.tokenizer, self.recipe, log)

    def _speak(self, log: Log) -> None:
        search_alike(self.model)
        recipe = self.recipe
        self._train(
            LanguagePhase(
                "language",
                recipe.language_steps,
                recipe.language_rate,
                recipe.matrix_rate,
                draw=3,
                skills=corpus.SKILLS,
            ),
            log,
        )

    def _look_again(self, log: Log) -> None:
        recipe = self.recipe
        self._train(
            LanguagePhase(
                "sight",
                recipe.sight_steps,
                recipe.sight_rate,
                recipe.matrix_rate * recipe.sight_rate / recipe.language_rate,
                draw=4,
                skills=corpus.LATE_SKILLS,
                sight_weight=recipe.sight_weight,
            ),
            log,
        )
        space_unwritten(self.model.lm_head.weight, self.written, recipe)
        log({"phase": "spacing", "rows": int((~self.written).sum())})

    def _follow(self, log: Log) -> None:
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        self._train(
            LanguagePhase(
                "instruction",
                recipe.instruction_steps,
                recipe.instruction_rate,
                recipe.matrix_rate * recipe.instruction_rate / recipe.language_rate,
                draw=6,
                skills=instructed_skills(recipe.instruction_share),
                sight_weight=recipe.sight_weight,
            ),
            log,
        )

    def _train(self, phase: LanguagePhase, log: Log) -> None:
        self.written |= train_language(self.model, self.tokenizer, self.recipe, phase, log)
