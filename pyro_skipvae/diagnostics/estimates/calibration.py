"""Simulation-based calibration of a guide: do its posteriors have the right place and width, on data that the model draws?"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_skipvae.stored import finite_or_none

from ..pairs.evaluation import as_found
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Pair, Progress
from ..pairs.rows import Inputs, Rows, call, count_rows, values
from ..pairs.sites import log_prob_by_row
from ..pairs.unavailable import Refused
from .pairwise import flat

LEVELS = (0.5, 0.8, 0.9)
ALPHA = 0.01  # a departure is told where the smallest p-value times the number of quantities is below
SHOWN = 10  # quantities in the text, the worst first; all are in `to_json`
LIKELIHOOD = "log p(x|z)"
LITTLE = 0.05  # of the variance of the true z: a guide whose means explain less says next to nothing
CANNOT_SEE = (
    "on data that the model draws, and of each quantity by itself, not their dependence; at data that the model does not fit "
    "posteriors may be worse"
)


@dataclass(frozen=True)
class Quantity:
    """The calibration of one quantity over the simulations: a dimension of z, or log p(x|z).

    bias: the mean rank of the true value among the guide's draws, scaled to 0..1, minus 1/2; above 0 the guide is too low.
    symmetry: p-value of the test that bias is 0; it cannot see a wrong width.
    uniformity: p-value of the chi-squared test, over at most 20 bins of ranks, that all ranks are equally likely; it can see a
    wrong width.
    width: root mean square of (true value - guide's mean) / guide's standard deviation, corrected for the noise of both over
    the draws: 1 is right, 10 is a guide that is ten times too narrow. None for log p(x|z), or a guide without spread.
    coverage: {level: the share of true values inside the guide's central interval of this level}.
    explained: squared correlation of true values and guide's means, near 0 where the guide ignores x; None for log p(x|z).
    """

    name: str
    bias: Interval
    symmetry: float
    uniformity: float
    width: Interval | None
    coverage: dict[str, Interval]
    explained: float | None


@dataclass(frozen=True)
class Calibration:
    """The result of `calibration`: a row for each quantity, and what they say together.

    kind: "no departure found", "shifted", "too narrow", "too wide" or "not uniform"; sentence: the same with its numbers;
    quantities: see `Quantity`; notes: what the test cannot see, and what else a reader should know.
    """

    simulations: int
    draws: int
    kind: str
    sentence: str
    quantities: list[Quantity]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict of plain values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The attributes as JSON; numbers that are not finite become null."""
        return json.dumps(finite_or_none(self.to_dict()), indent=2, allow_nan=False)

    def __str__(self) -> str:
        levels = "".join(f"{f'in {level}':>9}" for level in self.quantities[0].coverage)
        head = f"{'quantity':<14}{'bias of rank':>26}{'width':>24}{levels}"
        lines = [head + f"{'p, symmetric':>14}{'p, uniform':>12}"]
        worst = sorted(self.quantities, key=lambda quantity: quantity.uniformity)
        lines += [_line(quantity) for quantity in worst[:SHOWN]]
        if len(worst) > SHOWN:
            lines.append(f"... and {len(worst) - SHOWN} more")
        return "\n".join([*lines, self.sentence, *(f"Note: {note}." for note in self.notes)])


def calibration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    simulations: int = 500,
    draws: int = 99,
    likelihood: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Tests whether a guide's posteriors have the right location and width, on data drawn from the model itself.

        z* ~ p(z),  x* ~ p(x|z*),  z_1 .. z_L ~ q(z|x*)       rank = #{z_l < z*}, uniform on 0 .. L where q is p(z|x)

    L is `draws`. Each dimension of each latent site is tested, and with `likelihood` also log p(x*|z): it detects a guide that
    ignores x and returns the prior, whose z alone have uniform ranks. Works for any model and guide that `collapse_report`
    takes. x gives the shapes, and the contexts of a conditional model. Ties, as discrete z have, are broken at random.

    The symmetric test (is the mean rank 1/2?) accepts a guide that is ten times too narrow; `uniformity`, `width` and
    `coverage` do not. A departure is reported where a p-value of uniformity times the number of quantities is below 0.01. An
    amortized guide is expected to depart somewhat: `width` and `coverage` say how much. `notes` say what the test cannot see.

    Cost: `draws` runs of the guide over `simulations` rows, and with `likelihood` as many runs of the decoder.
    Raises ValueError for fewer than 20 simulations or 19 draws, for a pair without numbers per datapoint (see
    `collapse_report`), and where the model's draws of x cannot be given to the guide.
    Reference: Talts et al. 2018; Yao et al. 2018, section 3.2; Modrak et al. 2023 on log p(x|z).
    """
    if simulations < 20:
        raise ValueError(f"expected at least 20 simulations, got {simulations}")
    if draws < 19:
        raise ValueError(f"expected at least 19 draws, got {draws}")
    with as_found(model, guide, x=x, seed=seed, samples=(draws,)) as rows:
        pair = Pair(model, guide, rows, joint=True)
        index = torch.arange(simulations, device="cpu") % pair.points
        parts = []
        for part in index.tensor_split(-(-simulations // pair.rows_at_a_time)):
            parts.append(_simulated(pair, pair.rows(part), draws, likelihood))
            if progress:
                progress("calibration", sum(len(found["rank"]) for found in parts), simulations)
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        names = _names(pair) + [LIKELIHOOD] * likelihood
    return _concluded(found, names, draws, pair.notes)


def _simulated(pair: Pair, rows: Rows, draws: int, likelihood: bool) -> dict[str, Tensor]:
    """Ranks (n, Q) of true values and draws, and of z the true values and the guide's means and variances (n, D)."""
    trace = call(pair.model, rows, poutine.trace(poutine.uncondition(pair.model)).get_trace)
    latents = {name: trace.nodes[name]["value"] for name in pair.latents}
    seen = {name: trace.nodes[name]["value"] for name in pair.observed}
    given = _with_observations(pair, rows, seen)
    truth, index = _joined(latents), torch.arange(count_rows(given), device="cpu")
    at = pair.at(given)
    truth_log_x = _log_x(at, rows, seen, latents)
    quantities = torch.cat([truth, truth_log_x[:, None]], 1) if likelihood else truth
    below, equal = torch.zeros(2, *quantities.shape, dtype=torch.float64, device="cpu")
    total, squares = torch.zeros(2, *truth.shape, dtype=torch.float64, device="cpu")
    for _ in range(draws):
        run = at.guide_trace(given)
        drawn = {name: run.nodes[name]["value"] for name in pair.latents}
        z = _joined(drawn)
        total, squares = total + z, squares + (z - truth).square()
        if likelihood:
            z = torch.cat([z, at.log_joint(index, drawn)[0].double().cpu()[:, None]], 1)
        below, equal = below + (z < quantities), equal + (z == quantities)
    rank = below + (torch.rand(equal.shape, dtype=torch.float64, device="cpu") * (equal + 1)).floor()
    mean = total / draws
    variance = (squares / draws - (mean - truth).square()) * draws / (draws - 1)
    return {"rank": rank, "truth": truth, "mean": mean, "variance": variance}


def _with_observations(pair: Pair, rows: Rows, seen: dict[str, Tensor]) -> Rows:
    """The rows with what the model drew in place of what it observed."""
    trace = call(pair.model, rows, poutine.trace(pair.model).get_trace)
    replaced: dict[int, Tensor] = {}
    items = list(values(rows))
    for name, drawn in seen.items():
        was = trace.nodes[name]["value"]
        places = [i for i, item in enumerate(items) if i not in replaced and _is_same(item, was)]
        if not places:
            raise Refused(
                f"expected the model to observe an argument of its own at {name!r}, got other values: what it draws "
                "there cannot be given to the guide"
            )
        # A copy of x is what the model reads of it (teacher forcing); of values that are all equal it may be a context.
        for i in places if items[places[0]].unique().numel() > 1 else places[:1]:
            replaced[i] = drawn.reshape(items[i].shape).to(items[i].dtype)
    items = [replaced.get(i, item) for i, item in enumerate(items)]
    return dict(zip(rows, items, strict=True)) if isinstance(rows, dict) else tuple(items)


def _is_same(item: Any, value: Tensor) -> bool:
    """Whether an argument is what was observed, in another shape or kind of number at most."""
    if not isinstance(item, Tensor) or item.dim() == 0 or item.numel() != value.numel() or len(item) != len(value):
        return False
    return torch.equal(item.flatten().double(), value.flatten().double())


def _log_x(at: Pair, rows: Rows, seen: dict[str, Tensor], latents: dict[str, Tensor]) -> Tensor:
    """log p(x*|z*) (n,); Refused where it is another one when the model is given x: it then reads it as an input too."""
    found = []
    for given in (at.x, rows):
        data = latents | seen
        trace = call(at.model, given, poutine.trace(poutine.condition(at.model, data=data)).get_trace)
        terms = [log_prob_by_row(trace.nodes[name], count_rows(given)) for name in at.observed]
        found.append(torch.stack(terms).sum(0).double().cpu())
    if not torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-3, equal_nan=True):
        raise Refused(
            "expected p(x|z) of z and context alone, got one that also reads the x that it is given (teacher forcing): the "
            "model then cannot draw x by itself"
        )
    return found[0]


def _joined(drawn: dict[str, Tensor]) -> Tensor:
    return torch.cat([flat(value).double().cpu() for value in drawn.values()], 1)


def _names(pair: Pair) -> list[str]:
    """A name for each dimension of each latent site."""
    few = pair.rows(slice(0, 2))
    trace, names = pair.guide_trace(few), []
    for site in pair.latents:
        size = flat(trace.nodes[site]["value"]).shape[1]
        names += [site] if size == 1 else [f"{site}[{number}]" for number in range(size)]
    return names


def _concluded(found: dict[str, Tensor], names: list[str], draws: int, notes: list[str]) -> Calibration:
    rank, simulations = found["rank"], len(found["rank"])
    quantities = [_quantity(name, rank[:, number], found, number, draws) for number, name in enumerate(names)]
    kind, sentence = _told(quantities, simulations)
    explained = [quantity.explained for quantity in quantities if quantity.explained is not None]
    if explained and max(explained) < LITTLE:
        notes = [
            *notes,
            "the guide's means explain less than 5 % of the variance of z: it says next to nothing of z, right or wrong",
        ]
    return Calibration(simulations, draws, kind, sentence, quantities, [*notes, f"What this cannot see: it is {CANNOT_SEE}"])


def _quantity(name: str, rank: Tensor, found: dict[str, Tensor], number: int, draws: int) -> Quantity:
    from scipy import stats  # slow to import, and few need it

    part = (rank + 0.5) / (draws + 1)
    bias = mean_interval(part - 0.5)
    error = math.sqrt((1 - (draws + 1) ** -2) / 12 / len(rank))  # of a mean of uniform ranks
    bins = max(2, min(20, len(rank) // 10, draws + 1))
    # The bin of each rank: bins of nearly equal size.
    ranks = (torch.arange(draws + 1, device="cpu") * bins).div(draws + 1, rounding_mode="floor")
    expected = ranks.bincount() * (len(rank) / (draws + 1))
    counts = ranks[rank.long()].bincount(minlength=bins)
    chi_squared = ((counts - expected).square() / expected).sum().item()
    width, explained = None, None
    if name != LIKELIHOOD:
        truth, mean, variance = (found[key][:, number] for key in ("truth", "mean", "variance"))
        width = _width(truth, mean, variance, draws)
        explained = _squared_correlation(truth, mean)
    return Quantity(
        name=name,
        bias=bias,
        symmetry=float(2 * stats.norm.sf(abs(bias.value) / error)),
        uniformity=float(stats.chi2.sf(chi_squared, bins - 1)),
        width=width,
        coverage=dict(_coverage(rank, level, draws) for level in LEVELS),
        explained=explained,
    )


def _width(truth: Tensor, mean: Tensor, variance: Tensor, draws: int) -> Interval | None:
    """Root mean square of the standardised error; the noise of the mean and variance of L draws of a normal is taken out."""
    if not (variance > 0).all():
        return None
    noise = (1 + 1 / draws) * (draws - 1) / (draws - 3)
    squares = mean_interval((truth - mean).square() / variance / noise)
    return Interval(*(max(end, 0.0) ** 0.5 for end in (squares.value, squares.low, squares.high)))


def _squared_correlation(truth: Tensor, mean: Tensor) -> float | None:
    deviations = truth.std(correction=0) * mean.std(correction=0)
    if deviations == 0:
        return None
    return (((truth - truth.mean()) * (mean - mean.mean())).mean() / deviations).square().item()


def _coverage(rank: Tensor, level: float, draws: int) -> tuple[str, Interval]:
    """(the level that these ranks have, the share of them that lie in the middle, with Wilson's interval)."""
    cut = round((1 - level) / 2 * (draws + 1))
    inside = ((rank >= cut) & (rank <= draws - cut)).double().mean().item()
    count, z = len(rank), 1.96
    middle = (inside + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(inside * (1 - inside) / count + z**2 / (4 * count**2))
    return f"{1 - 2 * cut / (draws + 1):.0%}", Interval(inside, middle - half, middle + half)


def _told(quantities: list[Quantity], simulations: int) -> tuple[str, str]:
    """The kind and the sentence: by the quantity that departs most."""
    worst = min(quantities, key=lambda quantity: quantity.uniformity)
    if worst.uniformity * len(quantities) >= ALPHA:
        return "no departure found", f"No departure found in {len(quantities)} quantities over {simulations} simulations."
    departing = [each for each in quantities if each.uniformity * len(quantities) < ALPHA]
    kind, words = _departure(departing)
    return kind, f"{len(departing)} of {len(quantities)} quantities depart: {words}."


def _departure(departing: list[Quantity]) -> tuple[str, str]:
    widths = [each for each in departing if each.width is not None]
    narrow = max(widths, key=lambda each: each.width.low, default=None)  # type: ignore[union-attr]  # those with one
    wide = min(widths, key=lambda each: each.width.high, default=None)  # type: ignore[union-attr]
    shifted = max(departing, key=lambda each: abs(each.bias.value))
    is_shifted = shifted.symmetry < ALPHA
    # A shift widens the standardised error too: it is told first where the ranks lean to one side.
    if is_shifted and abs(shifted.bias.value) > 0.1 and shifted.name != LIKELIHOOD:
        where = "low" if shifted.bias.value > 0 else "high"
        return "shifted", f"{shifted.name} is too {where}, its mean rank off by {shifted.bias.value:+.2f}"
    if narrow is not None and narrow.width is not None and narrow.width.low > 1:
        return "too narrow", f"{narrow.name} by a factor of {_range(narrow.width)}"
    if wide is not None and wide.width is not None and wide.width.high < 1:
        return "too wide", f"{wide.name}, whose errors are {_range(wide.width)} of its standard deviation"
    if is_shifted and shifted.name != LIKELIHOOD:
        return "shifted", f"{shifted.name}, its mean rank off by {shifted.bias.value:+.2f}"
    if shifted.name == LIKELIHOOD and shifted.bias.value > 0:
        return "not uniform", "log p(x|z) of the true z is above that of the guide's draws: they do not follow x closely enough"
    return "not uniform", f"the ranks of {min(departing, key=lambda each: each.uniformity).name} are not uniform"


def _range(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _line(quantity: Quantity) -> str:
    bias = f"{quantity.bias.value:+.3f} ({quantity.bias.low:+.3f} to {quantity.bias.high:+.3f})"
    width = "-" if quantity.width is None else _range(quantity.width)
    covered = "".join(f"{interval.value:>9.2f}" for interval in quantity.coverage.values())
    return f"{quantity.name:<14}{bias:>26}{width:>24}{covered}{quantity.symmetry:>14.2g}{quantity.uniformity:>12.2g}"
