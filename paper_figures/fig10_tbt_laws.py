"""Figure 10. Time between tokens by panel and policy: deflection uses the slack up to the SLO and no more."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig10", *(sys.argv[1:] or ["-o", "out/figures"])])
