"""HiDe-LLaVA: expand the top layer, fuse the layers below it (arXiv 2503.12941, Sec. 4, Eq. 2-6).

Every task trains one block per adapted layer, alone: older blocks are frozen and take no part. What differs
is how a test sample uses the T blocks of a layer:

* an expanded layer (the top one) mixes them by how near the sample is to every task's anchors, the means of
  the image and text features of the task's training samples (Eq. 2):
  w = softmax((alpha cos(image, image anchor) + beta cos(text, text anchor)) / temperature) (Eq. 4);
* a fused layer (the others) adds them up, sum_i epsilon_i E_i (Eq. 6), whatever the sample;
* a layer that is neither carries no LoRA at test (Table 3: Merge 1-31 and Expand 1-31 leave the top bare).

The projector: the paper trains it as a whole, one for all tasks, stage after stage (`projector: full` here).
With `projector: lora`, this library's default for every method, its blocks are used like those of decoder
layer 0; that is ours. Text is the user's turn, instruction and question together, never the answer: in the
published code the decoded prompt without system line and `ASSISTANT`. Nothing but prompt and image is read.

What Eq. 6 means by E_i, `fusion` leaves open. `sum_of_products` is sum_i epsilon_i B_i A_i.
`product_of_sums` is (sum_i epsilon_i B_i)(sum_j epsilon_j A_j), cross terms B_i A_j included, as in the
published code (where every epsilon is 1).

Differences of the published code (Ghy0501/HiDe-LLaVA@4dd0793, llava/model/llava_arch.py:165-228 and
HiDe/peft/tuners/clitmoelora.py:407-528), none of them taken over:

* Its anchors begin as a random pseudo-sample, are counted in bfloat16 (which stops at 8192 with batches of
  24) and see rank 0's samples alone. Here: sums and counts in fp32 over all ranks, each sample of a stage
  once (in its first epoch; fillers of an uneven last step never).
* Its softmax runs over all tasks planned, with random anchors for those not yet learned. Here: over the
  tasks learned.
* It takes test batches of one, and gives a sample without an image the weights of the sample before. Here
  batches are of any size and of mixed tasks. A sample without an image is compared with text anchors alone,
  at the full weight alpha + beta, so that the temperature means the same; likewise a task without images.
* It compares the layer's number with 31, needs the number of tasks in advance, sums the blocks again at
  every decoded token, and draws A from N(0, 0.01^2), where here A is LoRA's own.

Loaded parameters (`parameter_counts()["loaded"]`): an expanded layer loads its T blocks; a fused layer T
under `sum_of_products` and one, the sums, under `product_of_sums`; a bare layer none. Anchors and a full
projector's copy count too, backbone and encoders do not. `stored` is the T blocks of every layer, always.
The paper's Table 3 counts a fused layer once and an expanded one T times, without projector and anchors:
38.27 M merged, 6 x 38.27 = 229.62 M expanded, 44.27 M for HiDe; its code holds all T blocks of all layers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_cvit.adapters import DECODER, LoRABank, Target
from lit_cvit.adapters.kernels import weigh_sums
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.encoders import MINILM
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.hide.anchors import Anchors, anchor_weights
from lit_cvit.methods.hide.placement import Layers, Role, layers_to_expand, place
from lit_cvit.methods.prompt_features import TOWER, Features, PromptFeatures
from lit_cvit.utils.settings import NotNegative, Positive

_MODALITIES = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}
# Defaults of the options that only expanded or only fused layers read.
_EXPANDING: dict[str, object] = {
    "anchors": "both",
    "temperature": 0.1,
    "image_weight": 0.5,
    "text_weight": 0.5,
    "image_encoder": TOWER,
    "text_encoder": MINILM,
}
_FUSING: dict[str, object] = {"fusion": "sum_of_products", "epsilon": 1.0}


class HiDeBank(LoRABank):
    """A bank that, where `crossed`, multiplies the sums of its blocks instead of summing their products."""

    crossed = False

    def mix(self, z: Tensor, gate: Tensor | None, ranks: tuple[int, ...]) -> Tensor:
        return weigh_sums(z, gate, ranks=ranks) if self.crossed else super().mix(z, gate, ranks)


class HiDe(ContinualMethod):
    """One block per task, mixed by similarity to anchors in some layers and fused in the others.

    Layers are given by numbers from 0, negative ones counting from the top, or as `top`, `below_top` (all but
    the top), `all` or `auto`. `auto` expands the first task-specific layer of a CKA report and all above it,
    and fuses those below: where the mean CKA of two tasks falls most from one layer to the next, by more than
    a threshold (the reading of Fig. 1; the rule is ours, `lit_cvit.analysis.cka`).

    Args:
        backbone: The pre-trained model.
        expand: Layers that mix the blocks by anchors.
        fuse: Layers that use the fusion of all blocks; a word leaves out those that `expand` names.
        fusion: What the fusion is, see the module's text.
        epsilon: Coefficient of every block in the fusion (Fig. 5), or one for each stage in order.
        anchors: Modalities that are compared (Fig. 4); a single one has the weight of both.
        temperature: Temperature of the softmax.
        image_weight: alpha, the weight of the image similarity.
        text_weight: beta, the weight of the text similarity.
        image_encoder: `tower`, the mean over the backbone's own vision features, or the name or folder of a
            CLIP model. The paper uses CLIP's: openai/clip-vit-large-patch14-336.
        text_encoder: Name or folder of a sentence encoder or of a CLIP model. The paper uses the same CLIP.
        cka_report: For `auto`: the `cka.json` that the callback `CKAAnalysis` or `analyze cka` wrote, or a
            JSON file {"cka": [...]} that holds, for every decoder layer from input to output, the (tasks,
            tasks) matrix of CKA similarities. Read before the first stage; what it decides is kept in the
            run.
        kwargs: Settings of every method; `rank` is that of one task's block (8 in the paper).
    """

    free_settings: ClassVar[tuple[str, ...]] = ("cka_report",)

    def __init__(
        self,
        backbone: Backbone,
        expand: Layers = "top",
        fuse: Layers = "all",
        fusion: Literal["sum_of_products", "product_of_sums"] = "sum_of_products",
        epsilon: float | list[float] = 1.0,
        anchors: Literal["both", "image", "text"] = "both",
        temperature: Positive = 0.1,
        image_weight: NotNegative = 0.5,
        text_weight: NotNegative = 0.5,
        image_encoder: str = TOWER,
        text_encoder: str = MINILM,
        cka_report: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.expand, self.fuse, self.fusion, self.epsilon = expand, fuse, fusion, epsilon
        self.compared, self.temperature = anchors, temperature
        self.image_weight, self.text_weight = image_weight, text_weight
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.cka_report = cka_report
        self._check()
        for option, reason in self._ignored().items():
            warnings.warn(f"model.{option} has no effect {reason}", stacklevel=2)
        # Without an expanded layer nothing asks for anchors, and none are kept.
        self.modalities = () if expand == [] else _MODALITIES[anchors]
        self.anchors = nn.ModuleDict()
        self.roles: dict[int, Role] = {}
        self._divided: list[int] | None = None
        self._prompts = PromptFeatures(backbone, image_encoder, text_encoder)

    def _check(self) -> None:
        if self.image_weight + self.text_weight <= 0:
            raise ValueError("model.image_weight and model.text_weight must not both be 0; got 0 and 0")
        if self.expand == [] and self.fuse == []:
            raise ValueError("HiDe needs a layer that uses its blocks: set expand or fuse (or use ZeroShot)")
        if "auto" in (self.expand, self.fuse) and self.cka_report is None:
            raise ValueError(
                "'auto' divides the layers by a CKA report: set model.cka_report to its JSON file, or name "
                "the layers of model.expand and model.fuse"
            )

    def _ignored(self) -> dict[str, str]:
        """Options that differ from their defaults and change nothing, with the reason."""
        reasons: dict[str, str] = {}
        if self.expand == []:
            reasons |= dict.fromkeys(_EXPANDING, "without an expanded layer (expand: [])")
        elif self.compared != "both":
            other = "text" if self.compared == "image" else "image"
            reasons[f"{other}_encoder"] = f"with anchors: {self.compared}"
        if self.fuse == [] or self.expand == "all":
            why = "fuse: []" if self.fuse == [] else "expand: all"
            reasons |= dict.fromkeys(_FUSING, f"without a fused layer ({why})")
        if "auto" not in (self.expand, self.fuse):
            reasons["cka_report"] = "where neither expand nor fuse is 'auto'"
        defaults = {**_EXPANDING, **_FUSING, "cka_report": None}
        asked = {name: getattr(self, name) for name in defaults if name != "anchors"}
        asked["anchors"] = self.compared
        return {name: reason for name, reason in reasons.items() if asked[name] != defaults[name]}

    @property
    def access(self) -> DataAccess:
        """Nothing of a sample but prompt and image; the encoders beside the backbone."""
        names = [str(getattr(self, f"{modality}_encoder")) for modality in self.modalities]
        return DataAccess(encoders=tuple(dict.fromkeys(name for name in names if name != TOWER)))

    # -- stages ---------------------------------------------------------------------------------------------

    def plan_stage(self, stage: Stage) -> Plan:
        plan: Plan = {"new_blocks": [self.rank], "freeze_blocks": True, "new_projector": self.is_new}
        if "auto" in (self.expand, self.fuse):
            if self._divided is None:
                assert self.cka_report is not None
                self._divided = layers_to_expand(Path(self.cka_report), num_layers=self._num_layers)
            plan["expand"] = self._divided
        self._coefficients(self.num_plans + 1)
        return plan

    def apply_plan(self, plan: Plan) -> None:
        self._divided = plan.get("expand")
        divided = self._divided or ()
        self.roles = place(self.expand, self.fuse, num_layers=self._num_layers, divided=divided)
        for bank in self.banks.values():
            assert isinstance(bank, HiDeBank)
            bank.crossed = self.fusion == "product_of_sums" and self._role(bank) == "fuse"
        for modality in self.modalities:
            if modality not in self.anchors:
                self.anchors[modality] = Anchors(self._width(modality))
            self._anchors(modality).grow()

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        return HiDeBank(base, name, kind=target.kind, scaling=self.alpha / self.rank, dropout=self.dropout)

    def extra_tensors(self) -> dict[str, Tensor]:
        return {f"anchors.{name}": tensor for name, tensor in self.anchors.state_dict().items()}

    @property
    def _num_layers(self) -> int:
        return int(self.backbone.config.get_text_config().num_hidden_layers)

    def _role(self, bank: LoRABank) -> Role:
        # The projector comes before all decoder layers, and goes with the first of them.
        return self.roles[int(bank.name.split(".")[1]) if bank.kind == DECODER else 0]

    def _coefficients(self, num_blocks: int) -> list[float]:
        if not isinstance(self.epsilon, list):
            return [self.epsilon] * num_blocks
        if len(self.epsilon) < num_blocks:
            raise ValueError(f"epsilon has {len(self.epsilon)} values, but stage {num_blocks} needs one too")
        return self.epsilon[:num_blocks]

    # -- anchors --------------------------------------------------------------------------------------------

    def observe(self, batch: Batch) -> None:
        """Count each sample into its task's anchors once, in the first epoch; checkpoints carry the sums."""
        if self.trainer.current_epoch > 0:
            return
        assert batch.answer_mask is not None
        assert self.stage is not None
        # A filler has no answer tokens, and every other sample has some; replayed rows are other tasks'.
        own = torch.tensor(self.stage.own_rows(batch.indices), device=batch.answer_mask.device)
        counted = batch.answer_mask.any(1) & own
        for modality, features in self.features(batch).items():
            self._anchors(modality).add(features.values, counted & features.present)

    def features(self, batch: Batch) -> dict[str, Features]:
        """What is compared with the anchors, by modality; in full precision in training and at test."""
        found = {"image": self._prompts.of_images, "text": self._prompts.of_texts}
        return {modality: found[modality](batch) for modality in self.modalities}

    def _width(self, modality: str) -> int:
        return self._prompts.text_width if modality == "text" else self._prompts.image_width

    def _anchors(self, modality: str) -> Anchors:
        found = self.anchors[modality]
        assert isinstance(found, Anchors)
        return found

    # -- gates ----------------------------------------------------------------------------------------------

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        """In training, the newest block alone."""
        if not self._learns(batch):
            return {}
        gate = torch.zeros(len(batch), self.num_plans)
        gate[:, -1:] = 1
        return {"gate": gate}

    def bank_gates(self, batch: Batch) -> dict[str, Tensor]:
        """At test every layer has the gate of its role."""
        if self._learns(batch) or not self.num_plans:
            return {}
        expand = self.task_weights(batch)
        fuse = expand.new_tensor(self._coefficients(self.num_plans)).expand_as(expand)
        gates: dict[Role, Tensor] = {"expand": expand, "fuse": fuse, "bare": torch.zeros_like(expand)}
        return {name: gates[self._role(bank)] for name, bank in self.banks.items()}

    def _learns(self, batch: Batch) -> bool:
        return self.training and batch.answer_mask is not None

    def task_weights(self, batch: Batch) -> Tensor:
        """How much of every task's block each sample gets in an expanded layer (Eq. 4): (S, T)."""
        if not self.modalities:
            return torch.zeros(len(batch), self.num_plans, device=batch.prompt_mask.device)
        features = self.features(batch)
        shares = [self.image_weight, self.text_weight]
        return anchor_weights(
            [self._anchors(modality) for modality in self.modalities],
            [features[modality] for modality in self.modalities],
            shares if len(self.modalities) == 2 else [sum(shares)],
            temperature=self.temperature,
        )

    def parameter_counts(self) -> dict[str, int]:
        """The counts of every method, and those `loaded` at test (see the module's text)."""
        counts = super().parameter_counts()
        loaded = sum(tensor.numel() for name, tensor in self.tensors().items() if ".blocks." not in name)
        for bank in self.banks.values() if self.num_plans else ():
            assert isinstance(bank, HiDeBank)
            sizes = [block.A.numel() + block.B.numel() for block in bank.lora_blocks()]
            loaded += {"expand": sum(sizes), "fuse": sizes[0] if bank.crossed else sum(sizes), "bare": 0}[
                self._role(bank)
            ]
        return counts | {"loaded": loaded}
