"""The app in a real browser: from an input event to the painted pixels, on large layers and on a long table.

Needs the extra "test" (Playwright) and a Chromium. Times are taken in the page: a slider's move and a click on a layer
until the first answer (sampled rows) and until the exact one are painted, and a filter's key until the rows are there.
Memory and bytes over the wire are those of the kernel over many changes of the group size.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.report import Goal, Report, Row, finish, options, time_row

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "browser"))

from notebook_page import NotebookPage, open_lab  # noqa: E402

# Watches the heatmap: resolves to [ms to the first new painting, ms to the exact one] after `act`.
WATCH = """([act, to]) => new Promise((resolve, reject) => {
    const canvas = document.querySelector(".wb-heat canvas");
    const badge = document.querySelector(".wb-heat .wb-badge");
    const before = Number(canvas.dataset.seq);
    const late = setTimeout(() => reject(new Error("no exact heatmap within 60 s")), 60000);
    let first = null;
    const observer = new MutationObserver(() => {
        if (Number(canvas.dataset.seq) <= before) return;
        const exact = badge.textContent === "exact";
        requestAnimationFrame(() => {
            first ??= performance.now() - start;
            if (!exact || observer.done) return;
            observer.done = true;
            observer.disconnect();
            clearTimeout(late);
            resolve([first, performance.now() - start]);
        });
    });
    observer.observe(canvas, {attributes: true});
    observer.observe(badge, {childList: true, characterData: true, subtree: true});
    const start = performance.now();
    if (act === "slider") {
        const slider = document.querySelector("[data-field=group_size] input");
        slider.value = to;
        slider.dispatchEvent(new Event("input", {bubbles: true}));
    } else {
        const row = document.querySelector(`.wb-layers [data-name='${to}']`);
        row.dispatchEvent(new MouseEvent("mousedown", {bubbles: true, button: 0}));
    }
})"""
FILTER = """(text) => new Promise((resolve) => {
    const box = document.querySelector(".wb-layers input[type=search]");
    const body = document.querySelector(".wb-layers .wb-body");
    const observer = new MutationObserver(() => {
        observer.disconnect();
        requestAnimationFrame(() => resolve(performance.now() - start));
    });
    observer.observe(body, {childList: true, subtree: true, attributes: true, characterData: true});
    const start = performance.now();
    box.value = text;
    box.dispatchEvent(new Event("input", {bubbles: true}));
})"""
FIRST_ROW = """() => {
    delete window.firstRow;
    const observer = new MutationObserver(() => {
        if (!document.querySelector(".wb-layers [data-name]")) return;
        observer.disconnect();
        requestAnimationFrame(() => { window.firstRow = Date.now(); });
    });
    observer.observe(document.body, {childList: true, subtree: true});
}"""
PAINTS = {"table": "verdict and table", "heatmap": "first heatmap", "exact": "exact heatmap"}
FIRST_PAINTS = """() => {
    const painted = window.painted = {};
    const there = {
        table: () => document.querySelector(".wb-layers [data-name]") && document.querySelector(".wb-facts"),
        heatmap: () => document.querySelector(".wb-heat canvas")?.dataset.seq > 0,
        exact: () => there.heatmap() && document.querySelector(".wb-heat .wb-badge").textContent === "exact",
    };
    const observer = new MutationObserver(() => {
        const now = Object.keys(there).filter((what) => !(what in painted) && there[what]());
        if (now.length) requestAnimationFrame(() => now.forEach((what) => { painted[what] ??= Date.now(); }));
    });
    observer.observe(document.body, {childList: true, subtree: true, attributes: true, characterData: true});
}"""
COUNT = """
import json, os, resource
sent = [0]
def counted(send):
    def wrapped(msg, buffers=None):
        sent[0] += len(json.dumps(msg, default=str)) + sum(memoryview(b).nbytes for b in buffers or ())
        return send(msg, buffers=buffers)
    return wrapped
from workbench.widgets.component import Component
Component._send = (lambda original: lambda self, msg, buffers=None: counted(lambda m, buffers=None: original(self, m, buffers=buffers))(msg, buffers))(Component._send)
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
"""  # noqa: E501
CHANGES = """
import gc
def change(count):
    for number in range(count):
        app.session.configure(group_size=(32, 64, 128, 256)[number % 4], scope="all")
        app.wait()
change(40); gc.collect(); sent[0] = 0; before = rss()
change({count}); gc.collect()
print(json.dumps([rss() - before, sent[0] / {count}]))
"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time the app in a real browser, from an input event to painted pixels.")
    parser.add_argument("--side", type=int, default=4096, help="rows and columns of the large layers (default 4096)")
    parser.add_argument(
        "--blocks", type=int, default=215, help="blocks of the long table, of seven layers (default 215)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of four moves for each solver (default 3)")
    parser.add_argument("--changes", type=int, default=1000, help="changes whose memory is measured (default 1000)")
    args = parser.parse_args(argv)
    found: dict[str, list[float]] = {}
    with open_lab(1440, 1000) as lab, tempfile.TemporaryDirectory() as folder:
        found |= _demo(lab)
        grown, wire = _memory(lab, args.changes)
        found |= _large(lab, _llama(Path(folder) / "large", args.side, 1), args.rounds)
        found |= _long(lab, _llama(Path(folder) / "long", 64, args.blocks))
    rows: list[Row] = [
        {"what": what, **time_row(seconds), "p95_ms": round(1e3 * _p95(seconds), 1)} for what, seconds in found.items()
    ]
    settings = {key: getattr(args, key) for key in ("side", "blocks", "rounds", "changes")}
    goals = [*_goals(found), *_memory_goals(grown, wire, args.changes)]
    finish(Report("ui", settings, rows, goals), args.json)
    return 0


def _goals(found: dict[str, list[float]]) -> Iterator[Goal]:
    limits = {
        "move to preview, rtn": 0.12,
        "move to exact, rtn": 0.6,
        "move to exact, hqq": 1.5,
        "another layer to preview": 0.2,
        "long table, first paint": 1.0,
        "long table, filter": 0.1,
        "demo model, kernel up to first heatmap": 3.0,
    }
    for what, limit in limits.items():
        yield Goal(f"{what}, median s", round(statistics.median(found[what]), 4), limit, "at most")
    yield Goal(
        "move to preview, rtn, 95th percentile s", round(_p95(found["move to preview, rtn"]), 4), 0.25, "at most"
    )


def _memory_goals(grown: float, wire: float, changes: int) -> Iterator[Goal]:
    yield Goal(f"kernel's memory after {changes} changes, MiB more", round(grown / 2**20, 2), 50, "at most")
    yield Goal("over the wire for each change, KiB", round(wire / 2**10, 2), 100, "at most")


def _p95(seconds: list[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def _demo(lab: NotebookPage) -> dict[str, list[float]]:
    """Seconds from a kernel that answers to what is painted of the demo model, and leave that app open.

    Imports are in it. Its layers are small: the first heatmap of them is the exact one.
    """
    found: dict[str, list[float]] = {}
    for _ in range(3):
        lab.open_notebook(["import workbench as wb\napp = wb.Workbench()\napp"])
        lab.page.evaluate(FIRST_PAINTS)
        start = time.time()
        lab.run_all(wait=False)
        lab.page.wait_for_function("() => window.painted.exact", polling=20)
        for what, at in lab.page.evaluate("window.painted").items():
            found.setdefault(f"demo model, kernel up to {PAINTS[what]}", []).append(at / 1e3 - start)
    lab.wait_until_run()
    return found


def _memory(lab: NotebookPage, changes: int) -> tuple[float, float]:
    """Bytes that the kernel grows by over many changes, and bytes sent to the page for each."""
    lab.run_code(COUNT)
    grown, wire = json.loads(lab.run_code(CHANGES.replace("{count}", str(changes)), timeout_s=20 + 2 * changes))
    return float(grown), float(wire)


def _large(lab: NotebookPage, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds to previews and exact maps of large layers; the first round of each solver warms up."""
    _open(lab, folder)
    names = lab.run_code("print('\\n'.join(r.name for r in app.session.coverage.int4_rows))").split()
    found: dict[str, list[float]] = {}
    for solver in ("rtn", "hqq"):
        lab.run_code(f"app.session.configure(solver={solver!r}, group_size=64); app.wait()", timeout_s=60)
        for number in range(rounds + 1):
            lab.run_code(f"app.session.select([{names[number % len(names)]!r}]); app.wait()", timeout_s=60)
            moves = [lab.page.evaluate(WATCH, ["slider", to]) for to in (0, 2, 3)]
            if number:
                found.setdefault(f"move to preview, {solver}", []).extend(first / 1e3 for first, _ in moves)
                found.setdefault(f"move to exact, {solver}", []).extend(exact / 1e3 for _, exact in moves)
    lab.run_code("app.session.configure(solver='rtn', group_size=128); app.wait()", timeout_s=60)
    clicks = [lab.page.evaluate(WATCH, ["click", name]) for name in names[::-1]]
    found["another layer to preview"] = [first / 1e3 for first, _ in clicks]
    found["another layer to exact"] = [exact / 1e3 for _, exact in clicks]
    return found


def _long(lab: NotebookPage, folder: Path) -> dict[str, list[float]]:
    """Seconds to the first rows of a long table, and to the rows of a filter."""
    paints = []
    for _ in range(3):
        made = f"import time\napp = wb.Workbench({str(folder)!r})\nmade = time.time()"
        lab.open_notebook(["import workbench as wb", made, "app.layers"])
        lab.page.evaluate(FIRST_ROW)
        lab.run_all(wait=False)
        lab.page.wait_for_function("() => window.firstRow !== undefined", polling=20, timeout=120_000)
        lab.wait_until_run()
        paints.append(float(lab.page.evaluate("window.firstRow")) / 1e3 - float(lab.run_code("print(made)")))
    filters = [float(lab.page.evaluate(FILTER, text)) / 1e3 for text in ("q_proj", "layers.7", "mlp !up", "")]
    return {"long table, first paint": paints, "long table, filter": filters}


def _open(lab: NotebookPage, folder: Path) -> None:
    lab.open_notebook([f"import workbench as wb\napp = wb.Workbench({str(folder)!r})\napp"])
    lab.run_all(timeout_s=180)
    lab.page.wait_for_function("() => document.querySelector('.wb-heat canvas')?.dataset.seq > 0", polling=20)
    lab.run_code("app.wait()", timeout_s=120)


def _llama(folder: Path, side: int, blocks: int) -> Path:
    """Save a random model whose layers are side x side, in bfloat16."""
    config = transformers.LlamaConfig(
        hidden_size=side,
        intermediate_size=side,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, side // 64),
        num_key_value_heads=max(1, side // 64),
        vocab_size=32,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with _quiet(), torch.device("cpu"):
        model: Any = transformers.LlamaForCausalLM(config)
        model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.enable_progress_bar()


if __name__ == "__main__":
    raise SystemExit(main())
