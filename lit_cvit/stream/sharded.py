"""`trainer.strategy: ddp_sharded_backbone`: DDP around a frozen decoder that the ranks hold in shards.

What trains is on every rank as under `ddp`, and so is all that is stored. Every rank reads the model into its
host's memory first; then one layer after another goes to the device and is divided there, so that no device
ever holds the decoder.
"""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from lit_cvit.methods.base import ContinualMethod

NAME = "ddp_sharded_backbone"


class ShardedBackboneStrategy(DDPStrategy):
    """DDP for a method whose frozen decoder layers are divided among the ranks (see `Shards`)."""

    def shard(self, method: ContinualMethod) -> None:
        """Divide a method's decoder; once, when its banks are there and its weights are still on the CPU."""
        method.backbone.shard(init_device_mesh(self.root_device.type, (self.world_size,)))

    def _setup_model(self, model: Module) -> DistributedDataParallel:
        assert isinstance(model, ContinualMethod)
        assert model.backbone.shards is not None
        model.backbone.shards.trained = [p for p in model.parameters() if p.requires_grad]
        # DDP's first broadcast would be of shards, which differ between the ranks as they should.
        shards = [name for name, p in model.named_parameters() if type(p).__name__ == "DTensor"]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, shards)
        return super()._setup_model(model)

    def teardown(self) -> None:
        """End a stage's fit, but leave the method on its device: there the shards are gathered."""
        method = self._lightning_module
        self._lightning_module = None
        super().teardown()
        self._lightning_module = self.model = method


def named_strategy(strategy: str | Strategy) -> str | Strategy:
    """The strategy of the name `ddp_sharded_backbone`, which Lightning does not have; any other as given."""
    return ShardedBackboneStrategy() if strategy == NAME else strategy


def require_shardable(method: ContinualMethod, world_size: int) -> None:
    """Refuse what does not go with a decoder in shards.

    Args:
        method: The method as configured.
        world_size: Ranks.

    Raises:
        ValueError: there is one rank, the decoder is quantised or trains, or the method does not allow it.
    """
    quantization, name = method.backbone.quantization, type(method).__name__
    reason = ""
    if world_size < 2:
        reason = "divides the decoder among ranks, got 1; set trainer.devices, or trainer.strategy auto"
    elif quantization != "none":
        reason = f"needs model.backbone.quantization none, got {quantization!r}: packed weights stay whole"
    elif method.train_mode != "adapters":
        reason = f"needs model.train adapters, got {method.train_mode!r}: only what is frozen is divided"
    elif method.sharding_unsupported_reason:
        reason = f"cannot train {name}: {method.sharding_unsupported_reason}; use trainer.strategy ddp"
    if reason:
        raise ValueError(f"trainer.strategy {NAME} {reason}")
