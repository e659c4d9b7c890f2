"""Figure 2. Where P95 TTFT goes without deflection: queue, execution, transfer, decode admission, first step."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig02", *(sys.argv[1:] or ["-o", "out/figures"])])
