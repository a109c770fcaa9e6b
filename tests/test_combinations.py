"""Any two choices of prior, guide, objective, procedure and decoder go together, or are refused in a sentence.

The rows are made of `Config`'s own tables, so that a new choice is covered by itself: the fewest that hold every pair, by an
integer program. These are 155, though no two factors have more than 87 pairs that go together.
Objectives other than the ELBO, procedures other than the joint one, and guides with a prior of their own exclude each other,
so that each takes a row of its own for each decoder. `analytic-elbo` beside `elbo` takes 8 more, `mmd(WEIGHT,ALPHA)` beside
`mmd(WEIGHT)` 9.
"""

import functools
import itertools
import math
import re
from importlib.util import find_spec

import numpy
import pyro
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array

from pyro_skipvae.diagnostics import collapse_report
from pyro_skipvae.runs.build import build_data, resolve
from pyro_skipvae.runs.config import INFERENCES, TEXT_DECODERS, Config, ConfigError
from pyro_skipvae.training import fit
from pyro_skipvae_cli.job import Job, as_trained

FACTORS = ("prior", "guide", "objective", "procedure", "decoder")
REFINED = tuple(name for name in INFERENCES if name != "amortized")  # procedures too, by another flag
NUMBER = {"K": 2, "NATS": 12, "SHARE": 0.5, "WEIGHT": 10, "DIVERSITY": 1, "EPOCHS": 1, "MOVES": 1}  # what stands in brackets
SIZE = {"layers": 1, "width": 8, "maps": 4, "embedding": 4, "heads": 2, "components": 3, "svi_steps": 2, "batch_size": 12}
SIZE |= {"epochs": 2, "limit_train": 24, "limit_eval": 12, "latent_dim": 3, "dropout": 0.1}
OF_IMAGES = ("dropout",)  # sizes that only a text model has
MOST = 155  # rows


def choices(name):
    """The choices of a setting, numbers in their places; without those that are another one's again, with a number more."""
    named = Config.__dataclass_fields__[name].metadata["choices"]
    named = [choice for choice in named if "," not in choice and choice != "analytic-elbo"]
    if not find_spec("vector_quantize_pytorch"):  # an extra
        named = [choice for choice in named if choice != "codebook"]
    named = [re.sub("[A-Z]+", lambda found: str(NUMBER[found[0]]), choice) for choice in named]
    return named + list(REFINED) * (name == "procedure")


@functools.cache
def data_of(text):
    return build_data(Config(dataset="synthetic-text" if text else "digits", limit_train=24, limit_eval=12))


@functools.cache
def refusal(row):
    """The sentence that refuses a row, or None."""
    try:
        configured(row)
    except ConfigError as error:
        return str(error)
    return None


def configured(row):
    flags = {flag(factor, choice): choice for factor, choice in zip(FACTORS, row, strict=True)}
    text = flags["decoder"] in TEXT_DECODERS
    size = {name: value for name, value in SIZE.items() if text or name not in OF_IMAGES}
    return resolve(Config.from_flags({**size, **flags, "dataset": "synthetic-text" if text else "digits"}), data_of(text))


def flag(factor, choice):
    return "inference" if choice in REFINED else factor


def pairs_of(row):
    """The pairs ((factor, choice), (factor, choice)) in a row."""
    return set(itertools.combinations(zip(FACTORS, row, strict=True), 2))


@functools.cache
def covering():
    """(as few accepted rows as can hold every pair that any accepted row holds, the pairs that none holds)."""
    rows = list(itertools.product(*map(choices, FACTORS)))
    accepted = [row for row in rows if refusal(row) is None]
    held = [pairs_of(row) for row in accepted]
    pairs = {pair: number for number, pair in enumerate(sorted(set().union(*held)))}
    holds = lil_array((len(pairs), len(accepted)))
    for column, found in enumerate(held):
        holds[[pairs[pair] for pair in found], column] = 1
    each = {"constraints": LinearConstraint(holds.tocsr(), lb=1), "integrality": 1, "bounds": Bounds(0, 1)}
    chosen = milp(numpy.ones(len(accepted)), **each).x > 0.5
    never = set().union(*map(pairs_of, rows)) - pairs.keys()
    return [row for row, taken in zip(accepted, chosen, strict=True) if taken], sorted(never)


def usual(*changed):
    """The row of a plain VAE, with some pairs (factor, choice) in place of its own."""
    plain = {factor: Config.__dataclass_fields__[factor].default or "mlp" for factor in FACTORS}
    return tuple({**plain, **dict(changed)}.values())


def every_choice_once():
    """For each choice an accepted row that differs from the plain VAE in as little else as can be; none twice."""
    found = {}
    for factor in FACTORS:
        for choice in choices(factor):
            others = [(f, c) for f in FACTORS for c in choices(f) if f != factor]
            rows = (usual((factor, choice), *more) for count in range(3) for more in itertools.combinations(others, count))
            found[next(row for row in rows if refusal(row) is None)] = None
    return list(found)


def check_row(row):
    """Train a few steps, and report: all numbers are finite, or a reason stands in their place."""
    config = configured(row)
    job = Job(config, data_of(config.decoder in TEXT_DECODERS), torch.device("cpu"))
    with as_trained():
        for epoch in fit(job.step, job.batches, epochs=2, beta=job.beta):
            assert math.isfinite(epoch.loss), row
        assert job.step.nonfinite() is None, row
    job.vae.eval()
    report = collapse_report(job.vae.model, job.vae.guide, job.data.test, importance_samples=2, posterior_samples=2)
    assert math.isfinite(report.elbo) and math.isfinite(report.rate), row
    certain = "certain of one code" in report.card["unavailable"].get("log_likelihood", "")
    assert certain == (report.log_likelihood is None) == (config.guide == "codebook"), row
    assert certain or math.isfinite(report.log_likelihood), row
    for name in ("mi_lower", "mi_upper", "active_units"):
        assert getattr(report, name) is not None or name.partition("_")[0] in str(report.card["unavailable"]), (row, name)
    pyro.clear_param_store()


def test_every_choice_trains_and_reports():
    for row in every_choice_once():
        check_row(row)


def test_two_choices_go_together_or_are_refused_by_name():
    for one, other in every_pair():
        said = refusal(usual(one, other))
        if said is not None:
            assert re.match("expected .*, got ", said) and "\n" not in said, (one, other, said)
            assert any(f"--{flag(*each)}" in said and each[1] in said for each in (one, other)), (one, other, said)


@pytest.mark.slow
def test_the_rows_hold_every_pair_and_are_few():
    rows, never = covering()
    assert set().union(*map(pairs_of, rows)) | set(never) == set(every_pair()) and len(rows) <= MOST
    assert all(refusal(usual(*pair)) for pair in never)


@pytest.mark.slow
def test_every_pair_trains_and_reports():
    for row in covering()[0]:
        check_row(row)


def every_pair():
    """All pairs of choices of two factors."""
    named = [(factor, choice) for factor in FACTORS for choice in choices(factor)]
    return [(one, other) for one, other in itertools.combinations(named, 2) if one[0] != other[0]]
