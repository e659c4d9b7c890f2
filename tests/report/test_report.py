"""Reports: complete, self-contained, escaped, the same bytes each time, and right in a real browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qmodel.io.page import Cards, Figure, List, Section, Table, Text, render_page

from . import browser as chromium

VOID = {"meta", "link", "img", "br"}
TRACE = "arrival_s,prompt_tokens,output_tokens\n" + "".join(
    f"{i * 0.09:.3f},{300 + (i * 37) % 1900},{10 + i % 90}\n" for i in range(1200)
)
SHORT = ("--seeds", "2", "--requests", "1200")


class Page(HTMLParser):
    """Tags, balanced or not, with what they load."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.sources, self.texts, self.headings, self.tags = [], [], [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Write one page of each kind; return them by name."""
    import contextlib
    import io
    import os

    from qmodel.cli import main

    folder = tmp_path_factory.mktemp("pages")
    here = Path.cwd()
    os.chdir(folder)
    Path("<b onload=alert(1)>&'.csv").write_text(TRACE)
    common = ["--model", "llama-3.1-8b", "--workload", "<b onload=alert(1)>&'.csv", *SHORT]
    kinds = {
        "thresholds": ["--cluster", "1P1D", "--load", "0.7"],
        "capacity": ["--gpus", "3", "--rate", "12/s"],
        "compare": ["--cluster", "2P1D", "--load", "0.7", "--policies", "none,kairos"],
    }
    try:
        for kind, words in kinds.items():
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
                main([kind, *common, *words, "--report", f"{kind}.html"])
            assert left.value.code in (0, 1), err.getvalue()
    finally:
        os.chdir(here)
    return {kind: folder / f"{kind}.html" for kind in kinds}


def test_pages_hold_what_was_promised(pages):
    everywhere = {"Workload", "Sensitivity", "Warnings", "Provenance"}
    own = {
        "thresholds": {"Answer", "Thresholds", "Alternatives", "Feasibility map"},
        "capacity": {"Answer", "Feasibility map", "Cost", "Predicted and simulated"},
        "compare": {"Policies"},
    }
    for kind, path in pages.items():
        page = Page(path.read_text(encoding="utf-8"))
        assert set(page.headings) == everywhere | own[kind]
        text = " ".join(page.texts)
        assert f"qmodel {kind} --model llama-3.1-8b" in text
        assert "sha256 " in text
        assert len([s for s in page.sources if s.startswith("data:image/svg+xml;base64,")]) >= 3


def test_pages_load_nothing_and_run_nothing(pages):
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        assert not page.tags & {"script", "iframe", "object", "embed", "form", "input", "base", "b"}
        assert all(s.startswith(("data:", "#part-")) for s in page.sources)
        assert "default-src 'none'" in text
        assert "<b onload" not in text
        assert "&lt;b onload=alert(1)&gt;&amp;&#x27;" in text


def test_the_same_question_gives_the_same_page(qmodel, tmp_path):
    words = ("compare", "--model", "llama-3.1-8b", "--workload", "azure-conv", "--load", "0.5", "--policies", "none")
    pages = []
    for _ in range(2):
        assert qmodel(*words, "--seeds", "1", "--requests", "2000", "--report", "a.html").code == 0
        pages.append(Path("a.html").read_bytes())
    assert pages[0] == pages[1]


def test_every_text_is_escaped():
    evil = "</style><script>alert('x')</script>\"&"
    blocks = [
        Text(text=evil), Text(text=evil, code=True), Cards(items=[(evil, evil, evil)]), List(lines=[evil]),
        Table(columns=[evil], rows=[[evil, evil]], caption=evil, folded=True), Figure(svg=b"<svg/>", alt=evil),
    ]  # fmt: skip
    page = render_page(evil, evil, [Section(title=evil, blocks=blocks)], evil)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 17  # each text once, the titles also in tab and navigation
    Page(page)


@pytest.mark.parametrize("name", ["a.txt", "no/a.html", "."])
def test_what_cannot_be_a_report(qmodel, tmp_path, name):
    run = qmodel("compare", "--model", "llama-3.1-8b", "--workload", "azure-conv", "--report", name)
    assert run.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(bool(chromium.why_not()), reason=chromium.why_not())
def test_a_browser_shows_every_figure_without_a_complaint(pages):
    figures = """return Array.from(document.images).map(i => {
        const box = i.getBoundingClientRect();
        return [i.complete, i.naturalWidth, i.naturalHeight, box.width, box.height, i.alt];
    })"""
    with chromium.browser() as page:
        page.open("about:blank")
        page.log("performance")  # what the browser's own start page loaded
        for kind, path in pages.items():
            page.open(path.as_uri())
            shown = page.run(figures)
            assert len(shown) >= 3, kind
            for complete, width, height, wide, high, alt in shown:
                assert complete, (kind, alt)
                assert width > 300, (kind, alt)
                assert height > 100, (kind, alt)
                assert wide > 600, (kind, alt)
                assert high > 150, (kind, alt)
                assert alt
            assert page.log("browser") == []
            requested = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
            addresses = [m["params"]["request"]["url"] for m in requested if m["method"] == "Network.requestWillBeSent"]
            assert addresses[0] == path.as_uri()
            assert all(re.match(r"data:|file:", address) for address in addresses)
            assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out
            assert page.run("return getComputedStyle(document.querySelector('section')).borderRadius") == "12px"


def test_every_order_and_binding_has_words():
    from typing import get_args

    from qmodel.plotting import plan
    from qmodel.policies.rule import ORDER_WORDS, Binding, Order
    from qmodel.studies import report

    assert set(ORDER_WORDS) == set(get_args(Order))
    assert set(report._BINDINGS) == set(plan._BINDINGS) == set(get_args(Binding))
