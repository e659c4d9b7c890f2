"""Figure 7. What Kairos' alpha and the prices of thresholds do."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig07", *(sys.argv[1:] or ["-o", "out/figures"])])
