"""The speed of int4, of each of its paths and of dense by batch size, measured live on this machine."""

from __future__ import annotations

from typing import cast

from workbench.jobs import Job
from workbench.measure.speed import DTYPES, crossover, speedups
from workbench.measure.speed_report import faster_again
from workbench.records.speed import SpeedPoint
from workbench.session import Event, Session
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Fact, Facts, Tone
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.line_chart import LineChart
from workbench.widgets.panel import Panel, row
from workbench.widgets.speed_chart import View, speed_chart

BATCH_SIZES = (1, 4, 16, 64, 256, 1024)
_BUDGET_S = 0.15  # seconds of timed calls for each point: half of what the command takes
_VIEWS: tuple[tuple[View, str], ...] = (("speedup", "speedup"), ("time", "time"), ("share", "roofline"))
_VIEW = Field(
    "view", "Chart", "segments", _VIEWS, "Dense time over each time, the times, or how near they are to the roofline"
)
_DTYPE = Field(
    "dtype", "Activations", "segments", tuple((name, name) for name in DTYPES), "dtype of the activations and of dense"
)
_COMPILED = Field(
    "compiled", "torch.compile too", "switch", (), "Measures int4 and dense compiled too: takes half a minute more"
)


class SpeedPanel(Panel):
    """Controls, chart and verdict; points appear as they are measured."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        values: dict[str, Value] = {"view": "speedup", "dtype": "bfloat16", "compiled": False}
        self.form = Form((_VIEW, _DTYPE, _COMPILED), values, on_error=on_error, inline=True)
        self.chart = LineChart(on_error=on_error, height=320)
        self.commands = Commands(
            [
                Command("measure", "Measure speed", "Time every path and dense at each batch size", "primary"),
                Command("stop", "Stop measuring", "Keep the points measured so far", enabled=False),
            ],
            on_error=on_error,
        )
        self.verdict = Facts(on_error=on_error)
        controls = row(self.form, self.commands, grow=self.form)
        super().__init__(session, on_error, [controls, self.chart, self.verdict])
        self._job: Job | None = None
        self._show()
        self.form.on_change(self._changed)
        self.commands.on_command(self._run)

    def on_event(self, event: Event) -> None:
        """Add points as soon as they are measured."""
        if event.kind == "speed":
            self._show()
        elif event.kind == "job" and event.data.label.startswith("Speed of"):
            self._follow(event.data)

    def _follow(self, job: Job) -> None:
        begins = job.state == "running" and self._job is not job
        self._job = job
        turns = self.chart.busy == job.finished
        if turns:
            self.chart.busy = not job.finished
            self.commands.enable(measure=job.finished, stop=not job.finished)
        if begins or turns:
            self._show()  # without the points of the run before

    def _changed(self, field: str, value: Value) -> None:
        if field != "compiled":
            self._show()

    def _run(self, command: str) -> str:
        if command == "stop":
            if self._job is not None:
                self._job.cancel()
            return "stopping at the next call"
        values = self.form.values
        self.session.speed.measure(
            batch_sizes=BATCH_SIZES, dtypes=[values["dtype"]], compiled=values["compiled"], budget_s=_BUDGET_S
        )
        return ""

    def _show(self) -> None:
        device = self._choose_device()
        dtype, view = str(self.form.values["dtype"]), cast(View, self.form.values["view"])
        points = [p for p in self.session.speed.points if p.device == device and p.dtype == dtype]
        empty, nothing = (
            "Press Measure speed: int4, its paths and dense are timed on this machine.",
            "Not measured yet.",
        )
        if self.chart.busy:
            empty, nothing = "The first points come in a moment.", "Measuring…"
        elif self.session.speed.points and not points:
            empty = f"{dtype} is not measured yet: press Measure speed."
        self.chart.show(speed_chart(points, view, dtype=dtype, x_ticks=BATCH_SIZES, empty=empty))
        self.verdict.show(
            self._facts(points, device, dtype),
            verdict=said(points, dtype) if points else nothing,
            notes=self.session.speed.notes if points else [],
        )

    def _choose_device(self) -> str:
        """Return the device on show; a control to change it is there once two were measured."""
        devices = list(dict.fromkeys(point.device for point in self.session.speed.points)) or ["cpu"]
        device = str(self.form.values.get("device", devices[0]))
        if len(devices) > 1 and "device" not in self.form.values:
            choice = Field("device", "Device", "segments", tuple((name, name) for name in devices))
            self.form.set_fields((_VIEW, choice, _DTYPE, _COMPILED), {**self.form.values, "device": device})
        return device if device in devices else devices[0]

    def _facts(self, points: list[SpeedPoint], device: str, dtype: str) -> list[Fact]:
        ratios = speedups(points, dtype)
        roof = self.session.speed.rooflines.get(device)
        facts = []
        for batch in sorted({min(ratios), max(ratios)}) if ratios else []:
            ours = next(point for point in points if point.batch == batch and point.name == "int4")
            tone: Tone = "good" if ratios[batch] >= 1 else "warn"
            facts.append(Fact(f"Batch {batch}", f"{ratios[batch]:.2f}× dense", f"by {ours.chosen_path}", tone))
        if points and roof is not None and dtype in roof.matmul_gflop_per_s:
            facts.append(Fact("Memory", f"{roof.bandwidth_gb_per_s:.3g} GB/s", "copying or reading, at best"))
            rate = roof.matmul_gflop_per_s[dtype]
            text = f"{rate / 1e3:.3g} TFLOP/s" if rate >= 1e3 else f"{rate:.3g} GFLOP/s"
            facts.append(Fact("Matmul", text, f"{dtype}, at best"))
        return facts


def said(points: list[SpeedPoint], dtype: str) -> str:
    """Say in a line where int4 is faster than dense."""
    ratios = speedups(points, dtype)
    if not ratios:
        return "Without dense there is nothing to compare with."
    first, last, cross = min(ratios), max(ratios), crossover(ratios)
    if cross is None:
        return f"int4 is at least as fast as dense {dtype} at every batch size measured, {first} to {last}."
    again = ", ".join(map(str, faster_again(ratios)))
    if cross == first:
        return f"dense {dtype} is faster from batch {first} on{f', but not at {again}' if again else ''}."
    return (
        f"int4 is faster than dense {dtype} up to a batch of about {cross:.0f}{f', and at {again}' if again else ''}."
    )
