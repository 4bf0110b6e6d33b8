"""The plot of the results: one panel for each case, one row for each framework, logarithmic."""

from __future__ import annotations

import math
from html import escape
from statistics import median
from typing import Any

from cases import CASES

PANELS = ["step", "log", "default", "validate", "predict", "clip", "bf16", "accumulate", "mnist"]
COLUMNS, WIDTH, ROW, LEFT, TOP, GAP = 3, 270, 19, 104, 76, 56
LOW, HIGH, TICKS = 0.5, 80, (0.5, 1, 2, 5, 10, 20, 50)
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #3d4451 }
.title { font-size: 19px; font-weight: 600; fill: #14181f } .note { fill: #6b7280 }
.case { font-size: 13px; font-weight: 600; fill: #14181f }
.tick { font-size: 10px; fill: #8a919e; text-anchor: middle } .name { text-anchor: end }
.value { font-size: 11px; fill: #6b7280 } .ours { fill: #c2410c; font-weight: 600 }
.grid { stroke: #e8eaee } .one { stroke: #14181f; stroke-width: 1.2 }
.dot { fill: #7b8ba5 } .range { stroke: #7b8ba5; stroke-width: 2; stroke-linecap: round; opacity: .55 }
.dot.ours { fill: #ea580c } .range.ours { stroke: #ea580c }
"""


def x_of(ratio: float) -> float:
    """Pixels from a panel's left edge."""
    ratio = min(max(ratio, LOW), HIGH)
    return (WIDTH - 34) * math.log(ratio / LOW) / math.log(HIGH / LOW)


def panel(case: str, rows: dict[str, Any], names: list[str], titles: dict[str, str], x: int, y: int) -> list[str]:
    height = ROW * len(names)
    parts = [f'<g transform="translate({x} {y})">', f'<text class="case" y="-10">{escape(CASES[case].title)}</text>']
    for tick in TICKS:
        kind, at = "one" if tick == 1 else "grid", x_of(tick)
        parts.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{height + 13}">{tick:g}</text>')
    for index, name in enumerate(names):
        middle, ours = ROW * index + ROW / 2, " ours" if name == "fulmen" else ""
        parts.append(f'<text class="name{ours}" x="-8" y="{middle + 4}">{titles[name]}</text>')
        values = rows.get(name, {}).get("ratios")
        if not values:
            parts.append(f'<text class="value" x="{x_of(1) + 8:.1f}" y="{middle + 4}">none</text>')
            continue
        low, mid, high = x_of(min(values)), x_of(median(values)), x_of(max(values))
        parts.append(f'<line class="range{ours}" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
        parts.append(f'<circle class="dot{ours}" cx="{mid:.1f}" cy="{middle}" r="4.5"/>')
        value = f"{median(values):.2f}" if median(values) < 10 else f"{median(values):.0f}"
        parts.append(f'<text class="value{ours}" x="{high + 9:.1f}" y="{middle + 4}">{value}</text>')
    return [*parts, "</g>"]


def draw(results: dict[str, Any], titles: dict[str, str]) -> str:
    """The whole SVG."""
    names = [name for name in titles if name != "raw" and name in results["versions"]]
    cases = [case for case in PANELS if case in results["cases"]]
    columns = max(1, min(COLUMNS, len(cases)))
    tall = ROW * len(names) + GAP
    width = columns * (LEFT + WIDTH) + 24
    height = TOP + math.ceil(len(cases) / columns) * tall + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="Cost of a step as a ratio to a hand-written loop">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        '<text class="title" x="20" y="30">What a step costs beside a hand-written loop</text>',
        '<text class="note" x="20" y="48">1 is the loop that people write for the same work; a tiny model, so that '
        "nearly all is overhead. Dot: median of the rounds, bar: least to largest, logarithmic.</text>",
    ]
    for index, case in enumerate(cases):
        x, y = LEFT + index % columns * (LEFT + WIDTH) + 8, TOP + index // columns * tall + 18
        parts += panel(case, results["cases"][case], names, titles, x, y)
    return "\n".join([*parts, "</svg>"]) + "\n"
