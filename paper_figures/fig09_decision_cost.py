"""Figure 9. What one routing decision takes."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig09", *(sys.argv[1:] or ["-o", "out/figures"])])
