"""Pieces of Markdown, from text that nobody checked: names of layers, notes, paths."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence

_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}


def front_matter(fields: Iterable[tuple[str, str | list[str]]]) -> str:
    """Return the block of YAML at the top of a card; texts that YAML could misread are quoted."""
    lines = ["---"]
    for name, value in fields:
        if isinstance(value, str):
            lines.append(f"{name}: {_scalar(value)}")
        else:
            lines += [f"{name}:", *(f"- {_scalar(one)}" for one in value)]
    return "\n".join([*lines, "---"])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; "" without rows. Cells are Markdown on one line."""
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(' '.join(one.split()) for one in line)} |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """Return a list of plain texts; "" for none."""
    return "\n".join(f"- {cell(line)}" for line in lines)


def details(summary: str, body: str) -> str:
    """Return a part that opens on a click."""
    return f"<details><summary>{html.escape(summary)}</summary>\n\n{body}\n\n</details>"


def fenced(text: str, kind: str) -> str:
    """Return a block of code; its fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}{kind}\n{text.strip()}\n{fence}"


def code(text: str) -> str:
    """Return a name in code type, on one line, as a cell of a table holds it."""
    flat = " ".join(text.split())
    return f"`{flat}`" if flat and not set(flat) & set("`<&|\\") else f"<code>{cell(text)}</code>"


def cell(text: str) -> str:
    """Return plain text on one line, in which nothing is markup."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS else json.dumps(text)
