"""Figure 8. The same instances as 1P3D, 2P2D and 3P1D, with and without deflection."""

import sys

from qmodel.cli import main

main(["figures", "--only", "fig08", *(sys.argv[1:] or ["-o", "out/figures"])])
