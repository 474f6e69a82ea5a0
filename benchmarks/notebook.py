"""The notebook in a real browser: kernel up to first paint, and slider move to new heatmap, on the demo model.

    python benchmarks/notebook.py [--layers 8] [--json FILE]

Needs the extra "test" (Playwright) and a Chromium. A move is timed in the page, from the key press on the group-size
slider to the exact heatmap painted on the canvas; each layer is moved through all four group sizes for the first
time, with round-to-nearest and with HQQ, so that nothing comes out of a cache, and then once more out of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

from notebook_page import CHROMIUM_FLAGS, LabServer, NotebookPage, chromium_path  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from workbench.measure.speed import environment  # noqa: E402
from workbench.records import write_json  # noqa: E402

MOVE = """([from, to]) => new Promise((resolve, reject) => {
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


def moves_ms(lab: NotebookPage, layer: str) -> list[float]:
    """Milliseconds of each of eight slider moves on a layer, through all four group sizes and back."""
    lab.run_code(f"app.session.select([{layer!r}]); app.wait()")
    lab.page.wait_for_function("name => document.querySelector('.wb-heat .wb-title').textContent === name", arg=layer)
    lab.page.wait_for_timeout(150)
    return [float(lab.page.evaluate(MOVE, [0, to])) for to in (0, 2, 3, 1, 0, 2, 3, 1)]


def measure(layers: int) -> dict[str, Any]:
    """Run both measurements in one browser."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        path = chromium_path(playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        server = LabServer.start(Path(folder))
        try:
            lab = NotebookPage(browser.new_page(viewport={"width": 1440, "height": 1000}), server)
            paints = [first_paint_s(lab) for _ in range(3)]
            lab.wait_until_run()
            names = lab.run_code("print('\\n'.join(r.name for r in app.session.coverage.int4_rows))").split()
            chosen = names[:: max(1, len(names) // layers)][:layers]
            found: dict[str, Any] = {"first_paint_s": paints, "layers": chosen}
            for solver in ("rtn", "hqq"):
                lab.run_code(f"app.session.configure(use_hqq={solver == 'hqq'}, group_size=64); app.wait()")
                moves = [moves_ms(lab, name) for name in chosen]
                found[f"{solver}_first_ms"] = [ms for row in moves for ms in row[:3]]
                found[f"{solver}_again_ms"] = [ms for row in moves for ms in row[4:]]
            assert not lab.errors, lab.errors
            return found
        finally:
            server.stop()
            browser.close()


def main() -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=8, help="layers that are moved")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    arguments = parser.parse_args()
    found = {"environment": vars(environment("cpu")), **measure(arguments.layers)}
    print(f"{found['environment']}")
    paints = found["first_paint_s"]
    print(f"kernel up to first exact heatmap: median {statistics.median(paints):.2f} s of {len(paints)} (goal: 5 s)")
    for name, what in (("first", "first time"), ("again", "out of the cache")):
        for solver in ("rtn", "hqq"):
            times = sorted(found[f"{solver}_{name}_ms"])
            print(
                f"slider move to exact heatmap, {solver}, {what}: median {statistics.median(times):.0f} ms, "
                f"90 % within {times[int(0.9 * (len(times) - 1))]:.0f} ms, slowest {times[-1]:.0f} ms "
                f"({len(times)} moves; goal: 300 ms)"
            )
    if arguments.json:
        write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
