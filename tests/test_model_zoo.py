# SPDX-License-Identifier: Apache-2.0
"""docs/model_zoo.md is what docs/model_zoo.py makes of the configs."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "model_zoo.py"


@pytest.fixture(scope="module")
def zoo():
    spec = importlib.util.spec_from_file_location("model_zoo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date_but_for_the_counts(zoo):
    text = zoo.PAGE.read_text(encoding="utf-8")
    counts = zoo.read_counts(text)
    assert set(counts) == set(zoo.load_rows()), "run make docs"
    assert zoo.page(counts) == text, "run make docs"


def test_the_page_on_multiply_adds_has_the_same_counts(zoo):
    counts = zoo.read_counts(zoo.PAGE.read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "multiply_adds.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "](../configs/" in line]
    assert len(rows) == 16
    published = {name: options.published.multiply_adds for name, options in zoo.load_rows().items()}
    for link, _, paper, _, ours, difference in rows:
        name = re.search(r"configs/([^)]+)\)", link)[1]
        assert float(paper) == pytest.approx(published[name])
        assert ours == counts[name][1]
        assert difference == f"{float(ours.replace(',', '')) / float(paper) - 1:+.1%}".replace("%", " %")


def test_links_lead_somewhere(zoo):
    for page in (zoo.PAGE, ROOT / "docs" / "multiply_adds.md"):
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_it_says_that_the_figures_are_not_ours(zoo):
    assert "nothing on this page was trained by us" in " ".join(zoo.PAGE.read_text(encoding="utf-8").split())
