"""Commands on finished runs: pages, comparison, pictures, codes, export, and what this machine has."""

import json
import sys

import click

from . import text
from .commands import DEVICE, JSON, RUN, examples
from .errors import user_errors, written
from .gradients import check_gradients
from .notes import note
from .options import Duration

RUNS = click.argument("runs", nargs=-1, required=True, type=click.Path(file_okay=False))
BUDGET = click.option(
    "--budget",
    default=60.0,
    show_default=True,
    type=Duration(),
    help="seconds for differences on the same test points; 0: none",
)
DRAWS = click.option(
    "--posterior-samples", default=1, show_default=True, type=click.IntRange(1), help="draws of z for each point"
)
IMPORTANCE = click.option(
    "--importance-samples",
    type=click.IntRange(1),
    help="compare log p(x) on the same points too, with so many draws  [default: the ELBO and its parts]",
)
ALLOW = click.option(
    "--allow", multiple=True, metavar="FIELD", help="a field of the evaluation card that may differ  [default: none]"
)
SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="seed of z and x")


def picture(name):
    about = f"PNG file, or text file  [default: {name} in the run folder; texts on stdout]"
    return click.option("--out", type=click.Path(dir_okay=False), help=about)


@click.command(epilog=examples("report runs/digits", "report runs/vae runs/skip-vae --out both.html"))
@RUNS
@click.option(
    "--out", type=click.Path(dir_okay=False), help="HTML file  [default: report.html in the run; comparison.html here]"
)
@BUDGET
@DRAWS
@IMPORTANCE
@ALLOW
@DEVICE
def report(runs, out, budget, posterior_samples, importance_samples, allow, device):
    """Write a page on RUN, or one that compares several: a single HTML file, with its pictures inside."""
    from pyro_skipvae.reports import page

    if len(runs) == 1:
        return click.echo(_page(runs[0], out, device))
    records, comparison = _comparison(runs, budget, posterior_samples, importance_samples, allow, device)
    target = out or "comparison.html"
    with written(target):
        click.echo(page.write_comparison(records, comparison, target))


@click.command(
    epilog=examples(
        "compare runs/vae runs/skip-vae",
        "compare runs/vae-seed* runs/skip-seed* --budget 300 --json",
        "compare runs/vae runs/skip-vae --importance-samples 200 --budget 600",
        "compare runs/diagonal runs/flow --allow estimators.rate --allow estimators.elbo",
    )
)
@RUNS
@BUDGET
@DRAWS
@IMPORTANCE
@ALLOW
@DEVICE
@JSON
def compare(runs, budget, posterior_samples, importance_samples, allow, device, as_json):
    """What RUNs differ in: settings, estimates, and the ELBO on the same test points.

    The first run is what the others are compared with. Runs that differ in the seed alone count as one model, and with
    two seeds of each there is a standard error over seeds. Runs whose evaluation cards disagree are refused.
    """
    records, comparison = _comparison(runs, budget, posterior_samples, importance_samples, allow, device)
    click.echo(comparison.to_json() if as_json else _text(records, comparison), nl=as_json)


@click.command(
    epilog=examples(
        "reconstruct runs/digits --count 8 --out eight.png",
        "reconstruct runs/pydoc --decoding beam",
        'reconstruct runs/pydoc --text "the name is bound to an object ."',
    )
)
@RUN
@click.option("--count", type=click.IntRange(1), help="how many test items, from the first on  [default: 16 images, 8 texts]")
@click.option("--text", "own", help="a text of your own, its words between blanks  [default: test texts]")
@text.decoding("greedy")
@SEED
@picture("reconstructions.png")
@DEVICE
@JSON
def reconstruct(run, count, own, decoding, beam_width, seed, out, device, as_json):
    """Show test items of RUN, and what the model makes of them: mean and sample of p(x|z), of a text its decoding."""
    from pyro_skipvae.reports import page
    from pyro_skipvae.text import generation as texts

    vae, data, _ = _shown(run, device, text=own, decoding=decoding, beam_width=beam_width)
    if data.kind != "text":
        return _draw(run, out, "reconstructions.png", as_json, lambda: page.draw_reconstructions(
            vae, data, count=count or 16, seed=seed))  # fmt: skip
    with user_errors():
        how = text.how(decoding, beam_width, "greedy")
        if own is not None and count is not None:
            raise ValueError("expected --text or --count, got both")
    x = data.test[: count or 8] if own is None else text.read(own, data)
    pairs = texts.reconstructions(vae, data.vocabulary, x, seed=seed, **how)
    lines = [line for pair in pairs for line in (f"text            {pair[0]}", f"reconstruction  {pair[1]}", "")][:-1]
    found = [{"text": original, "reconstruction": made} for original, made in pairs]
    text.emit(run, lines, {"decoding": how["decoding"], "seed": seed, "pairs": found}, out=out, as_json=as_json)


@click.command(
    epilog=examples(
        "interpolate runs/digits --from-item 3 --to-item 7",
        'interpolate runs/pydoc --from "the name is bound ." --to-item 5 --points 9',
    )
)
@RUN
@click.option("--from", "from_text", metavar="TEXT", help="the text to start from  [default: a test item]")
@click.option("--from-item", type=click.IntRange(0), help="the test item to start from  [default: 0]")
@click.option("--to", "to_text", metavar="TEXT", help="the text to end at  [default: a test item]")
@click.option("--to-item", type=click.IntRange(0), help="the test item to end at  [default: 1]")
@click.option("--points", default=7, show_default=True, type=click.IntRange(2), help="steps on the way, both ends included")
@text.decoding("greedy")
@SEED
@picture("interpolation.png")
@DEVICE
@JSON
def interpolate(run, from_text, from_item, to_text, to_item, points, decoding, beam_width, seed, out, device, as_json):
    """Go from one item of RUN to another: decode the straight line between the means of their posteriors."""
    from pyro_skipvae.reports import page
    from pyro_skipvae.text import generation as texts

    ends = {"from": from_text, "to": to_text, "decoding": decoding, "beam_width": beam_width}
    vae, data, _ = _shown(run, device, **ends)
    x_a, x_b = _end(data, "from", from_text, from_item, 0), _end(data, "to", to_text, to_item, 1)
    if data.kind != "text":
        return _draw(run, out, "interpolation.png", as_json, lambda: page.draw_interpolation(
            vae, x_a, x_b, points=points, seed=seed))  # fmt: skip
    with user_errors():
        how = text.how(decoding, beam_width, "greedy")
    way = texts.interpolation(vae, data.vocabulary, x_a, x_b, points=points, seed=seed, **how)
    found = [{"weight": weight, "text": made} for weight, made in way]
    lines = [f"{weight:.2f}  {made}" for weight, made in way]
    text.emit(run, lines, {"decoding": how["decoding"], "seed": seed, "points": found}, out=out, as_json=as_json)


@click.command(epilog=examples("traverse runs/digits", "traverse runs/digits --item 3 --dimensions 5 --out five.png"))
@RUN
@click.option("--item", default=0, show_default=True, type=click.IntRange(0), help="the test item to start from")
@click.option("--dimensions", type=click.IntRange(1), help="how many, by decreasing rate  [default: 10 of images, 3 of texts]")
@SEED
@picture("traversals.png")
@DEVICE
def traverse(run, item, dimensions, seed, out, device):
    """Show what each latent dimension of RUN does: one at a time is moved through the prior, in standard deviations.

    Texts are greedy decodings.
    """
    from pyro_skipvae.reports import page
    from pyro_skipvae.text import generation as texts

    vae, data, rates = _shown(run, device)
    start = {"rates": rates, "item": item, "seed": seed}
    if data.kind != "text":
        return _draw(run, out, "traversals.png", False, lambda: page.draw_traversals(
            vae, data, dimensions=dimensions or 10, **start))  # fmt: skip
    with user_errors():
        z, labels = page.traversed(vae, data, dimensions=dimensions or 3, **start)
    lines = []
    for row, label in zip(z, labels, strict=True):
        made = texts.decoded(vae, data.vocabulary, row)
        lines += [label, *(f"{value:+4d}  {said}" for value, said in zip(page.STEPS, made, strict=True)), ""]
    text.emit(run, lines[:-1], {}, out=out, as_json=False)


@click.command(epilog=examples("encode runs/digits --out z.npz"))
@RUN
@click.option("--out", required=True, type=click.Path(dir_okay=False), help=".npz file")
@SEED
@DEVICE
def encode(run, out, seed, device):
    """Write mean and scale of q(z|x) of all data of RUN: arrays train_loc, train_scale, train_labels, and so on."""
    import io

    import numpy as np

    from pyro_skipvae.runs.checkpoint import write_whole

    with user_errors():
        vae, data, _ = _loaded(run, device, latent=True)
        if not str(out).endswith(".npz"):
            raise ValueError(f"expected --out FILE.npz, got {out}")
    buffer = io.BytesIO()
    np.savez(buffer, **_codes(vae, data, seed))
    with written(out):
        write_whole(out, buffer.getvalue())
    click.echo(out)


@click.command(epilog=examples("export runs/digits digits-model"))
@RUN
@click.argument("folder", type=click.Path(file_okay=False))
def export(run, folder):
    """Write the model of RUN into FOLDER: safetensors weights, settings and a model card."""
    from pyro_skipvae.reports.export import export_run

    with user_errors(), written(folder):
        for file in export_run(run, folder):
            click.echo(file)


@click.command(epilog=examples("doctor", "doctor runs/digits/checkpoints/last.safetensors", "doctor runs/digits --json"))
@click.argument("path", required=False, type=click.Path(exists=True))
@JSON
def doctor(path, as_json):
    """What this machine has: versions, devices, torchvision, data. Or what the file or run at PATH is."""
    found = _about_path(path) if path else _about_machine()
    click.echo(json.dumps({"schema": 1, **found}, indent=2) if as_json else _lines(found), nl=as_json)


@click.command(
    epilog=examples("completion bash >> ~/.bashrc", "completion fish > ~/.config/fish/completions/skipvae-pyro.fish")
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context, shell):
    """Print the script that makes SHELL complete commands and options."""
    from click.shell_completion import get_completion_class

    make = get_completion_class(shell)
    click.echo(make(context.find_root().command, {}, "skipvae-pyro", "_SKIPVAE_PYRO_COMPLETE").source())


COMMANDS = (report, compare, reconstruct, interpolate, traverse, check_gradients, encode, export, doctor, completion)


def _page(run, out, device):
    """Write the page of a run; without its data, with the pictures that its folder holds."""
    from pyro_skipvae.data.folder import DataError
    from pyro_skipvae.reports.page import write_page

    try:
        with user_errors():
            vae, data, _ = _loaded(run, device)
    except DataError as error:
        note(f"No pictures were drawn anew, for want of the data: {error}")
        vae = data = None
    with written(out):
        return write_page(run, vae=vae, data=data, out=out)


def _comparison(runs, budget, samples, importance_samples, allowed, device):
    from pyro_skipvae.reports.comparison import check_comparable, compare, grouped, paired_values, read_record
    from pyro_skipvae.runs.build import choose_device

    from .terminal import progress

    with user_errors():
        records, values, device = [read_record(run) for run in runs], None, choose_device(device)
        check_comparable(records, allowed)  # before minutes are spent
        if budget and len(grouped(records)) > 1:
            with progress() as bar:
                task = bar.add_task("comparing", total=1, status="")

                def show(done, total):
                    bar.update(task, completed=done, total=total)

                about = {"samples": samples, "importance_samples": importance_samples, "device": device, "progress": show}
                values = paired_values(records, seconds=budget, **about)
        return records, compare(records, values=values, allowed=allowed)


def _loaded(run, device, *, latent=False):
    """vae, data and config of a run; ValueError for one without latent variables where these are asked for."""
    from pyro_skipvae.runs.build import choose_device
    from pyro_skipvae.runs.folder import load_run

    vae, data, config = load_run(run, device=choose_device(device))
    if latent and config.latent_dim == 0:
        raise ValueError(f"expected a model with latent variables, got {config.model} in {run}")
    return vae, data, config


def _shown(run, device, **for_text):
    """vae, data and the rate of each dimension of a run on images or text; `for_text` are options that images refuse."""
    from pyro_skipvae.reports.comparison import read_record
    from pyro_skipvae.reports.figures import can_draw

    with user_errors():
        vae, data, _ = _loaded(run, device, latent=True)
        text.only_for_text(data, **for_text)
        if data.kind != "text" and not can_draw(data.event_shape):
            raise ValueError(f"expected a model of images or text to show, got items of shape {data.event_shape}")
        return vae, data, read_record(run).report.get("rate_per_dimension")


def _draw(run, out, name, as_json, make):
    from pathlib import Path

    from pyro_skipvae.reports.figures import save_png

    with user_errors():
        figure = make()
    target = out or Path(run) / name
    with user_errors(), written(target):
        save_png(figure, target)
    text.emit_file(run, target, as_json=as_json)


def _end(data, name, own, item, usual):
    """An end of an interpolation, x (1, ...): a text of the user's own, or a test item."""
    from pyro_skipvae.reports.page import item_of

    with user_errors():
        if own is not None and item is not None:
            raise ValueError(f"expected --{name} or --{name}-item, got both")
        return item_of(data, usual if item is None else item) if own is None else text.read(own, data)


def _codes(vae, data, seed, size=500):
    """{split_loc, split_scale, split_labels}; dynamically binarised training images are drawn once, at the seed."""
    import torch

    from pyro_skipvae.reports.page import posterior_moments

    arrays, device = {}, next(vae.parameters()).device
    for split in ("train", "valid", "test"):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            batches = data.batches(split, size, seed=seed, shuffle=False)
            moments = [posterior_moments(vae.posterior(x.to(device))) for x in batches]
        for name, parts in zip(("loc", "scale"), zip(*moments, strict=True), strict=True):
            arrays[f"{split}_{name}"] = torch.cat(parts).cpu().numpy()
        if split in data.labels:
            arrays[f"{split}_labels"] = data.labels[split].numpy()
    return arrays


def _text(records, comparison):
    """A comparison as text: the answer first, then settings, differences and estimates."""
    from pyro_skipvae.reports.comparison import LABELS

    from .terminal import table

    parts = [_answer(comparison, d) for d in comparison.differences if d.quantity == "elbo"]
    if comparison.settings:
        rows = [(name, *("-" if value is None else str(value) for value in row)) for name, row in comparison.settings.items()]
        parts.append(table(("setting", *comparison.runs), rows))
    if comparison.differences:
        rows = [
            (d.quantity, f"{d.of} - {d.minus}", f"{d.value:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}",
             "-" if d.seed_error is None else f"{d.seed_error:.3f}")
            for d in comparison.differences
        ]  # fmt: skip
        header = (f"on the same {comparison.points:,} points", "difference", "nats", "95 % interval", "error over seeds")
        parts.append(table(header, rows))
    rows = [(LABELS[name], *(_cell(e) for e in row)) for name, row in comparison.estimates.items()]
    parts.append(table(("estimate", *comparison.runs), rows))
    for group, found in comparison.over_seeds.items():
        rows = [(LABELS[name], f"{v['mean']:.3f}", f"{v['standard_error']:.3f}") for name, v in found.items()]
        parts.append(table((f"over {', '.join(comparison.groups[group])}", "mean", "standard error"), rows))
    return "\n".join(parts + [note + "\n" for note in comparison.notes])


def _answer(comparison, d):
    of, minus = (", ".join(comparison.groups[name]) for name in (d.of, d.minus))
    if not d.shown:
        return f"No difference in ELBO shown between {of} and {minus}.\n"
    seeds = "over test points, not over seeds" if d.seed_error is None else f"standard error over seeds {d.seed_error:.2f}"
    return (
        f"{of} {'better' if d.shown > 0 else 'worse'} than {minus}: ELBO {d.value:+.2f} nats per datapoint "
        f"({d.low:+.2f} to {d.high:+.2f}, {seeds}), higher on {100 * d.better:.0f} % of {comparison.points:,} points.\n"
    )


def _cell(estimate):
    if estimate is None:
        return "-"
    if isinstance(estimate.value, int):
        return str(estimate.value)
    interval = "" if estimate.low is None else f"  ({estimate.low:.2f} to {estimate.high:.2f})"
    return f"{estimate.value:.3f}{interval}"


def _about_machine():
    import platform
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    import torch

    from pyro_skipvae.data import DATASETS, locate

    versions = {"python": platform.python_version()}
    try:
        needed = [text for text in requires("pyro_skipvae") if "extra ==" not in text]
        for name in ["pyro_skipvae", *(re.match(r"[\w.-]+", text)[0] for text in needed)]:
            versions[name] = version(name)
    except PackageNotFoundError as error:
        versions[error.name] = "not installed"
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    devices |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    data = {name: str(found) if (found := locate(name)[0]) else "not found" for name in DATASETS}
    return {"versions": versions, "devices": devices, "torchvision": _about_torchvision(), "data": data}


def _about_torchvision():
    from pyro_skipvae.data.torchvision_shim import load_torchvision

    try:
        load_torchvision()
    except Exception as error:  # whatever it is, it is the answer
        return {"state": f"cannot be imported: {error}"}
    whole = getattr(sys.modules.get("torchvision.extension"), "_has_ops", lambda: False)()
    return {
        "state": "whole" if whole else "works without its compiled operators, which are built for another torch; none is needed"
    }


def _about_path(path):
    from pathlib import Path

    path = Path(path)
    return _about_run(path) if path.is_dir() else _about_file(path)


def _about_run(path):
    """What a run folder holds, and the state of each checkpoint."""
    from pyro_skipvae.reports.comparison import read_record
    from pyro_skipvae.runs.checkpoint import CheckpointError

    record, checkpoints = read_record(path), {}
    for file in sorted((path / "checkpoints").glob("*.safetensors")):
        try:
            found = _about_file(file)["checkpoint"]
            checkpoints[file.name] = f"whole, epoch {found['epoch']}, {found['size']}"
        except CheckpointError as error:
            checkpoints[file.name] = str(error)
    config = record.config
    return {
        "run": {
            "model": f"{config.layers}-layer {config.decoder} {config.model} on {config.dataset}, seed {config.seed}",
            "epochs": f"{record.metrics[-1]['epoch'] if record.metrics else 0} of {config.epochs}",
            "verdict": record.report.get("verdict", "no report; make one with evaluate --save"),
        },
        "checkpoints": checkpoints,
    }


def _about_file(path):
    """What a checkpoint holds. Raises CheckpointError, with what the file is instead where that can be seen."""
    from pyro_skipvae.runs.checkpoint import CheckpointError, load

    try:
        state = load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_instead(path)}") from None
    tensors = list(_tensors(state))
    return {
        "checkpoint": {
            "state": "whole: its checksum is right",
            "size": f"{path.stat().st_size / 2**20:.1f} MiB",
            "epoch": state.get("epoch"),
            "holds": ", ".join(state),
            "tensors": len(tensors),
            "parameters of the model": sum(t.numel() for t in _tensors(state.get("vae", {}))),
        }
    }


def _instead(path):
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        start = file.read(2)
    if path.suffix == ".npz":
        return "; it is a file of data: see `train --dataset`"
    if start == b"PK" or start[:1] == b"\x80":
        return "; it looks like a file of torch.save, which may run code when loaded and is not read here"
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("format", "")
            count = len(list(file.keys()))
    except (OSError, SafetensorError):
        return ""
    if kind.startswith("pyro_skipvae export"):
        return f"; it is the weights of an exported model, {count} tensors: read it with pyro_skipvae.reports.load_exported"
    return "" if kind == "pyro_skipvae" else f"; it is a safetensors file of another program, {count} tensors"


def _tensors(state):
    import torch

    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list):
        for item in state.values() if isinstance(state, dict) else state:
            yield from _tensors(item)


def _lines(found):
    from .terminal import table

    return "\n".join(f"{title}\n" + table(("", ""), [("  " + name, str(value)) for name, value in entries.items()]).lstrip("\n")
                     for title, entries in found.items())  # fmt: skip
