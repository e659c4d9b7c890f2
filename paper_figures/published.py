"""Put the table of ours beside what is published into README.md: published.py FOLDER, with every figure in it."""

import sys
from pathlib import Path

from qmodel.io.atomic import write_text

BEGIN, END = "<!-- table: make figures -->\n", "<!-- end of table -->\n"

readme = Path(__file__).with_name("README.md")
before, _, rest = readme.read_text().partition(BEGIN)
_, _, after = rest.partition(END)
write_text(readme, before + BEGIN + (Path(sys.argv[1]) / "published.md").read_text() + END + after)
