"""Markup in any string of a report, a card or a results file stays text on every page, in the model card and in notebooks."""

import copy
import json
import re
import shutil
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from page_text import Tags
from small_runs import tiny_run

from pyro_skipvae.diagnostics import CollapseReport
from pyro_skipvae.reports import run_page
from pyro_skipvae.reports.comparison import compare, read_record
from pyro_skipvae.reports.comparison_page import comparison_page
from pyro_skipvae.reports.export import model_card
from pyro_skipvae.reproduction import page as reproduction_page
from pyro_skipvae.reproduction import words as reproduction_words
from pyro_skipvae.reproduction.tables import committed_results, entry_for, load_table, read_results
from pyro_skipvae.runs.folder import RunError

MARKUP = (
    "{{7*7}} <script>alert(1)</script>\"><img src=x onerror=alert(2)>' onmouseover='alert(3) <svg/onload=alert(4)> "
    "[a](javascript:alert(5)) ![b](http://c.example/d.png) <http://e.example> &lt;script&gt; {% raw %} <!-- "
)
FENCED = "```\n\n<script>alert(6)</script>\n\n---\n# x\n| y |\n"
KEPT = {"kind", "settings", "row", "arm", "scaled"}  # a verdict of no kind and settings of another run are no such page


def places(node, path=()):
    """The places of all strings in plain values, apart from those that choose what is shown."""
    if isinstance(node, str):
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, item in items:
        if key not in KEPT or path[-1:] == ("data",):
            yield from places(item, (*path, key))


def changed(values, path, text):
    """A copy of plain values with a text after the string at a place."""
    made = copy.deepcopy(values)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] += text
    return made


def versions(values):
    """Values with markup in one string at a time: a page may refuse one of them, which must not hide the others."""
    for path in places(values):
        for text in (MARKUP, FENCED):
            yield path, changed(values, path, text)


def shapes(html):
    """What a browser would act on: names of tags and of attributes, and all addresses."""
    found = Tags(html).tags
    addresses = {attributes.get(name, "data:")[:5] for _, attributes in found for name in ("src", "href")}
    return {tag for tag, _ in found}, {name for _, attributes in found for name in attributes}, addresses


def check_pages(make, values):
    """Every page that can be made has the shapes of the clean one; returns how many show the markup."""
    tags, names, addresses = shapes(make(values))
    shown = 0
    for path, hostile in versions(values):
        try:
            html = make(hostile)
        except (ValueError, KeyError):  # told as a damaged file
            continue
        found = shapes(html)
        assert found[0] <= tags | {"em", "strong", "code", "p", "pre"} and found[1] <= names and found[2] <= addresses, path
        shown += "&lt;script&gt;alert(1)" in html
        assert "alert(1)" not in html or "{{7*7}}" in html, path
    return shown


@pytest.fixture
def record():
    return read_record(tiny_run())


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(run_page, "_pictures", lambda *_: [])
    monkeypatch.setattr(reproduction_page, "PICTURES", dict.fromkeys(reproduction_page.PICTURES, lambda *_: []))
    monkeypatch.setattr(reproduction_page, "premise", lambda _: [])


def test_markup_in_a_report_is_text_on_the_page_of_a_run(record, without_pictures):
    assert check_pages(lambda report: run_page.run_page(replace(record, report=report)), record.report) > 5


def test_markup_in_a_name_is_text_on_every_page(record):
    tags, names, addresses = shapes(run_page.run_page(record))
    for text in (MARKUP, FENCED):
        hostile = replace(record, name=text, report=changed(record.report, ("card", "data", "name"), text))
        other = replace(hostile, path=record.path / "other", config=replace(record.config, seed=1, dataset="/x/" + text))
        together = compare([hostile, other])
        for html in (run_page.run_page(hostile), run_page.run_page(other), comparison_page([hostile, other], together)):
            found = shapes(html)
            assert "alert" in html and not found[0] & {"script", "svg", "a", "iframe"}
            assert found[1] <= names | {"colspan", "scope"} and found[2] <= addresses


def test_markup_in_texts_of_a_model_is_text_on_the_page(record, tmp_path, without_pictures):
    shutil.copytree(record.path, tmp_path / "run")
    for name in run_page.MODEL_TEXTS:
        (tmp_path / "run" / name).write_text("\n".join([f"{MARKUP}\t{MARKUP}"] * 3) + "\n")
    html = run_page.run_page(replace(record, path=tmp_path / "run"))
    assert "&lt;script&gt;alert(1)" in html and not shapes(html)[0] & {"script", "svg", "a"} and "onload" not in shapes(html)[1]


def test_texts_that_cannot_be_read_are_told(record, tmp_path, without_pictures):
    shutil.copytree(record.path, tmp_path / "run")
    (tmp_path / "run" / "samples.txt").write_bytes(b"\xff")
    with pytest.raises(RunError, match="samples.txt, which cannot be read"):
        run_page.run_page(replace(record, path=tmp_path / "run"))


def card_shapes(text):
    """The tags and addresses of a model card as a site renders it, HTML included, and the keys of its front matter."""
    _, front, body = text.split("---\n", 2)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    tags = re.findall(r"<(?!/)([a-z!][^\s>/]*)", html)
    return (
        set(tags),
        set(re.findall(r"(?:src|href)=\"([^\"]*)", html)),
        re.findall(r"(?m)^[\w-]+(?=:)", front),
        html.count("<h"),
    )


def test_markup_is_text_in_a_model_card(record):
    clean = card_shapes(model_card(record, 10))
    made = [replace(record, report=report) for _, report in versions(record.report)]
    made += [replace(record, name=text) for text in (MARKUP, FENCED)]
    made += [replace(record, config=replace(record.config, dataset="/x/" + text)) for text in (MARKUP, FENCED)]
    shown = 0
    for hostile in made:
        try:
            card = model_card(hostile, 10)
        except (ValueError, KeyError):
            continue
        shown += "alert" in card
        tags, addresses, keys, headings = card_shapes(card)
        assert tags <= clean[0] | {"em", "strong", "code"} and addresses == clean[1], card
        assert (keys, headings) == clean[2:], card
    assert shown > 5


def test_markup_in_results_is_text_on_the_page_of_a_reproduction(without_pictures):
    table = load_table("table3", seeds=1)
    stored = read_results(committed_results() / "table3.json")
    made = [found for run in table.runs if run.row == table.runs[0].row and (found := entry_for(run, stored))]
    assert len(made) > 1
    entry = {**made[0], "report": {**made[0]["report"], "active_unit_variances": [0.5]}}
    assert check_pages(lambda entry: reproduction_page.page_of(table, [entry, *made[1:]]), entry) > 1
    named = changed(entry, ("report", "card", "data", "name"), MARKUP)
    told = [note for note in reproduction_words.notes(table, [named, *made[1:]]) if "of different data" in note]
    assert "<script>" in told[0]  # so that a sentence holds it, too


def test_markup_in_a_report_is_text_in_a_notebook(record):
    report = CollapseReport.from_json(json.dumps(record.report))

    def shown(values):
        return CollapseReport.from_json(json.dumps(values))._repr_html_()

    assert "<table" in report._repr_html_() and check_pages(shown, record.report) > 0
