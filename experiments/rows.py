"""Rows of measurements: CSV and JSON lines that grow row by row, a table to read, less output."""

from __future__ import annotations

import csv
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file, numbers as numbers; none if it is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(text) if text.lstrip("-").isdigit() else number


def add(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows at the end of a CSV file, all of them in one go.

    The file's first row decides the columns.
    """
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    if new:
        columns = list(rows[0])
    else:
        with path.open(newline="") as file:
            columns = next(csv.reader(file))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read_lines(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines; none if it is missing."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def add_line(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row at the end of a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def markdown(rows: list[Row], decimals: int = 2) -> str:
    """Return rows as a markdown table, with numbers of so many decimals."""

    def text(value: Any) -> str:
        return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)

    header = list(rows[0])
    table = [header, ["---"] * len(header), *([text(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def quiet() -> None:
    """Silence what Lightning has to say about many short runs, and use one thread."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_onecycle"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
