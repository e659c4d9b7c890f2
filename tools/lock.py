"""Write the pins of everything that qmodel and its extras need, as installed here.

Run as ``python tools/lock.py constraints.txt INSTALL...``, by `make lock`: each extra of pyproject.toml is installed by
``INSTALL... -e .[extra]``. The pins of an extra that cannot be had here (another system, another Python) stay as they
are, and what the environment holds beside is left out.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Part of every environment, never pinned.
UNPINNED = {"pip", "setuptools", "wheel", "qmodel"}


def requirements_of(project: Path, extras: Iterable[str]) -> list[Requirement]:
    """Return what the project and its extras ask for."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    asked = [table["dependencies"], *(table["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for lines in asked for line in lines]


def installed_pins(asked: list[Requirement]) -> dict[str, str]:
    """Return the pin, by canonical name, of all that is asked for, directly or not, and is installed."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(need, "") for need in asked]
    while todo:
        need, wanted_by = todo.pop()
        if need.marker and not need.marker.evaluate({"extra": wanted_by}):
            continue
        name = canonicalize_name(need.name)
        for extra in {"", *need.extras}:
            if (name, extra) in seen or name in UNPINNED:
                continue
            seen.add((name, extra))
            try:
                found = distribution(need.name)
            except PackageNotFoundError:
                continue
            pins[name] = f"{found.metadata['Name']}=={found.version}"
            todo += [(Requirement(line), extra) for line in found.requires or ()]
    return pins


def merged(old: str, pins: dict[str, str], *, keep: bool) -> str:
    """Return the text of the constraints: the pins, and where `keep` the old ones of what is not installed."""
    kept = {canonicalize_name(line.split("==")[0]): line for line in old.splitlines() if "==" in line} if keep else {}
    return "\n".join(sorted((kept | pins).values(), key=str.lower)) + "\n"


def main(constraints: str, *install: str) -> int:
    """Install every extra, write the constraints and say which extras could not be had."""
    project, target = Path("pyproject.toml"), Path(constraints)
    extras = list(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"])
    missing = []
    for extra in extras:
        print(f"installing the extra {extra}", flush=True)
        if subprocess.run([*install, "-e", f".[{extra}]"], check=False).returncode:
            missing.append(extra)
    if "dev" in missing:
        print("the extra dev cannot be had here: nothing is written", file=sys.stderr)
        return 1
    pins = installed_pins(requirements_of(project, extras))
    target.write_text(merged(target.read_text(encoding="utf-8"), pins, keep=bool(missing)), encoding="utf-8")
    if missing:
        print(f"not to be had here, their pins stay as they are: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
