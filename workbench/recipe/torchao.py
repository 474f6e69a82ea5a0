"""Configurations of torchao: one for all layers, or a dictionary from names to configurations (`FqnToConfig`).

torchao itself is not needed: its objects are known by their names and fields. In a dictionary, exact names decide
first (of a weight, then of a layer), then the regular expressions in order, then "_default"; each is held against a
layer's name and its weight's (torchao 0.15's documentation, and what transformers does with it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError
from workbench.recipe.choice import Choice
from workbench.recipe.patterns import FQN

DEFAULT_KEY = "_default"
_TILED = "TILE_PACKED_TO_4D"
# torchao's layouts for the tinygemm kernels, whose automatic zero point is a float as ours is.
_LAYOUTS = ("TensorCoreTiledLayout", "Int4CPULayout")
_OURS = "an Int4WeightOnlyConfig, or None for a dense layer"


def fqn_dictionary(given: object) -> Mapping[Any, Any] | None:
    """Return the dictionary of names that something is, or holds as torchao's FqnToConfig does; None if neither."""
    held = [getattr(given, name, None) for name in ("fqn_to_config", "module_fqn_to_config")]
    found = [one for one in (given, *held) if isinstance(one, Mapping)]
    return next((one for one in found if one), found[0] if found else None)


def read_fqn_dictionary(given: Mapping[Any, Any]) -> tuple[Choice | None, list[tuple[str, Choice | None]]]:
    """Return the default of torchao's dictionary and its (pattern, choice) pairs, in the order in which they decide.

    Raises:
        ConfigError: for a key that is no text or a value that says something else than int4 weights.
    """
    choices = {key: _choice_of(key, value) for key, value in given.items()}
    default = choices.pop(DEFAULT_KEY, None)
    ordered = sorted(choices, key=_turn)  # stable: regular expressions keep their order
    return default, [(FQN + key, choices[key]) for key in ordered]


def _turn(key: str) -> int:
    if key.startswith("re:"):
        return 2
    return 0 if key.endswith(".weight") else 1


def _choice_of(key: object, value: object) -> Choice | None:
    if not isinstance(key, str):
        raise ConfigError(f"The name {key!r} in a dictionary of configurations.", allowed="text")
    if value is None or isinstance(value, Choice):
        return value
    config = as_configuration(value, f"{key!r}: ")
    if config is None:
        mend = "for the JSON of a recipe, use wb.Recipe.from_json(...)" if not hasattr(value, "__dict__") else None
        raise ConfigError(f"{key!r}: {_named(value)} is no int4 weight-only configuration.", allowed=_OURS, mend=mend)
    return Choice(config)


def as_configuration(given: object, where: str = "") -> Int4WeightOnlyConfig | None:
    """Return ours for an Int4WeightOnlyConfig of torchao's, or what was given for one of ours; None for anything else.

    Raises:
        ConfigError: when it asks for something that ours cannot say: another packing, another layout.
    """
    if isinstance(given, Int4WeightOnlyConfig):
        return given
    if type(given).__name__ != "Int4WeightOnlyConfig" or not hasattr(given, "group_size"):
        return None
    try:
        return _second_version(given) if getattr(given, "version", 1) == 2 else _first_version(given)
    except ConfigError as error:
        raise ConfigError(f"{where}{error.what}", allowed=error.allowed, mend=error.mend) from None


def _first_version(given: Any) -> Int4WeightOnlyConfig:
    """Fields of torchao 0.11 to 0.14: group_size, layout, use_hqq, zero_point_domain, preserve_zero."""
    layout = getattr(given, "layout", TensorCoreTiledLayout())
    if type(layout).__name__ not in _LAYOUTS:
        raise ConfigError(f"layout={_named(layout)} is not the tinygemm kernels'.", allowed=", ".join(_LAYOUTS))
    domain: Any = getattr(given, "zero_point_domain", ZeroPointDomain.NONE)
    return Int4WeightOnlyConfig(
        group_size=given.group_size,
        layout=TensorCoreTiledLayout(getattr(layout, "inner_k_tiles", 8)),
        use_hqq=getattr(given, "use_hqq", False),
        zero_point_domain=ZeroPointDomain.__members__.get(getattr(domain, "name", ""), domain),
        set_inductor_config=getattr(given, "set_inductor_config", True),
        preserve_zero=getattr(given, "preserve_zero", None),
    )


def _second_version(given: Any) -> Int4WeightOnlyConfig:
    """Fields from torchao 0.13 on: a packing format in place of the layout; the tiled one has a float zero point."""
    packing: Any = getattr(given, "int4_packing_format", getattr(given, "packing_format", None))
    name = str(getattr(packing, "name", packing)).upper()
    if name != _TILED:
        raise ConfigError(
            f"Int4WeightOnlyConfig(version=2) with the packing format {name}, which is not the tinygemm kernels'.",
            allowed=_TILED,
            mend=f"use wb.Int4WeightOnlyConfig(group_size={given.group_size!r})",
        )
    algorithm: Any = getattr(given, "int4_choose_qparams_algorithm", None)
    hqq = str(getattr(algorithm, "name", algorithm)).upper() == "HQQ" or getattr(given, "use_hqq", False)
    return Int4WeightOnlyConfig(
        group_size=given.group_size,
        use_hqq=hqq,
        zero_point_domain=ZeroPointDomain.FLOAT,
        set_inductor_config=getattr(given, "set_inductor_config", True),
    )


def _named(value: object) -> str:
    return f"{type(value).__name__} {value!r:.60}"
