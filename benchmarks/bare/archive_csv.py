"""Convert a day of the archive from zip to one Parquet file with pyarrow alone: prices as doubles, no checks."""

from __future__ import annotations

import sys
import zipfile

import pyarrow.parquet as pq
from pyarrow import csv

from benchmarks.bare.clock import Clock, report


def main(archive: str, out: str) -> None:
    clock = Clock()
    with zipfile.ZipFile(archive) as opened, opened.open(opened.namelist()[0]) as text:
        table = csv.read_csv(text)
    pq.write_table(table, out)
    report("pyarrow, bare", clock, rows=table.num_rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
