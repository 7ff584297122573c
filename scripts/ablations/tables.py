"""The tables of the study of single changes, in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from ablations.synthetic_scores import AXES, FIGURES, ScoreRow
from us_anomaly.reporting.metric_names import LABELS, shown


def study_markdown(records: Iterable[dict[str, Any]]) -> str:
    """Return a table per data set: mean over seeds, and the smallest and largest where there are several."""
    parts = []
    by_data: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_data.setdefault(record["data_set"], []).append(record)
    for data_set, rows in by_data.items():
        cells = [
            [f"`{r['row']}`: {r['says']}", *(_spread(r["figures"].get(name), name) for name in FIGURES), _minutes(r)]
            for r in rows
        ]
        seeds = sorted({seed for record in rows for seed in record["seeds"]})
        parts.append(f"`{data_set}`, mean of seeds {', '.join(map(str, seeds))} (smallest to largest):\n")
        parts.append(markdown_table(["row", *(LABELS[name] for name in FIGURES), "training"], cells))
    return "\n".join(parts)


def _spread(figure: dict[str, Any] | None, name: str) -> str:
    if figure is None:
        return shown(name, None)
    if len(figure["by_seed"]) == 1:
        return shown(name, figure["mean"])
    return f"{shown(name, figure['mean'])} ({shown(name, figure['min'])} to {shown(name, figure['max'])})"


def _minutes(record: dict[str, Any]) -> str:
    return f"{record['training_seconds']['mean'] / 60:.1f} min"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def scores_markdown(rows: Sequence[ScoreRow]) -> str:
    """Return the table of `--scores`."""
    header = ["patch sizes", *(axis.title for axis in AXES), *(LABELS[name] for name in FIGURES)]
    cells = [
        [
            ", ".join(map(str, row.patch_sizes)),
            *(axis.label(row.scoring) for axis in AXES),
            *(shown(name, row.figures.get(name)) for name in FIGURES),
        ]
        for row in rows
    ]
    return markdown_table(header, cells)
