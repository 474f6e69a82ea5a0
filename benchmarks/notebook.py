"""The notebook in a real browser: kernel up to first paint, and slider move to new heatmap, on the demo model.

Needs the extra "test" (Playwright) and a Chromium. A move is timed in the page, from the input event of the group-size
slider to the exact heatmap painted on the canvas; each layer is moved through the other three group sizes for the
first time, with round-to-nearest and with HQQ, so that nothing comes out of a cache, and then once more out of it.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from benchmarks.report import Goal, Report, finish, options, time_row

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "browser"))

from notebook_page import NotebookPage, open_lab  # noqa: E402

PAINT = "kernel up to first exact heatmap"
SOLVERS = ("rtn", "hqq")
MOVE = """(to) => new Promise((resolve, reject) => {
    const slider = document.querySelector("[data-field=group_size] input");
    const canvas = document.querySelector(".wb-heat canvas");
    const badge = document.querySelector(".wb-heat .wb-badge");
    const before = Number(canvas.dataset.seq);
    const late = setTimeout(() => reject(new Error("no new heatmap within 20 s")), 20000);
    const observer = new MutationObserver(() => {
        if (Number(canvas.dataset.seq) <= before || badge.textContent !== "exact") return;
        observer.disconnect();
        clearTimeout(late);
        requestAnimationFrame(() => resolve(performance.now() - start));
    });
    observer.observe(canvas, {attributes: true});
    observer.observe(badge, {childList: true, characterData: true, subtree: true});
    slider.value = to;
    const start = performance.now();
    slider.dispatchEvent(new Event("input", {bubbles: true}));
})"""


def first_paint_s(lab: NotebookPage) -> float:
    """Seconds from a kernel that answers to the first exact heatmap, imports and model included."""
    lab.open_notebook(ROOT / "notebooks" / "01_workbench.ipynb")
    lab.collapse_sidebar()
    start = time.perf_counter()
    lab.run_all(wait=False)
    lab.page.wait_for_function("() => document.querySelector('.wb-heat canvas')?.dataset.seq > 0", polling=20)
    return time.perf_counter() - start


def moves_s(lab: NotebookPage, layer: str) -> list[float]:
    """Seconds of each of eight slider moves on a layer, through all four group sizes and back."""
    lab.run_code(f"app.session.select([{layer!r}]); app.wait()")
    lab.page.wait_for_function("name => document.querySelector('.wb-heat .wb-title').textContent === name", arg=layer)
    lab.page.wait_for_timeout(150)
    return [float(lab.page.evaluate(MOVE, to)) / 1e3 for to in (0, 2, 3, 1, 0, 2, 3, 1)]


def measure(lab: NotebookPage, layers: int, paints: int = 3) -> dict[str, list[float]]:
    """Return the seconds of each measurement, by what was done."""
    found = {PAINT: [first_paint_s(lab) for _ in range(paints)]}
    lab.wait_until_run()
    names = lab.run_code("print('\\n'.join(r.name for r in app.session.coverage.int4_rows))").split()
    chosen = names[:: max(1, len(names) // layers)][:layers]
    for solver in SOLVERS:
        lab.run_code(f"app.session.configure(solver={solver!r}, group_size=64); app.wait()")
        moves = [moves_s(lab, name) for name in chosen]
        found[f"slider move, {solver}"] = [seconds for row in moves for seconds in row[:3]]
        found[f"slider move, {solver}, cached"] = [seconds for row in moves for seconds in row[4:]]
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time the notebook in a real browser, from a kernel that is up and from a slider's move.")
    parser.add_argument("--layers", type=int, default=8, help="layers that are moved (default 8)")
    parser.add_argument("--paints", type=int, default=3, help="kernels whose first paint is timed (default 3)")
    args = parser.parse_args(argv)
    with open_lab(1440, 1000) as lab:
        found = measure(lab, args.layers, args.paints)
    rows = [{"what": what, **time_row(seconds)} for what, seconds in found.items()]
    goals = [Goal(f"{PAINT}, s", round(statistics.median(found[PAINT]), 3), 5, "at most")]
    for solver in SOLVERS:
        median = statistics.median(found[f"slider move, {solver}"])
        goals.append(Goal(f"slider move to new exact heatmap, {solver}, s", round(median, 4), 0.3, "at most"))
    finish(Report("notebook", {"layers": args.layers}, rows, goals), args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
