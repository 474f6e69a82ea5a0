"""The text of the demo model: Python's own documentation and docstrings, split into training and held out.

Both may be redistributed under the PSF licence. The split is by whole file and depends on file names only, so
that it is the same on every machine with the same documentation package.
"""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS_GLOB = "/usr/share/doc/python3*/html/_sources"
SKIPPED_MODULES = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "__pycache__",
}
EVAL_SECTIONS = {"library", "howto", "tutorial", "reference", "faq", "c-api", "extending"}
EVAL_CHARACTERS = 180_000
EVAL_FILE_CHARACTERS = (2_000, 30_000)
MINIMUM_PARAGRAPH = 60


@dataclass(frozen=True)
class DemoText:
    """Training documents and held-out documents, by name."""

    training: dict[str, str]
    held_out: dict[str, str]
    docs: Path

    @property
    def evaluation(self) -> str:
        """The held-out documents as one text, in the order of their names."""
        return "\n\n\n".join(text.strip("\n") for _, text in sorted(self.held_out.items())) + "\n"


def find_docs(docs: Path | None) -> Path:
    """The folder of the documentation's sources: `docs` if given, else the newest that Debian installed.

    Raises:
        SystemExit: no such folder, or no `.rst.txt` file in it; the message names the mend.
    """
    mend = "install it with: apt-get install python3-doc   or name a folder of .rst.txt files with --docs DIR"
    if docs is None:
        found = sorted(Path("/").glob(DOCS_GLOB.lstrip("/")), key=lambda path: _version(path.parts[4]))
        if not found:
            raise SystemExit(f"no Python documentation at {DOCS_GLOB}; {mend}")
        docs = found[-1]
    if not any(docs.rglob("*.rst.txt")):
        raise SystemExit(f"no .rst.txt file under {docs}; {mend}")
    return docs


def gather(docs: Path | None = None) -> DemoText:
    """Reads the documentation and the standard library's docstrings, splits off the held-out files.

    A paragraph that occurs twice is kept once, and one of the held-out files is dropped from the training
    text: no paragraph of 60 characters or more that is evaluated was seen in training.
    """
    docs = find_docs(docs)
    documents = dict(_documentation(docs))
    held_out = {name: documents.pop(name) for name in _held_out_names(documents)}
    documents |= dict(_docstrings(Path(sysconfig.get_path("stdlib"))))
    seen = {_key(paragraph) for text in held_out.values() for paragraph in text.split("\n\n")}
    training = {name: _without_repeats(text, seen) for name, text in sorted(documents.items())}
    return DemoText({name: text for name, text in training.items() if text.strip()}, held_out, docs)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", name))


def _documentation(docs: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(docs.rglob("*.rst.txt")):
        name = path.relative_to(docs).as_posix()
        if not name.startswith("includes/"):
            yield name, path.read_text(encoding="utf-8").replace("\r\n", "\n")


def _held_out_names(documents: dict[str, str]) -> list[str]:
    """Whole files of moderate length, in the order of their names' SHA-256, up to enough characters."""
    low, high = EVAL_FILE_CHARACTERS
    names = [
        name for name, text in documents.items() if name.split("/")[0] in EVAL_SECTIONS and low <= len(text) <= high
    ]
    chosen, characters = [], 0
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if characters >= EVAL_CHARACTERS:
            break
        chosen.append(name)
        characters += len(documents[name])
    return chosen


def _docstrings(stdlib: Path) -> Iterator[tuple[str, str]]:
    """One document per module: its docstring, then each class or function line with its docstring."""
    for path in sorted(stdlib.rglob("*.py")):
        parts = path.relative_to(stdlib).parts
        if SKIPPED_MODULES.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        pieces = [piece for node in ast.walk(tree) if (piece := _piece(node))]
        if pieces:
            yield "stdlib/" + "/".join(parts), "\n\n".join(pieces) + "\n"


def _piece(node: ast.AST) -> str:
    if isinstance(node, ast.Module):
        return ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            head = (
                f"class {node.name}:"
                if isinstance(node, ast.ClassDef)
                else f"def {node.name}({ast.unparse(node.args)}):"
            )
            return f"{head}\n" + "\n".join(f"    {line}".rstrip() for line in docstring.splitlines())
    return ""


def _without_repeats(text: str, seen: set[str]) -> str:
    kept = []
    for paragraph in text.split("\n\n"):
        key = _key(paragraph)
        if len(key) >= MINIMUM_PARAGRAPH:
            if key in seen:
                continue
            seen.add(key)
        kept.append(paragraph)
    return "\n\n".join(kept)


def _key(paragraph: str) -> str:
    return " ".join(paragraph.split())
