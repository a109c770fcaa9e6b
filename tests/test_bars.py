"""The table of benchmarks: ratios of pairs, what is missing, what is left of a broken run, and how it is written."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def table(monkeypatch, tmp_path):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import table

    monkeypatch.setattr(table, "RESULTS", tmp_path / "benchmarks.json")
    yield table
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_row_is_the_median_of_the_ratios_of_each_round(table):
    row = table.Row("B0", "theirs / ours", "theirs", "ours", ">= 2", factor=2)
    found = table.row_of(row, {"numbers": {"theirs": [1.0, 3.0, 8.0], "ours": [1.0, 2.0, 2.0]}, "missing": {}})
    assert (found["median"], found["least"], found["largest"], found["rounds"]) == (3.0, 2.0, 8.0, 3)
    assert table.is_met(found) and not table.is_met({**found, "bar": "<= 2.9"})


def test_a_row_whose_peer_is_missing_tells_the_command_that_installs_it(table):
    row = table.Row("B0", "theirs / ours", "pythae", "ours", ">= 2")
    found = table.row_of(row, {"numbers": {"ours": [1.0]}, "missing": {"pythae": table_install()}})
    assert "pip install" in table.in_words(found) and "not measured" in table.in_words(found)


def table_install():
    from peers import INSTALL

    assert "benchmarks" in INSTALL and '"benchmarks"' in (ROOT / "setup.py").read_text()
    return INSTALL


def test_a_run_goes_on_with_what_is_left_and_one_that_is_complete_starts_anew(table, monkeypatch, capsys):
    asked = []

    def instead(measured, small, limit):
        asked.append(measured)
        ways = {way for row in table.ROWS[measured] for way in (row.over, row.under) if way}
        return None if len(asked) == 3 else {"numbers": {way: [1.0] for way in ways}, "missing": {}}

    monkeypatch.setattr(table, "in_a_process", instead)
    table.measure([], 1, False)
    assert "goes on with B4 Pyro" in capsys.readouterr().out
    table.measure([], 1, False)
    assert asked == [*list(table.ROWS)[:3], *list(table.ROWS)[2:]]
    assert list(json.loads(table.RESULTS.read_text())["rows"]) == table.NAMES
    table.measure(["B9"], 1, False)
    table.measure([], 1, False)
    assert len(asked) == 2 + 2 * len(table.ROWS)


def test_the_tables_of_the_page_are_those_of_the_files(table, monkeypatch, tmp_path):
    """`python benchmarks/table.py --markdown` was run after the last measurement."""
    monkeypatch.setattr(table, "RESULTS", ROOT / "results" / "benchmarks.json")
    page = tmp_path / "performance.md"
    page.write_text(table.PAGE.read_text())
    monkeypatch.setattr(table, "PAGE", page)
    table.markdown()
    assert page.read_text() == (ROOT / "docs" / "performance.md").read_text()


@pytest.mark.slow
def test_each_comparison_runs_at_a_tiny_size(table):
    for measured in ("text:padding", "text:logits_memory", "semi_amortized:plain_and_exact", "information:of_10000"):
        assert "numbers" in table.in_a_process(measured, small=True, limit=600), measured
