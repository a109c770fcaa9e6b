"""The evaluation card: how every number of a report was made."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Changes where a number means something else. 2: the interval of aggregate_kl has the error over points, factors and masks
# count as in Pyro's ELBO, the numbers of points do not depend on the machine.
SCHEMA = 2
PACKAGES = ("pyro_skipvae", "pyro-ppl", "torch", "numpy", "scikit-learn")
FIELDS = {
    "schema": "version of this list",
    "site": "the latent site z",
    "nuisance_sites": "the other latent sites",
    "observed_sites": "the sites that make up log p(x|z)",
    "latent_shape": "event shape of z",
    "posterior_family": "class of q(z|x), of one dimension where it factorises",
    "estimators": "how rate, ELBO, mutual information and log-likelihood were estimated",
    "points": "N, the rows that rate, mutual information and active units stand on",
    "posterior_samples": "draws of z per row for them",
    "mi_points": "rows that the bounds on I_q stand on",
    "mi_components": "how many posteriors, chosen at random, they are held against; null where all rows' are",
    "mi_marginal_reference": "what r(z) is and what it was fitted to",
    "elbo_points": "rows that ELBO, distortion and the loss when z is shuffled stand on",
    "elbo_posterior_samples": "draws of z per row for them; the shuffle takes one",
    "model_mutual_information_points": "joint samples of the model",
    "log_likelihood_points": "rows that the log-likelihood stands on",
    "importance_samples": "K",
    "importance_samples_tenth": "K / 10",
    "unavailable": "estimates that the pair does not admit, with the reason",
    "seed": "of all random numbers",
    "budget_seconds": "for what needs the decoder, null without a limit",
    "beyond_budget": "what was left out, with its cost",
    "notes": "what else a reader should know",
    "device": "where z was drawn",
    "dtype": "of z",
    "code": "commit of pyro_skipvae (git describe) where it runs from a checkout, else its version",
    "versions": "of Python and packages",
}


def check_extra(extra: dict[str, Any] | None) -> None:
    """Raises ValueError where a caller's field has the name of one of `FIELDS`."""
    clash = sorted(set(FIELDS) & set(extra or {}))
    if clash:
        raise ValueError(f"expected card= to add fields of its own, got {clash}, which the report fills in")


def evaluation_card(extra: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    """The fields of this evaluation, the versions that it ran with, and the caller's own fields, in one flat dict."""
    card = {"schema": SCHEMA, **fields, "code": code(), "versions": versions()}
    return {name: card[name] for name in FIELDS} | (extra or {})


def versions() -> dict[str, str]:
    """Python's version and those of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout on the path that was never installed
            found[package] = "not installed"
    return found


@cache
def code() -> str:
    """The commit of the package as `git describe` names it where it lies in a checkout of its own, else its version."""
    folder = Path(__file__).resolve().parents[3]
    if (folder / ".git").exists():  # not one that merely holds an installed package
        command = ["git", "-C", str(folder), "describe", "--always", "--tags", "--dirty", "--abbrev=12"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):  # no git here, or a checkout that it does not read
            pass
    return versions()["pyro_skipvae"]
