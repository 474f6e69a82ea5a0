"""What transformers is told when it gets one of our settings as its `quantization_config`."""

from __future__ import annotations

from workbench.errors import ConfigError


class QuantMethodError(ConfigError, AttributeError):
    """Settings that transformers takes for a configuration of its own; `hasattr` takes it for "no"."""


class NotForTransformers:
    """Settings that `from_pretrained` does not take: it asks each `quantization_config` for its `quant_method`."""

    @property
    def quant_method(self) -> str:
        """Refuse, saying what to pass instead.

        Raises:
            QuantMethodError: always.
        """
        raise QuantMethodError(
            f"quantization_config is {type(self).__name__}, which transformers does not know.",
            allowed="wb.TransformersConfig(recipe), which takes a configuration or a recipe",
            mend="from_pretrained(model, quantization_config=wb.TransformersConfig(config))",
        )
