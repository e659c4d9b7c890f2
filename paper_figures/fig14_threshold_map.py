"""Figure 14. Deflection thresholds over prompt length, waiting deflected work and decode batch."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig14", *(sys.argv[1:] or ["-o", "out/figures"])])
