"""The speedup of int4 over dense by batch size, measured live on this machine."""

from __future__ import annotations

from workbench.measure.speed import crossover, environment, speedups
from workbench.records import SpeedPoint
from workbench.session import DEFAULT_BATCH_SIZES, Event, Session
from workbench.widgets.commands import Command, Commands
from workbench.widgets.component import ErrorHandler
from workbench.widgets.facts import Facts
from workbench.widgets.line_chart import Chart, LineChart, Series
from workbench.widgets.panel import Panel, row


class SpeedPanel(Panel):
    """Dense time over int4 time: above 1, int4 is faster."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.chart = LineChart(_chart(session, ()), on_error=on_error)
        self.commands = Commands(
            [Command("measure", "Measure speed", "Time int4 and dense at each batch size, a few seconds", "primary")],
            on_error=on_error,
        )
        self.verdict = Facts(on_error=on_error, notes=["Not measured yet."])
        super().__init__(session, on_error, [self.chart, row(self.commands, self.verdict, grow=self.verdict)])
        self.commands.on_command(self._run)

    def on_event(self, event: Event) -> None:
        """Add a point as soon as it is measured."""
        if event.kind == "speed":
            self.chart.show(_chart(self.session, self.session.speed))
            self._show_verdict()
        elif event.kind == "job" and event.data.label.startswith("Speed of"):
            self.chart.busy = not event.data.finished
            if event.data.state == "running" and not self.session.speed:
                self.chart.show(_chart(self.session, ()))

    def _run(self, command: str) -> str:
        self.session.measure_speed()
        return ""

    def _show_verdict(self) -> None:
        points = self.session.speed
        lines = []
        for device in dict.fromkeys(point.device for point in points):
            ratios = speedups(points, device=device)
            if ratios:
                lines.append(_verdict(device, ratios))
        if lines:
            self.verdict.notes = lines


def _verdict(device: str, ratios: dict[int, float]) -> str:
    first = min(ratios)
    cross = crossover(ratios)
    found = f"{device}: int4 is {ratios[first]:.2f}× dense bfloat16 at batch {first}"
    if cross is None:
        return f"{found}, and faster at every batch size measured so far (up to {max(ratios)})."
    return f"{found}; dense is faster from a batch of about {cross:.0f}."


def _chart(session: Session, points: list[SpeedPoint] | tuple[()]) -> Chart:
    series = tuple(
        _series(device, [point for point in points if point.device == device])
        for device in dict.fromkeys(point.device for point in points)
    )
    if points:
        shape, group = f"{points[0].n} × {points[0].k}", points[0].group_size
        where = environment(points[0].device)
        name = points[0].device_name
        subtitle = (
            f"{shape}, group size {group}, bfloat16 · {name}, {where.threads} threads, torch {where.torch_version}"
        )
    else:
        subtitle = "dense bfloat16 time over int4 time, same layer, same machine, calls in turn"
    return Chart(
        series=series,
        title="Speedup of int4 by batch size",
        subtitle=subtitle,
        x_label="batch size (rows of activations)",
        y_label="speedup over dense",
        y_suffix="×",
        reference=1.0,
        reference_label="dense bfloat16",
        x_ticks=tuple(float(batch) for batch in DEFAULT_BATCH_SIZES),
        empty="Press Measure speed: int4 and dense are timed on this machine.",
    )


def _series(device: str, points: list[SpeedPoint]) -> Series:
    dense = {point.batch: point for point in points if point.path == "dense"}
    line = Series(f"int4 on {device}")
    for point in points:
        base = dense.get(point.batch)
        if point.path != "int4" or base is None:
            continue
        detail = f"int4 {point.time_ms:.3g} ms, dense {base.time_ms:.3g} ms, {point.runs} runs"
        line = line.with_point(
            float(point.batch),
            base.time_ms / point.time_ms,
            base.p10_ms / point.p90_ms,
            base.p90_ms / point.p10_ms,
            detail,
        )
    return line
