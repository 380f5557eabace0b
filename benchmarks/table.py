"""What a benchmark found, as a table in Markdown."""

import os
import platform
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from benchmarks.scenarios import Figure


class Results(Struct):
    """The figures of all rounds, by row and server; `others` is how many cores other programs used meanwhile."""

    names: tuple[str, ...]
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    others: list[float] = field(default_factory=list)
    rounds: int = 0

    def add(self, name: str, figure: Figure) -> None:
        """One more figure of a server."""
        self.units[figure.row] = figure.unit
        self.rows.setdefault(figure.row, {}).setdefault(name, []).append(figure.value)


def table(results: Results) -> str:
    """The table, what was wrong, and on which machine it was so."""
    lines = [["", "", *results.names, "ratio"]]
    lines += [[row, results.units[row], *_cells(results, row)] for row in results.rows]
    return "\n".join(("", *_drawn(lines), "", *_notes(results)))


def _cells(results: Results, row: str) -> Iterator[str]:
    """The medians, and the median of the rounds' ratios with their range."""
    values = [results.rows[row].get(name, []) for name in results.names]
    yield from (_figure(statistics.median(series)) if series else "-" for series in values)
    ratios = [ours / floor for ours, floor in zip(*values, strict=False) if floor > 0]
    if not ratios:
        yield "-"
    else:
        spread = f" ({min(ratios):.2f}..{max(ratios):.2f})" if len(ratios) > 1 else ""
        yield f"{statistics.median(ratios):.2f}{spread}"


def _figure(value: float) -> str:
    """About three digits of it."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _drawn(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for place, line in enumerate(lines):
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        if place == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def _notes(results: Results) -> Iterator[str]:
    yield f"Rounds: {results.rounds}. {_machine()}."
    if results.others:
        average, most = statistics.fmean(results.others), max(results.others)
        yield f"Other programs used {average:.2f} cores on average, {most:.2f} at most: over 0.2, only ratios count."
    yield from (f"WRONG, {number} times: {what}" for what, number in results.wrong.most_common())
    yield "Every answer was right." if not results.wrong else "Not every answer was right."


def _machine() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
