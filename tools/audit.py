"""Look the pinned dependencies up among known vulnerabilities; say so where that is not possible.

Run as ``python tools/audit.py constraints.txt``. pip-audit lives in an environment of its own, so that its
dependencies do not mix with the project's. Exit code 1 only when a vulnerability is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(sys.prefix) / "audit"


def installed() -> str:
    """Return why pip-audit cannot be had, or nothing."""
    if not (FOLDER / "bin" / "pip-audit").exists():
        venv.create(FOLDER, with_pip=True)
        command = [str(FOLDER / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "pip-audit"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return ""


def verdict(output: str, errors: str) -> tuple[int, str]:
    """Return exit code and line for what pip-audit said."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, f"audit skipped: {(errors.strip().splitlines() or ['no answer'])[-1]}"
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", ())]
    return (1, "known vulnerabilities: " + ", ".join(found)) if found else (
        0, f"no known vulnerabilities in {len(packages)} pinned packages"
    )  # fmt: skip


def main(requirements: str) -> int:
    """Audit a file of pinned requirements and print one line."""
    reason = installed()
    if reason:
        print(f"audit skipped: pip-audit does not install here ({reason})")
        return 0
    flags = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command = [str(FOLDER / "bin" / "pip-audit"), "--requirement", requirements, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    code, line = verdict(done.stdout, done.stderr)
    print(line)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
