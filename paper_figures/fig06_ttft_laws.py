"""Figure 6. The law of TTFT by panel and policy at the centre of the sweep."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig06", *(sys.argv[1:] or ["-o", "out/figures"])])
