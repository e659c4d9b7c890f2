"""Figure 4. P95 TTFT by panel and policy over the sweep, with 95 % intervals over paired runs."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig04", *(sys.argv[1:] or ["-o", "out/figures"])])
