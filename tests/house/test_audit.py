"""The dependency audit: what its answers mean."""

import importlib.util
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "audit.py"


def test_answers_of_the_audit():
    spec = importlib.util.spec_from_file_location("audit", TOOL)
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    clean = '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}'
    assert audit.verdict(clean, "") == (0, "no known vulnerabilities in 1 pinned packages")
    bad = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}'
    assert audit.verdict(bad, "") == (1, "known vulnerabilities: a 1: CVE-1")
    assert audit.verdict("", "x\nno network") == (0, "audit skipped: no network")


def test_make_check_runs_it():
    assert "tools/audit.py constraints.txt" in (TOOL.parents[1] / "Makefile").read_text()
