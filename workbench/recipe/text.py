"""The text of a recipe file: JSON whose every value knows its line, and the form in which recipes are written.

The reader takes what the standard asks for and no more: no key twice, no NaN, nothing deep or huge enough to hurt.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError, WorkbenchError

MOST_BYTES = 4 * 2**20
MOST_DEPTH = 8
MOST_DIGITS = 40
Place = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(
    r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
    r"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z_.])"
    r"|(?:true|false|null)\b|[{}\[\]:,]"
)
_WORD = re.compile(r"[^\s,:{}\[\]]{1,24}|.", re.DOTALL)
_HINTS = (
    ("//", "JSON has no comments: delete it"),
    ("/*", "JSON has no comments: delete it"),
    ("#", "JSON has no comments: delete it"),
    ("'", "write text in double quotes, on one line"),
    ('"', "close the text with double quotes on the same line, and write \\ as \\\\"),
    ("True", "write true"),
    ("False", "write false"),
    ("None", "write null"),
    ("NaN", "write a number"),
    ("Infinity", "write a number"),
)


class Cursor:
    """Where in a recipe's JSON the reading stands; after an error, where it failed."""

    def __init__(self) -> None:
        self.place: list[str | int] = []

    @contextlib.contextmanager
    def at(self, key: str | int) -> Iterator[None]:
        """Read a member: when that raises, the cursor stays there."""
        self.place.append(key)
        yield
        self.place.pop()


@contextlib.contextmanager
def reading(where: Callable[[Place], str]) -> Iterator[Cursor]:
    """Say in every error where in the recipe its cause stands: `where` puts a place into words.

    Raises:
        WorkbenchError: what the reading raises, of the same class, with the place before it.
    """
    cursor = Cursor()
    try:
        yield cursor
    except WorkbenchError as error:
        said = f"{where(tuple(cursor.place))}: {error.what}"
        raise type(error)(said, allowed=error.allowed, mend=error.mend) from None


def dotted(place: Place) -> str:
    """Put a place into words where there are no lines: "recipe.rules[2].group_size"."""
    return "recipe" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)


@dataclass
class Document:
    """A JSON text that was read.

    Attributes:
        name: What to call it: its path.
        data: Its value.
        lines: Place → line, from 1, on which that value (for an object's member, its key) begins.
    """

    name: str
    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """Put a place into words: "recipe.json, line 7"."""
        while place not in self.lines:
            place = place[:-1]
        return f"{self.name}, line {self.lines[place]}"


def read_document(path: Path | str) -> Document:
    """Read a JSON file of at most `MOST_BYTES`.

    Raises:
        ConfigError: when it cannot be read, is too large or no JSON, with the line.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"The recipe {str(path)!r} cannot be read: {reason}.") from None
    if len(raw) > MOST_BYTES:
        raise ConfigError(f"The recipe {str(path)!r} is too large.", allowed=f"{MOST_BYTES // 2**20} MiB at most")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: no UTF-8 text.", mend="save the file as UTF-8") from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Read a JSON text.

    Raises:
        ConfigError: when it is no JSON, holds a key twice or is nested too deeply, with the line.
    """
    document = Document(name)
    reader = _Reader(text, document)
    document.data = reader.value(reader.token("a value"), ())
    if reader.token("the end") != "":
        raise reader.error("more text after the recipe's end", mend="keep one recipe in a file")
    return document


class _Reader:
    """Reads tokens one after the other and keeps count of the lines."""

    def __init__(self, text: str, document: Document) -> None:
        self._text, self._document = text, document
        self._end, self._line = 0, 1

    def error(self, what: str, **more: str) -> ConfigError:
        return ConfigError(f"{self._document.name}, line {self._line}: {what}.", **more)

    def token(self, due: str) -> str:
        """Return the next token, "" at the end of the text; `due` is what should stand there."""
        space = _SPACE.match(self._text, self._end)
        assert space is not None
        self._line += self._text.count("\n", self._end, space.end())
        found = _TOKEN.match(self._text, space.end())
        if found is None and space.end() < len(self._text):
            raise self._stray(space.end(), due)
        self._end = space.end() if found is None else found.end()
        return "" if found is None else found.group()

    def _stray(self, start: int, due: str) -> ConfigError:
        word = _WORD.match(self._text, start)
        hint = next((hint for sign, hint in _HINTS if self._text.startswith(sign, start)), "")
        found = word.group() if word else ""
        return self.error(f"this is not JSON: {found!r} where {due} is due", **({"mend": hint} if hint else {}))

    def _wrong(self, token: str, due: str, **more: str) -> ConfigError:
        found = f"{token:.40}" if token else "the end of the file"
        return self.error(f"this is not JSON: {found} where {due} is due", **more)

    def value(self, token: str, place: Place) -> Any:
        """Return the value that begins with a token."""
        self._document.lines.setdefault(place, self._line)
        if token and token in "{[":
            if len(place) >= MOST_DEPTH:
                raise self.error("nested too deeply", allowed=f"{MOST_DEPTH} levels at most")
            return self._object(place) if token == "{" else self._array(place)
        if token in ("", "}", "]", ":", ","):
            raise self._wrong(token, "a value")
        return self._text_of(token) if token[0] == '"' else self._plain(token)

    def _text_of(self, token: str) -> str:
        return str(json.loads(token))

    def _plain(self, token: str) -> Any:
        if token in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[token]
        if len(token) > MOST_DIGITS or abs(float(token)) == float("inf"):
            raise self.error(f"the number {token:.20}… is out of range")
        return json.loads(token)

    def _object(self, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        token = self.token("a key in double quotes or }")
        while token != "}":
            if token[:1] != '"':
                raise self._wrong(token, "a key in double quotes")
            key = self._text_of(token)
            if key in found:
                first = self._document.lines[(*place, key)]
                raise self.error(f"the key {key!r} stands in line {first} already", mend="keep one of the two")
            self._document.lines[(*place, key)] = self._line
            if (token := self.token("a colon")) != ":":
                raise self._wrong(token, "a colon")
            found[key] = self.value(self.token("a value"), (*place, key))
            token = self._next("}", "a key in double quotes")
        return found

    def _array(self, place: Place) -> list[Any]:
        found: list[Any] = []
        token = self.token("a value or ]")
        while token != "]":
            found.append(self.value(token, (*place, len(found))))
            token = self._next("]", "a value")
        return found

    def _next(self, closing: str, due: str) -> str:
        """Return the closing token, or the first of the next member."""
        token = self.token(f"a comma or {closing}")
        if token == closing:
            return token
        if token != ",":
            raise self._wrong(token, f"a comma or {closing}")
        token = self.token(due)
        if token == closing:
            raise self._wrong(token, due, mend="drop the comma before it")
        return token


def recipe_text(data: Mapping[str, Any]) -> str:
    """Write a recipe's JSON for people and for diffs: a line for each key, a line for each rule."""
    members = [f"  {json.dumps(key)}: {_listed(value)}" for key, value in data.items()]
    return "{\n" + ",\n".join(members) + "\n}\n"


def _listed(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"    {json.dumps(one)}" for one in value) + "\n  ]"
