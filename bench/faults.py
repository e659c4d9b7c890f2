"""Where TTFT goes in the panels, and what each fault of the evaluation does to each policy: the page docs/simulator.md.

Run ``python bench/faults.py [--requests N] [-o docs/simulator.md]``. Does nothing without the shared data, which the
panels need. One seed; faults last 60 s from a third of the run on.
"""

import argparse

from qmodel import Cluster, Workload, load_calibration
from qmodel.io.atomic import write_text
from qmodel.io.traces import shared_data
from qmodel.studies.simulator import SWEPT_CELLS, fault_table, simulator_page, ttft_part_table


def main():
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    if shared_data() is None:
        print("left out: the panels need the shared data; name its folder in $QMODEL_DATA")
        return
    cluster = Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))
    faults = fault_table(cluster, Workload.builtin("azure-conv").at_load(0.9, cluster), options.requests)
    page = simulator_page(ttft_part_table(cluster), ttft_part_table(cluster, cells=SWEPT_CELLS), faults)
    if options.output:
        write_text(options.output, page)
    else:
        print(page)


if __name__ == "__main__":
    main()
