"""Figure 1. What a prefill chunk adds to a decode step, at each panel's mean decode state.

Kernels alone, and with the gain and the host-bound floor of a published engine; at the start of a prompt and deep in
it.
"""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig01", *(sys.argv[1:] or ["-o", "out/figures"])])
