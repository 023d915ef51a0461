"""Draw the benchmark chart, docs/_static/benchmarks.svg, from docs/benchmarks.csv.

The figures are those of benchmarks/README.md. Run it after a change of the table::

    python docs/charts.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
COLOURS = {"ampmpi": "#0072b2", "dscribe": "#999999", "Amp": "#d55e00"}


def main() -> None:
    """Draw one panel of bars for each value of the column `panel`."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ampmpi", "font.size": 9})
    with (HERE / "benchmarks.csv").open() as file:
        rows = list(csv.DictReader(file))
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    sizes = [sum(row["panel"] == panel for row in rows) for panel in panels]
    figure = Figure(figsize=(7, 0.27 * len(rows) + 1.7), layout="constrained")
    drawn = figure.subplots(len(panels), 1, gridspec_kw={"height_ratios": sizes})
    for axes, panel in zip(drawn, panels, strict=True):
        shown = [row for row in rows if row["panel"] == panel]
        values = [float(row["value"]) for row in shown]
        axes.barh(range(len(shown)), values, color=[COLOURS[row["who"]] for row in shown])
        axes.set_yticks(range(len(shown)), [f"{row['what']}: {row['who']}" for row in shown])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 3)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(panel, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        for place, value in enumerate(values):
            axes.text(value * 1.06, place, f"{value:g}", va="center")
    target = HERE / "_static" / "benchmarks.svg"
    figure.savefig(target, metadata={"Date": None})
    target.write_text("".join(line.rstrip() + "\n" for line in target.read_text().splitlines()))


if __name__ == "__main__":
    main()
