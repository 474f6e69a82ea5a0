"""A row of the architecture matrix: how its tiny random model is built and fed, and its public shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCAB, POSITIONS, IMAGE_TOKEN = 97, 64, 90


def _ids(count: int = 12) -> Tensor:
    return torch.arange(2, 2 + count)[None]


def text() -> dict[str, Tensor]:
    return {"input_ids": _ids()}


def text_to_text() -> dict[str, Tensor]:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(5)}


def _pixels(size: int = 32) -> Tensor:
    return torch.linspace(-1, 1, 3 * size * size).sin().view(1, 3, size, size)


def image() -> dict[str, Tensor]:
    return {"pixel_values": _pixels()}


def image_and_text() -> dict[str, Tensor]:
    return {"input_ids": _ids(), "pixel_values": _pixels()}


def image_in_text() -> dict[str, Tensor]:
    return {"input_ids": torch.cat([torch.full((1, 4), IMAGE_TOKEN), _ids()], 1), "pixel_values": _pixels()}


def speech() -> dict[str, Tensor]:
    return {"input_features": torch.linspace(-1, 1, 8 * 32).view(1, 8, 32), "decoder_input_ids": _ids(5)}


def sound() -> dict[str, Tensor]:
    return {"input_values": torch.linspace(0, 300, 800).sin()[None]}


def patches() -> dict[str, Tensor]:
    ids = torch.cat([torch.full((1, 4), IMAGE_TOKEN), _ids()], 1)
    grid = torch.tensor([[1, 4, 4]])
    types = (ids == IMAGE_TOKEN).int()
    pixels = torch.linspace(-1, 1, 16 * 3 * 2 * 4 * 4).sin().view(16, -1)
    return {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": types}


@dataclass(frozen=True)
class Architecture:
    """One row of the matrix.

    Attributes:
        name: What people call it.
        model: Name of transformers' model class.
        tiny: The configuration of a model that runs in milliseconds.
        public: The model whose shape the table shows.
        shape: That shape, where it is not the configuration's default.
        auto: The auto class that loads it.
        inputs: What a forward takes.
        generates: Whether it generates text.
    """

    name: str
    model: str
    tiny: dict[str, Any]
    public: str
    shape: dict[str, Any] = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    inputs: Callable[[], dict[str, Tensor]] = text
    generates: bool = True

    @property
    def model_class(self) -> Any:
        """Transformers' class."""
        return getattr(transformers, self.model)

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return a tiny random model in evaluation mode, as `from_pretrained` makes one of that dtype."""
        torch.manual_seed(7)
        config = self.model_class.config_class(**copy.deepcopy(self.tiny))
        model = self.model_class._from_config(config, dtype=dtype).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or (parameter.ndim in (2, 3) and name.endswith(("weight", "proj"))):
                nn.init.normal_(parameter, std=0.05)  # at the usual 0.02 little but the embedding decides
        return model

    def skeleton(self) -> nn.Module:
        """Return the model of the public shape, bfloat16, on the meta device."""
        config = self.model_class.config_class(**copy.deepcopy(self.shape))
        with torch.device("meta"):
            return self.model_class._from_config(config, dtype=torch.bfloat16)  # type: ignore[no-any-return]
