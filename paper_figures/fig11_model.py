"""Figure 11. The analytical model against the simulator."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig11", *(sys.argv[1:] or ["-o", "out/figures"])])
