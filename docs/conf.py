"""The documentation site: `make docs` builds it, and every warning is an error."""

import json
import re
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "examples" / "notebooks"

project, author, copyright = "pyro_skipvae", "the pyro_skipvae developers", "the pyro_skipvae developers"
version = release = installed_version("pyro_skipvae")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "jupyter_execute"]

html_theme = "furo"
html_title = f"pyro_skipvae {version}"
html_static_path = ["site"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0a5f96", "color-brand-content": "#0a5f96"},
    "dark_css_variables": {"color-brand-primary": "#6cb8e6", "color-brand-content": "#6cb8e6"},
}
pygments_style, pygments_dark_style = "friendly", "github-dark"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
highlight_language = "none"
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
nb_execution_mode = "off"  # the outputs are those that are committed

autodoc_typehints = "none"  # the signature has them
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True


def copy_notebooks(app):
    """The solutions, with their outputs, become pages, on which the code of an answer, a check or the set-up is folded."""
    (HERE / "notebooks").mkdir(exist_ok=True)
    for source in sorted((NOTEBOOKS / "solutions").glob("*.ipynb")):
        notebook = json.loads(source.read_text().replace("(../../../docs/", "(../"))
        for cell in notebook["cells"]:
            text, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
            if {"solution", "claim"} & set(tags) or "find_spec(" in text or "def check(" in text:
                cell["metadata"]["tags"] = [*tags, "hide-input"]
        (HERE / "notebooks" / source.name).write_text(json.dumps(notebook))


def with_links_of_the_site(app, name, source):
    """Links that suit a code host, which has all files, lead to the pages of the site."""
    text = re.sub(r"\.\./examples/notebooks/solutions/(\w+\.ipynb)", r"notebooks/\1", source[0])
    text = re.sub(r"\[([^]]*)\]\((\.\./examples/notebooks/exercises/\w+\.ipynb)\)", r"{download}`\1 <\2>`", text)
    source[0] = text.replace("(../../CONTRIBUTING.md)", "(../contributing.md)")


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: `code` in backticks, formulas indented; nothing else is markup."""
    text, formula = [], False
    for line in lines:
        inside = line.startswith("    ") and not line.lstrip().startswith("- ")
        if inside and not formula and text and not text[-1].strip():
            text += ["::", ""]
            formula = True
        formula = formula and (inside or not line.strip())
        text.append(line if formula else _escaped(line))
    lines[:] = text


def _escaped(line):
    parts = re.split(r"`+([^`]+)`+", line)
    return "".join(f"``{part}``" if number % 2 else re.sub(r"([*_|\\])", r"\\\1", part) for number, part in enumerate(parts))


def setup(app):
    app.connect("autodoc-process-docstring", as_plain_text)
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", with_links_of_the_site)
