"""Ours beside the results of another simulator, BLIS, by its own rules.

Run ``python bench/blis.py [FILE.csv.gz ...] [--cluster 2P2D] [--seed 42]``; without files those of the shared data.
A file's name tells its scenario: blis_pd_..., blis_static512_... or blis_colocated4_...
"""

import argparse
import time

from qmodel.io.traces import shared_data
from qmodel.studies.blis import BlisScenario, blis_agreement


def main():
    """Print a table a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--cluster", default="2P2D", help="of the disaggregated scenarios")
    parser.add_argument("--seed", type=int, default=42, help="of their run")
    options = parser.parse_args()
    folder = shared_data()
    files = options.files or (sorted((folder / "peers").glob("blis_*.csv.gz")) if folder else [])
    if not files:
        print("left out: name results files, or the folder of shared data in $QMODEL_DATA")
    for file in files:
        begin = time.process_time()
        table = blis_agreement(file, BlisScenario.parse(str(file), options.cluster), options.seed)
        print(f"\n{file} ({time.process_time() - begin:.1f} s)")
        print(table.to_string(index=False, formatters={"error": "{:.3%}".format, "same": "{:.2%}".format}))


if __name__ == "__main__":
    main()
