"""Where CornerNet-Saccade looks: the config's `test.saccade:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

Score = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[PositiveFloat, Field(json_schema_extra={"most": 16_384})]  # pixels


@dataclass(frozen=True)
class SaccadeDetectionOptions:
    """The two passes of CornerNet-Saccade. The defaults are the released ones."""

    first: Annotated[tuple[Side, ...], Field(min_length=1)] = (192.0, 255.0)
    """Longer side of the image in each crop of the first pass, for crops of 255 pixels. In proportion for others."""
    attention_threshold: Score = 0.3
    """Attention scores above this are locations to look at."""
    kept_threshold: Score = 0.3
    """Detections of the first pass with a score above this are kept."""
    reference_threshold: Score = 0.5
    """Detections of the first pass with a score above this are locations to look at again, at a larger scale."""
    location_nms: Literal["cross", "disc"] = "cross"
    """Which locations suppress each other. disc: those that are near each other. cross: those that are near each other
    along x or along y, however far apart along the other axis, as released."""
    crops: NonNegativeInt = 30
    """Number of locations to look at in the second pass, at most."""
    at_once: Annotated[PositiveInt, Field(json_schema_extra={"most": 10_000})] = 32
    """Number of crops that pass the network together, at most. Less memory with fewer; the results are equal up to
    rounding."""
