"""Figure 5. Share of requests that meet both SLOs, by panel and policy over the sweep."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig05", *(sys.argv[1:] or ["-o", "out/figures"])])
