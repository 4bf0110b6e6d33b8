"""The table that validate and test print."""

from __future__ import annotations

from fulmen.logs import LOADER_SUFFIX


def show(verb: str, results: list[dict[str, float]]) -> None:
    """One row for each metric, one column for each dataloader."""
    results = [{name.partition(LOADER_SUFFIX)[0]: value for name, value in r.items()} for r in results]
    names = sorted({name for result in results for name in result})
    if not names:
        return
    heads = [f"{verb} metric", *(f"DataLoader {i}" for i in range(len(results)))]
    lines = [[name, *("" if name not in r else f"{r[name]:.6g}" for r in results)] for name in names]
    widths = [max(len(row[i]) for row in [heads, *lines]) for i in range(len(heads))]
    rule = "─" * (sum(widths) + 3 * len(widths) - 1)
    print(rule)
    for row in (heads, *lines):
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if row is heads:
            print(rule)
    print(rule)
