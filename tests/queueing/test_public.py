"""Every public name of the queueing library is on a page, and says in its docstring what one asks."""

import inspect
import re
from pathlib import Path

import pytest

from qmodel import queueing

PAGES = Path(__file__).parents[2] / "docs" / "queueing"
FUNCTIONS = [name for name in queueing.__all__ if inspect.isfunction(getattr(queueing, name))]


@pytest.mark.parametrize("name", queueing.__all__)
def test_it_is_on_a_page(name):
    assert any(re.search(rf"\b{name}\b", page.read_text(encoding="utf-8")) for page in PAGES.glob("*.md"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_says_what_goes_in_what_comes_out_and_how_to_call_it(name):
    text = inspect.getdoc(getattr(queueing, name))
    for section in ("Parameters", "Returns", "Examples"):
        assert f"\n{section}\n---" in text, section


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_page_has_an_example_that_the_site_runs(page):
    if page.stem != "mgk":  # its examples stand on the page of questions
        assert "```python\n" in page.read_text(encoding="utf-8")
