"""Run notebooks kept as text from top to bottom and write them with their outputs: run.py FOLDER NOTEBOOK..."""

import sys
from pathlib import Path

try:
    import jupytext
    from nbclient import NotebookClient
except ImportError:
    sys.exit("notebooks need the extra: pip install 'qmodel[notebooks]'")

target = Path(sys.argv[1])
target.mkdir(parents=True, exist_ok=True)
for name in sys.argv[2:]:
    notebook = jupytext.read(name)
    NotebookClient(notebook, kernel_name="python3", timeout=600).execute()
    written = target / Path(name).with_suffix(".ipynb").name
    jupytext.write(notebook, written)
    print(f"ran {name}, wrote {written}")
