"""Figure 3. A burst queues at prefill while decode has slack, and what deflection does to it."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig03", *(sys.argv[1:] or ["-o", "out/figures"])])
