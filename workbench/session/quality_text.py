"""The text that quality is measured on: where it comes from, its tokens, and the windows that are cut from it."""

from __future__ import annotations

import hashlib
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workbench.calibration_text import check_text, read_text
from workbench.demo import demo_eval_text
from workbench.errors import ConfigError
from workbench.measure.quality import text_ids, token_windows

MAX_CHARACTERS = 8 * 2**20  # wikitext's test set has 1.3 million, and a full measurement of it some 150 windows of 2048
WINDOWS = (512, 2048)
DEMO_ORIGIN = "the demo model's held-out text"


@dataclass(frozen=True)
class Windows:
    """What is measured of a text.

    Attributes:
        parts: Tokens of each window, int64 [2..size], in the order of the text.
        size: Tokens of a window.
        available: Windows that the whole text has.
        tokens: Tokens of the whole text.
        notes: What a person must know.
    """

    parts: tuple[Tensor, ...]
    size: int
    available: int
    tokens: int
    notes: tuple[str, ...] = ()


class QualityText:
    """A text of bounded length, and its tokens once they are known.

    Attributes:
        text: The whole text.
        origin: Where it comes from, or "" when there is none.
        path: The file that it was read from, or None.
        stamp: Stands for the text.

    Args:
        text: The text.
        origin: Where it comes from.
        path: The file that it was read from, or None.

    Raises:
        ConfigError: when it is too long, or a character of it is half a surrogate pair.
    """

    def __init__(self, text: str = "", origin: str = "", path: Path | None = None) -> None:
        check_text(text)
        if len(text) > MAX_CHARACTERS:
            cut = f"head -c {MAX_CHARACTERS // 2} {shlex.quote(str(path))} > part.txt" if path else "paste less of it"
            raise ConfigError(
                f"The text has {len(text):,} characters.",
                allowed=f"up to {MAX_CHARACTERS:,}, of which the first windows are measured",
                mend=f"cut it: {cut}",
            )
        self.text, self.origin, self.path = text, origin if text.strip() else "", path
        self.stamp = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
        self._ids: Tensor | None = None
        self._reading = threading.Lock()

    @classmethod
    def demo(cls) -> QualityText:
        """Return the demo model's own text, which it was not trained on."""
        return cls(demo_eval_text(), DEMO_ORIGIN)

    @classmethod
    def of_file(cls, path: Path | str) -> QualityText:
        """Read a file.

        Raises:
            ConfigError: when there is no such file, it is blank or too large, or it is not in UTF-8.
        """
        text = read_text(path)
        if not text.strip():
            raise ConfigError(f"{str(path)!r} holds no word.", mend="name a file with some pages of text")
        return cls(text, str(path), Path(path))

    def check(self) -> None:
        """Refuse a text without a word.

        Raises:
            ConfigError: with the mend.
        """
        if not self.text.strip():
            raise ConfigError(
                "There is no text to measure on.",
                mend="paste some pages, or name a file, for instance wikitext's test set",
            )

    def ids(self, tokenizer: Callable[[], Any]) -> Tensor:
        """Return the tokens, int64 [T]; the first call on a text takes up to seconds.

        Raises:
            ConfigError: when the text is blank or shorter than 2 tokens, or there is no tokenizer.
            ModelError: when the tokenizer is damaged.
        """
        self.check()
        with self._reading:
            if self._ids is None:
                self._ids = text_ids(self.text, tokenizer())
            return self._ids


def windows_of(ids: Tensor, model: nn.Module, size: int, count: int | None) -> Windows:
    """Cut the first windows out of a text, as long as the model takes them.

    Args:
        ids: int64 [T], at least 2 tokens.
        model: What is measured.
        size: Tokens of a window that are wanted.
        count: Windows that are wanted; None is all.
    """
    notes = []
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(most, int) and 2 <= most < size:
        notes.append(f"windows of {most:,} tokens instead of {size:,}: the model has no more positions")
        size = most
    parts = token_windows(ids, size)
    if len(parts) == 1:
        notes.append(f"{len(ids):,} tokens fill one window: a longer text gives an interval")
    chosen = parts if count is None else parts[:count]
    return Windows(tuple(chosen), size, len(parts), len(ids), tuple(notes))
