"""Templates filled in, pictures embedded, and numbers as they are read."""

import base64
import json
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from pyro_skipvae.reports import figures
from pyro_skipvae.text.printable import one_line, printable

MINUS = "\N{MINUS SIGN}"


def picture(title, alt, caption, figure):
    """A figure as a template shows it: title, alternative text, caption, and the PNG itself as its source."""
    return embedded(title, alt, caption, figures.png(figure))


def embedded(title, alt, caption, content):
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))  # of the PNG's header
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"title": title, "alt": alt, "caption": caption, "source": source, "width": width, "height": height}


def render(template, **values):
    """A template of this package filled in; HTML is escaped, other text is not."""
    folder = FileSystemLoader(Path(__file__).with_name("templates"))
    escape = ".html." in template
    environment = Environment(loader=folder, autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.finalize = _shown
    environment.filters.update(nats=nats, signed=signed, deviation=deviation, duration=duration, prose=prose)
    environment.filters.update(md=markdown, code=code, yaml=yaml)
    return environment.get_template(template).render(**values)


def _shown(value):
    """What a template prints: text of data with control characters written out; markup is text of our own."""
    return printable(value) if type(value) is str else value


def nats(value):
    """A number as it is read: two decimals, three below a tenth, a true minus sign."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    return f"{value:z,.{decimals(value)}f}".replace("-", MINUS)


def decimals(value):
    """How many decimals a number is read with: two, three below a tenth."""
    return 3 if abs(value) < 0.1 else 2


def deviation(value, of):
    """The deviation of a number, with as many decimals as that number."""
    return f"{value:,.{decimals(of)}f}"


def prose(text, block=False):
    """Markdown as HTML, with true minus signs: a sentence, or blocks with paragraphs, lists and tables."""
    # What results hold may stand in a sentence: no HTML, and no link or picture that a page would fetch.
    read = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    text = re.sub(r"(?<![\w-])-(?=\d)", MINUS, text)
    return Markup(read.render(text) if block else read.renderInline(text))


def markdown(text):
    """A text as Markdown that reads as it stands: one line, without markup of its own."""
    text = one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)


def code(text):
    """A text inside a code block or a code span of Markdown: one line that does not end it."""
    return one_line(str(text)).replace("`", "'")


def yaml(text):
    """A text as a string of YAML; as it is where that reads the same."""
    return text if re.fullmatch(r"[A-Za-z][\w.-]*", text) else json.dumps(text)


def signed(value):
    """A difference with its sign."""
    return ("+" if value > 0 else "") + nats(value)


def duration(seconds):
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
