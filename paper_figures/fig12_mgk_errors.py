"""Figure 12. Errors of M/G/k methods."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig12", *(sys.argv[1:] or ["-o", "out/figures"])])
