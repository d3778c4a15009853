"""Settings of the export stage."""

from dataclasses import dataclass
from enum import Enum

from portable.core.errors import ConfigError


class ExportDtype(Enum):
    """The number format of exported weights; ``keep`` is the source's."""

    keep = "keep"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Write ``model`` as a Hugging Face folder and compare it there with itself.

    ``num_check_sequences`` random sequences drawn from ``seed`` must give logits that differ by no more than
    ``max_logit_difference``, computed in float32 by us and by transformers.
    """

    model_path: str = ""
    dtype: ExportDtype = ExportDtype.keep
    num_check_sequences: int = 4
    max_logit_difference: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_check_sequences < 1:
            raise ConfigError(f"export.num_check_sequences={self.num_check_sequences}; use at least 1")
        if not self.max_logit_difference > 0:
            raise ConfigError(
                f"export.max_logit_difference={self.max_logit_difference}; use a positive number"
            )
