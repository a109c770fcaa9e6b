"""What `reproduce theorem1` says beside its table: the theorem and its proof, what would falsify the claim, and what did.

Before the table stands what is known without training (`premise`), after it what the trained arms say (`findings`).
"""

import math
from dataclasses import dataclass
from functools import cache

from .tables import cells
from .theorem import counter_example, random_networks

RANDOM = (("tanh", 1.0, 1.0), ("sigmoid", 1.0, 1.0), ("relu", 1.4, 0.3))  # activation, gain of W, gain of U
DEPTHS = (1, 3, 9)
SKIP_WEIGHTS = (-4, -3, -2.5, -2, -1.9, -1, -0.1, 0, 0.1, 1)  # c of the counter-example
CONTROL, OTHERS = "parameter-matched", ("plain", "last layer only")  # arms beside skip; the first decides
I_P, I_Q = ("model_mi_lower", "model_mi_upper"), ("mi_lower", "mi_upper")  # the columns of their bounds

BEFORE = """\
What would falsify the claim, stated before the models below were trained. The claim: skips make trained models carry more
information, because they raise I_p, the information under the model, and I_q, that under the encoder, follows. It is
falsified if

1. the skip arm has no more information, in I_p or in I_q, than a plain model of as many parameters; or
2. the order of I_p differs from that of I_q between arms.

A difference is shown where the lower bound of one arm exceeds the upper bound of the other by two standard errors over
seeds, and indicated where both bounds differ the same way by two standard errors."""
THEOREM = """\
Theorem 1: a decoder with skips has at least the I_p of the same decoder with the skips taken out, for all weights. The
proof has three steps: (a) I(x; z) >= I(x; h) in the skip model, (b) "in particular" I(x; z) of the skip model >= I(x; h) of
the plain model, and (c) I(x; h) >= I(x; z) in the plain model. (a) holds, and (c) holds with equality, since h is computed
from z. (b) changes the model from one side to the other without a reason, and it is all that was to be shown. It fails
where a skip cancels what a layer says of z."""
EXAMPLE = """\
A counter-example that fulfils every condition: z in R^2, h = relu((z, -z)), from which W_h h = 2 z, and a skip W_z z = c z:
x = (2 + c) z + noise of standard deviation 0.5, so that I_p = ln(1 + (2 + c)^2 / 0.25) nats. c = 0 is the model without it."""
AVERAGE = """\
On average, at the start, the claim holds. Random networks, 40 a row, each without and with its skips (z in R^2, layers of
16 units, 8 outputs, noise 0.5; p(x) by quadrature; means and standard errors over networks, nats). "Rescaled" is the plain
network with its outputs multiplied to the variance of the skip network: what larger weights in the last layer give."""
MEANING = """\
The effect grows with depth until the plain network says nothing: each layer brings the outputs of different z nearer to each
other, down to the noise, and skips go around that. Single networks violate the theorem. Most of the effect is strength of
signal, which a plain network can have too; what is left for skips themselves is less, and grows with depth as well."""
LAGRANGIAN = """\
Equation 6 reads the ELBO subject to I_p >= delta as ELBO + lambda I_p with lambda > 0. If delta is the information of the
plain model with the same weights, and the theorem held, the constraint would exclude nothing, and the multiplier of a
constraint that excludes nothing is 0: the ELBO again. If delta is a fixed number, the theorem does not give the constraint:
a skip model with small weights violates it, and lambda > 0 only for who imposes it. No such term is trained, by the paper,
by its authors' code or here. Nor does I_p bind I_q: with q(z|x) = p(z), I_q is 0 whatever the decoder."""


@cache
def premise() -> list[str]:
    """What is said before the trained models: paragraphs and Markdown tables. Takes seconds, for the random networks."""
    return [BEFORE, THEOREM, EXAMPLE, _sweep_table(), AVERAGE, random_table(), MEANING, LAGRANGIAN]


def _sweep_table():
    header = ["c", *(f"{c:g}" for c in SKIP_WEIGHTS)]
    return _markdown(header, [["I_p", *(f"{counter_example(c):.2f}" for c in SKIP_WEIGHTS)]])


def random_table(networks: int = 40) -> str:
    """The table of random networks in Markdown, by activation and depth."""
    header = ["networks", "hidden layers", "plain", "skip - plain", "rescaled - plain", "less with skips", "by > 3 s.e."]
    rows = []
    for activation, gain, skip_gain in RANDOM:
        for layers in DEPTHS:
            found = random_networks(activation, layers=layers, gain=gain, skip_gain=skip_gain, networks=networks)
            rows.append([f"{activation}, gains {gain:g} and {skip_gain:g}", str(layers), *_row(found)])
    return _markdown(header, rows)


def _row(found):
    means = [_mean(found.plain), _mean(found.difference), _mean(found.rescaled - found.plain)]
    return [*means, f"{found.violating:.0%}", f"{found.surely_violating:.0%}"]


def _mean(values):
    return f"{values.mean() + 0.0:.2f} ± {values.std() / len(values) ** 0.5:.2f}".replace("-0.00", "0.00")


def _markdown(header, rows):
    lines = [header, *rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


@dataclass(frozen=True)
class Order:
    """How the information of two arms compares: `sign` 1, -1, or 0 where nothing is shown; `words` tell it."""

    sign: int
    words: str


def order(first: dict, second: dict, bounds: tuple[str, str]) -> Order:
    """The order of two arms in an information that is known between bounds, each a cell with mean, deviation and seeds.

    Shown where lower bound - upper bound exceeds two standard errors over seeds, indicated where both bounds differ the
    same way by as much.
    """
    differences = [first[name].ours - second[name].ours for name in bounds]
    told = "lower bounds differ by {:+.2f}, upper bounds by {:+.2f}".format(*differences)
    errors = {(a, b): _error(first[a], second[b]) for a in bounds for b in bounds}
    if None in errors.values():
        return Order(0, f"{told} (one seed: not shown)")
    low, high = bounds
    for sign, above, below in ((1, first, second), (-1, second, first)):
        pair = (low, high) if sign > 0 else (high, low)
        if above[low].ours - below[high].ours > 2 * errors[pair]:
            return Order(sign, f"{told} (shown)")
        if all(sign * d > 2 * errors[name, name] for d, name in zip(differences, bounds, strict=True)):
            return Order(sign, f"{told} (indicated)")
    return Order(0, f"{told} (not shown)")


def findings(table, entries) -> list[str]:
    """What the trained arms say of the two tests that were stated beforehand."""
    return tests_in_words({arm: columns for (_, arm), columns in cells(table, entries).items()})


def tests_in_words(arms: dict) -> list[str]:
    """Both tests, from {arm: {column: cell}}."""
    names = ("skip", CONTROL, *OTHERS)
    if any(arms[name][column].ours is None for name in names for column in (*I_P, *I_Q)):
        return ["The tests stated beforehand wait for the trained arms."]
    told, orders, seeds = [], {}, all(arms[name][I_P[0]].seeds > 1 for name in ("skip", CONTROL))
    for a, b in [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]:
        p, q = (order(arms[a], arms[b], bounds) for bounds in (I_P, I_Q))
        orders[a, b] = p.sign, q.sign
        told.append(f"{a} against {b}: I_p {p.words}; I_q {q.words}.")
    return [*told, _first_test(*orders["skip", CONTROL], seeds), _second_test(orders)]


def _first_test(p, q, seeds):
    told = f"Test 1: skip against {CONTROL}: "
    if p > 0 and q > 0:
        return told + "more of I_p and of I_q. The claim stands."
    less = [name for name, sign in (("I_p", p), ("I_q", q)) if sign < 0]
    if less:
        return f"{told}less of {' and of '.join(less)}. The claim is falsified here."
    if not seeds:
        return told + "one seed of an arm decides nothing."
    open_ones = " and of ".join(name for name, sign in (("I_p", p), ("I_q", q)) if not sign)
    return told + f"more of {open_ones} is not shown, which counts against the claim, as stated beforehand."


def _second_test(orders):
    opposed = [pair for pair, (p, q) in orders.items() if p * q < 0]
    agreed = [pair for pair, (p, q) in orders.items() if p * q > 0]
    single = [pair for pair, (p, q) in orders.items() if bool(p) != bool(q)]
    told = f"Test 2: of {len(orders)} pairs of arms, I_p and I_q order {len(agreed)} alike and {len(opposed)} differently"
    told += f" ({_pairs(opposed)})" if opposed else ""
    told += f"; of {len(single)} only one of the two shows an order ({_pairs(single)})" if single else ""
    if opposed:
        return f"{told}. The mechanism is falsified here."
    if len(agreed) < len(orders):
        return f"{told}. {'So far it agrees with the mechanism.' if agreed and not single else 'That is undecided.'}"
    return f"{told}. The mechanism stands."


def _pairs(pairs):
    return "; ".join(f"{a} and {b}" for a, b in pairs)


def _error(first, second):
    if first.deviation is None or second.deviation is None:
        return None
    return math.sqrt(first.deviation**2 / first.seeds + second.deviation**2 / second.seeds)
