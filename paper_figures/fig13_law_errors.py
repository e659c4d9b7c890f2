"""Figure 13. Errors of the calibrated laws."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig13", *(sys.argv[1:] or ["-o", "out/figures"])])
