"""Writes workbench/demo_model/calibration.txt: excerpts of the pages that the demo model was trained on.

    python scripts/make_calibration_text.py [--docs DIR] [--out FILE]

Many pages, a few paragraphs of each: moments of a layer's input are the truer the more kinds of text they come from.
None of it is in the held-out text, on which calibrated weights are measured. The choice depends on file names only.
"""

import argparse
import hashlib
from pathlib import Path

from demo_text import gather

OUT = Path(__file__).parents[1] / "workbench" / "demo_model" / "calibration.txt"
PAGES = 160
CHARACTERS = 560  # of an excerpt, at least, up to the end of a paragraph
LEAST_PAGE = 4_000
PART = 1 / 3  # of a page that is left out before an excerpt begins: titles and synopses are all alike


def excerpt(page: str) -> str:
    """Some whole paragraphs from about a third into a page."""
    start = page.index("\n\n", round(PART * len(page))) + 2
    end = page.find("\n\n", start + CHARACTERS)
    return page[start : end if end >= 0 else len(page)].strip("\n")


def calibration_text(documents: dict[str, str], held_out: str) -> str:
    """The excerpts of as many pages as are wanted, in the order of the pages' names, without held-out paragraphs."""
    unwanted = {" ".join(paragraph.split()) for paragraph in held_out.split("\n\n")}
    pages = [name for name, text in documents.items() if name.endswith(".rst.txt") and len(text) >= LEAST_PAGE]
    chosen = sorted(pages, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:PAGES]
    paragraphs = [part for name in sorted(chosen) for part in excerpt(documents[name]).split("\n\n")]
    return "\n\n".join(part for part in paragraphs if " ".join(part.split()) not in unwanted) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=Path, help="folder of .rst.txt files (found where Debian puts it)")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    gathered = gather(arguments.docs)
    text = calibration_text(gathered.training, gathered.evaluation)
    arguments.out.write_text(text, encoding="utf-8", newline="\n")
    print(f"wrote {len(text.encode()):,} bytes to {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
