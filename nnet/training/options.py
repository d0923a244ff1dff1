"""Options of a training run: the config's `train:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Images = Annotated[PositiveInt, Field(json_schema_extra={"most": 10_000})]


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained. The defaults are the published Hourglass-104 run of CornerNet (Section 4.1)."""

    batch: Annotated[tuple[Images, ...], Field(min_length=1)] = (4, 5, 5, 5, 5, 5, 5, 5, 5, 5)
    """Images in each micro-batch of one update. The micro-batches are dealt over the processes; those of one process
    are accumulated. Each micro-batch has its own BatchNorm statistics and loss normalisation, so one GPU computes the
    same update as the paper's ten."""
    iterations: Annotated[PositiveInt, Field(json_schema_extra={"most": 2**31 - 1})] = 500_000
    """Number of updates."""
    lr: Annotated[PositiveFloat, Field(json_schema_extra={"most": 1e30})] = 2.5e-4
    """Learning rate of Adam."""
    lr_schedule: Literal["steps", "cosine"] = "steps"
    """steps: the learning rate falls by lr_factor at each of lr_drops. cosine: it falls to 0 over all iterations, as
    half a period of a cosine."""
    lr_drops: tuple[PositiveInt, ...] = (450_000,)
    """Iterations after which the learning rate is multiplied by lr_factor, in rising order."""
    lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of each drop of the learning rate."""
    warmup: NonNegativeInt = 0
    """Iterations over which the learning rate rises linearly from 0. 0: none, as published."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay, as in AdamW: each update multiplies all weights by 1 - lr x this. 0: none, as
    published."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, which is validated and tested in their place, e.g. 0.998.
    After n iterations the decay is (1 + n) / (10 + n), as long as that is less. 0: no average, as published."""
    workers: Annotated[NonNegativeInt, Field(json_schema_extra={"most": 256})] = 4
    """Data loading processes per training process. 0: load in the training process."""
    worker_timeout: Annotated[PositiveInt, Field(json_schema_extra={"most": 7 * 24 * 3600})] = 50
    """Seconds without a batch after which the run ends with an error."""
    log_every: PositiveInt = 10
    """Iterations between rows of metrics.jsonl."""
    validate_every: NonNegativeInt = 500
    """Iterations between validation losses. 0: never."""
    validate_images: NonNegativeInt = 64
    """Images that a validation loss is taken over. 0: the whole split."""
    ap_every: NonNegativeInt = 0
    """Iterations between measurements of the validation AP, each with a checkpoint. 0: never."""
    snapshot_every: NonNegativeInt = 5000
    """Iterations between checkpoints. 0: at the end only."""
    keep: PositiveInt = 2
    """Number of newest checkpoints to keep."""
    keep_every: NonNegativeInt = 0
    """Checkpoints of multiples of this iteration are kept too. 0: none."""
    nan: Literal["stop", "skip"] = "stop"
    """When the loss or the gradient is not finite: end the run, or skip the update."""
    channels_last: bool = False
    """Memory layout of images and features. The results are equal up to rounding."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network. The loss is computed in float32."""
    compile: bool = False
    """Run the network through torch.compile: faster steps after some minutes of compilation."""
    checkpointing: bool = False
    """Activation checkpointing: less memory, slower steps."""
    fused_adam: bool = False
    """On the CPU, update the parameters with PyTorch's fused Adam kernel. On CUDA it is always used: it skips an update
    that is not finite by itself, so that the host does not wait."""
    sync_batch_norm: bool = False
    """CUDA only: BatchNorm statistics over the micro-batches of all processes instead of each its own."""

    def unused(self) -> dict[str, str]:
        """Options without effect beside these others, with the reason."""
        found = {}
        if late := [drop for drop in self.lr_drops if drop >= self.iterations]:
            found["lr_drops"] = (
                f"the run ends after train.iterations={self.iterations}, before the drop after {late[0]}"
            )
        if not self.lr_drops:
            found["lr_factor"] = "train.lr_drops is empty"
        if self.lr_schedule == "cosine":
            reason = "train.lr_schedule is cosine"
            found |= {"lr_factor": reason} | ({"lr_drops": reason} if self.lr_drops else {})
        if not self.validate_every:
            found["validate_images"] = "train.validate_every is 0"
        if not self.workers:
            found["worker_timeout"] = "train.workers is 0"
        return found

    def __post_init__(self):
        if list(self.lr_drops) != sorted(set(self.lr_drops)):
            raise ValueError("lr_drops", f"must be in rising order, got {list(self.lr_drops)}")
