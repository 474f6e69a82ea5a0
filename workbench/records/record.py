"""What every record has: frozen plain fields, to and from JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Self

from workbench.errors import WorkbenchError


class Record:
    """Base of the frozen results: plain fields only, so that JSON holds all of them."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; nested records become dictionaries."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Build from `to_json`'s dictionary.

        Raises:
            WorkbenchError: when a field is missing or unknown.
        """
        types = {f.name: str(f.type) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not isinstance(data, dict):
            raise WorkbenchError(f"{cls.__name__} from {data!r}.", allowed="a dictionary, as to_json returns it")
        if set(data) != set(types):
            raise WorkbenchError(
                f"{cls.__name__}: fields {sorted(set(data) ^ set(types))} are missing or unknown.",
                allowed=", ".join(sorted(types)),
            )
        return cls(**{key: _from_plain(value, types[key]) for key, value in data.items()})


def _plain(value: Any) -> Any:
    """Bytes become base64 behind a key of their own; infinities and NaN become text."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_plain(value: Any, declared: str) -> Any:
    """Undo `_plain` for a field of the declared type."""
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(value, str) and declared.startswith("float"):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def write_json(path: Path | str, data: Any) -> None:
    """Write `data` as JSON with stable order and a final newline."""
    Path(path).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
