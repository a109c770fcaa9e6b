"""What data, file names and vocabularies hold never commands a terminal or a page."""

import pytest
from command_line import skipvae

from pyro_skipvae.reports import rendering
from pyro_skipvae.text.printable import printable

HOSTILE = "red\x1b[31m\x1b]0;title\x07 \x9b2J \u202ereversed \x00 \r\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", "a\\x1b[2J"),
        ("\x9b\x07\x7f\r", "\\x9b\\x07\\x7f\\r"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\udc80", "\\udc80"),
        ("größe 日本 a\tb\nc \N{NO-BREAK SPACE}❤️", "größe 日本 a\tb\nc \N{NO-BREAK SPACE}❤️"),
    ],
)
def test_controls_are_written_out_and_the_rest_is_kept(text, shown):
    assert printable(text) == shown and printable(shown) == shown


@pytest.mark.parametrize("name", ["bad\x1b[31m.csv", "bad\x1b[31m", "bad\u202e.npz", "bad\x9b.txt"])
@pytest.mark.parametrize("present", [True, False])
def test_no_message_commands_a_terminal(name, present, tmp_path):
    if present:
        (tmp_path / name).write_text("a,b\n1,\x1b[2J\n")
    done = skipvae("train", "--dataset", name, cwd=tmp_path)
    assert done.returncode in (2, 3) and "bad\\" in done.stderr
    assert printable(done.stderr) == done.stderr and done.stdout == ""


def test_what_a_text_model_says_and_a_table_shows_is_written_out(capsys):
    from pyro_skipvae_cli.terminal import table
    from pyro_skipvae_cli.text import emit

    emit("run", [HOSTILE], {}, out=None, as_json=False)
    for said in (capsys.readouterr().out, table(("name",), [(HOSTILE,)])):
        assert "red\\x1b[31m" in said and printable(said) == said


def test_a_page_shows_no_controls(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "small.html.j2").write_text("<p>{{ words }}</p>{{ ours }}")
    monkeypatch.setattr(rendering, "__file__", str(tmp_path / "rendering.py"))
    page = rendering.render("small.html.j2", words=f"<b>{HOSTILE}", ours=rendering.Markup("<i>x</i>"))
    assert page.startswith("<p>&lt;b&gt;red\\x1b[31m") and page.endswith("<i>x</i>") and printable(page) == page
