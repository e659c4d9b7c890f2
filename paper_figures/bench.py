"""Time the jobs a user waits for, print the table and write it as CSV: bench.py [FILE]."""

import sys
from pathlib import Path

from qmodel.io.tables import save_table
from qmodel.studies.benchmark import benchmark

table = benchmark()
print(table.to_string(index=False, float_format=lambda value: f"{value:,.4g}"))
if len(sys.argv) > 1:
    Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    save_table(table, sys.argv[1])
