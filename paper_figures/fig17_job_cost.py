"""Figure 17. What planning, predicting and simulating cost as the cluster grows."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig17", *(sys.argv[1:] or ["-o", "out/figures"])])
