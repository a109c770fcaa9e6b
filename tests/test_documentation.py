"""What README and docs tell to type is tried: every command is parsed, every block of Python compiled, every name looked up.

Marked slow, both are run too, at the size of a smoke test; what takes over 20 s even so is only parsed.
"""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from markdown_it import MarkdownIt
from small_runs import tiny_run
from torch import nn

import pyro_skipvae
from pyro_skipvae.objectives import elbo
from pyro_skipvae.runs.config import Config
from pyro_skipvae_cli import cli, options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md")])]
PROGRAM = "skipvae-pyro"
# What stands for something of the reader's in a command, and what is put in its place.
PLACES = {"RUN": "runs/RUN", "FILE": "mine.csv", "PATH": "mine.csv", "FOLDER": "exported", "NAME": "table3", "COMMAND": "train"}
CONFIG = set(Config.__dataclass_fields__)
SMOKE = {
    "--epochs": "1", "--limit-train": "60", "--limit-eval": "40", "--report-budget": "1", "--batch-size": "30",
    "--latent-dim": "4", "--maps": "4", "--width": "8",
}  # fmt: skip


def tokens(page):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page, language):
    """The fenced blocks of a page in a language; "shell" are those with commands, with or without what is printed."""
    infos = ("", "console", "bash") if language == "shell" else (language,)
    return [token.content for token in tokens(page) if token.type == "fence" and token.info.strip() in infos]


def code_spans(page):
    inline = [child for token in tokens(page) for child in token.children or ()]
    return [child.content for child in inline if child.type == "code_inline"]


def commands(page):
    """Every call of the program on a page, without comments, in fences and in code spans."""
    lines = [line for block in blocks(page, "shell") for line in block.replace("\\\n", " ").splitlines()]
    found = [line.strip().removeprefix("$ ") for line in [*lines, *code_spans(page)]]
    return [re.sub(r"\s+#.*", "", line) for line in found if line.startswith(PROGRAM + " ")]


def words(command):
    """The arguments of a command with the reader's places filled in; what is in brackets is left out."""
    given = shlex.split(re.sub(r"\[[^]]*\]", "", command))[1:]
    filled = [re.sub(r"\b[A-Z]{3,}\b", lambda match: PLACES.get(match[0], match[0]), word) for word in given]
    return [f"{word}-2" if word in filled[:place] and word.startswith("runs/") else word for place, word in enumerate(filled)]


ALL_COMMANDS = sorted({command for page in PAGES for command in commands(page)})
# Commands that take over 20 s at this size, and those that need a machine, data or a terminal of their own.
PARSED_ONLY = re.compile(
    "reproduce .*--train|reproduce --list|--prior auxiliary|--executor|completion|--preset|table4|--device|--resume|--help"
    "|--dataset (?!digits|mine)|evaluate mnist-pair"
)
RUN_THEM = [command for command in ALL_COMMANDS if len(command.split()) > 2 and not PARSED_ONLY.search(command)]


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_a_command_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "check_run", lambda path: None)
    for word in words(command):
        if re.fullmatch(r"\w+\.(csv|np[yz]|toml|txt)", word):
            (tmp_path / word).touch()
    if command.endswith("--help") or command.split()[1:] == ["--version"]:
        return
    context = cli.make_context(PROGRAM, words(command))
    name, chosen, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    if not rest:  # a command that is spoken of, not typed
        return
    with chosen.make_context(name, rest, parent=context) as parsed:
        if name == "train":
            given = {key: value for key, value in parsed.params.items() if key in CONFIG and value is not None}
            Config.from_flags(options.settings(parsed.params.get("preset"), None, given))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles_and_what_is_imported_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block, page.name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_skipvae":
                for alias in node.names:
                    assert hasattr(importlib.import_module(node.module), alias.name), (node.module, alias.name)


def resolves(name):
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_files_and_tests_that_a_page_speaks_of_are_there(page):
    for span in code_spans(page):
        if re.fullmatch(r"pyro_skipvae(\.\w+)+", span):
            assert resolves(span), f"{page.name} speaks of {span}"
        path, _, test = span.partition("::")
        if re.fullmatch(r"(tests|examples|docs|benchmarks)/[\w/.-]+\.(py|md|json)", path):
            assert (ROOT / path).exists(), f"{page.name} speaks of {path}"
            assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{page.name} speaks of {span}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_and_scripts_are_there(page):
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for block in blocks(page, "shell") for line in block.splitlines()]
    for line in [*lines, *code_spans(page)]:
        if found := re.match(r"make ([\w-]+)", line):
            assert re.search(rf"^{found[1]}:", makefile, re.M), line
        if found := re.match(r"python ([\w/.-]+\.py)", line):
            assert (ROOT / found[1]).exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for token in tokens(page):
        for child in token.children or ():
            target = dict(child.attrs).get("href", "") if child.type == "link_open" else ""
            if target and not re.match(r"https?:|#|mailto:", target):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


def readers_own():
    """What a page calls the reader's: a pair with a network of its own, and data."""
    x = (torch.rand(60, 64) < 0.5).float()
    network, encoder = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 64)), nn.Linear(64, 40)

    def model(x):
        pyro.module("decoder", network)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=network(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import Adam

    imported = {"SVI": SVI, "Trace_ELBO": Trace_ELBO, "Adam": Adam, "svi_step": pyro_skipvae.svi_step, "elbo": elbo}
    return {"model": model, "guide": guide, "network": network, "x": x, "x_train": x, "x_test": x[:40], **imported}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """One epoch, few images, a small report; in a folder of its own, with a run and a file to read."""
    monkeypatch.chdir(tmp_path)
    real = {name: getattr(pyro_skipvae, name) for name in ("fit", "load_data", "collapse_report")}
    small = {
        "fit": lambda *given, **more: real["fit"](*given, **{**more, "epochs": 1}),
        "load_data": lambda *given, **more: real["load_data"](*given, **more).limit(train=60, eval=40),
        "collapse_report": lambda *given, **more: real["collapse_report"](*given, **{"importance_samples": 5, **more}),
    }
    for name, function in small.items():
        monkeypatch.setattr(pyro_skipvae, name, function)
    rows = "\n".join(",".join(str((i * j) % 7) for j in range(1, 6)) for i in range(80))
    (tmp_path / "mine.csv").write_text("a,b,c,d,e\n" + rows)
    np.save(tmp_path / "my.npy", np.arange(60.0).reshape(20, 3))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs(page, small):
    space = readers_own()
    for block in blocks(page, "python"):
        needed = re.findall(r"^(?:import|from) (\w+)", block, re.M)
        if all(importlib.util.find_spec(name) for name in needed):  # a package that is not here: the block is only compiled
            exec(compile(block, page.name, "exec"), space)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_THEM)
def test_a_command_runs(command, small):
    given = words(command)
    if given[0] == "train" or "--remedies" in given:
        known = {word.split("=")[0] for word in given}
        sequence = any("delta-vae" in word for word in given)
        more = {flag: value for flag, value in SMOKE.items() if flag not in known and not (sequence and flag == "--latent-dim")}
        given += [word for pair in more.items() for word in pair]
    for word in given[1:]:
        if word.startswith("runs/") and given[0] != "train":
            shutil.copytree(tiny_run(), small / word, dirs_exist_ok=True)
    done = skipvae(*given, cwd=small)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "docs", str(tmp_path / "html")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
