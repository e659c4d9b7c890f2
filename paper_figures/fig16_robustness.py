"""Figure 16. Faults, stale signals, wrong laws, other rates, another trace's plan."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig16", *(sys.argv[1:] or ["-o", "out/figures"])])
