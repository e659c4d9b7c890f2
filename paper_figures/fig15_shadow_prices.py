"""Figure 15. What one more of each resource is worth over load."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig15", *(sys.argv[1:] or ["-o", "out/figures"])])
