"""The verdict: is it collapsed, as a kind, the amounts behind it, and one sentence."""

import math
from collections.abc import Callable
from typing import Any

from ..estimates.sites import NOTHING
from ..pairs.interval import FEWEST, Interval

FEW_NATS = math.log(10)  # with fewer, z tells at most ten groups of x apart ...
SMALL_SHARE = 0.1  # ... and is weak where that is also less than a tenth of the nats, or of the variance, of x
COLLAPSED, DEAF = "collapsed", "collapsed on the decoder's side"
WEAK, USED, UNDECIDED, NO_LATENTS = "weakly used", "not collapsed", "undecided", "no latent variables"
KINDS = (COLLAPSED, DEAF, WEAK, USED, UNDECIDED, NO_LATENTS)
CONCLUSIONS = {WEAK: "not collapsed, but z is weakly used"}  # the other kinds are their own words
OLDER_WORDS = {  # words in the sentences of reports that had no kind -> kind; any other is "collapsed"
    "no latent variables": NO_LATENTS,
    "not collapsed": USED,
    "partly collapsed": USED,
    "undecided": UNDECIDED,
    "cannot be told": UNDECIDED,
    "does not fit": UNDECIDED,
    "collapsed on the decoder's side": DEAF,
}


class Verdict(str):
    """One sentence, with its `kind` (one of `KINDS`) and the `amounts` that it was decided by, plain values in nats.

    It is a string, so that it prints and reads as its sentence. Amounts: `information` and `share` (low, high, None where there
    is no bound), `nats_of_x`, `loss` (value, low, high), `active_units`, `dimensions`; {} in a verdict of an older report.
    """

    kind: str
    amounts: dict[str, Any]

    def __new__(cls, sentence: str, kind: str, amounts: dict[str, Any] | None = None) -> "Verdict":
        verdict = super().__new__(cls, sentence)
        verdict.kind, verdict.amounts = kind, amounts or {}
        return verdict

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.sentence, self.kind, self.amounts

    @property
    def sentence(self) -> str:
        """The sentence as a plain string."""
        return str.__str__(self)

    @property
    def finding(self) -> str:
        """The sentence without its conclusion."""
        return self.rpartition(":")[0] or self.sentence

    def to_dict(self) -> dict[str, Any]:
        """Kind, sentence and amounts as plain values."""
        return {"kind": self.kind, "sentence": self.sentence, "amounts": self.amounts}

    @classmethod
    def from_stored(cls, stored: "str | dict[str, Any] | Verdict") -> "Verdict":
        """The verdict that `to_dict` wrote, or that of an older report, which is a sentence alone."""
        if isinstance(stored, dict):
            return cls(stored["sentence"], stored["kind"], stored["amounts"])
        return cls(stored, next((kind for words, kind in OLDER_WORDS.items() if words in stored), COLLAPSED))


def verdict(
    *,
    active: int | None,
    dimensions: int,
    loss: Interval | None,
    points: int,
    information: float | None = None,
    information_low: float | None = None,
    nats_of_x: float | None = None,
    elements: int | None = None,
    conditional: bool = False,
) -> Verdict:
    """The verdict from active units (0.01), the decoder's loss when z is shuffled, and what z says of x, in nats per datapoint.

    loss: with its interval, None or nan where it is not known; information, information_low: the upper end of the interval of
    the smallest upper bound on I_q(x; z), and the lower end of that of its lower bound; nats_of_x: -log p(x) where x has
    probabilities, None where it has densities; elements: of one x; conditional: whether p(z) differs between the points, so
    that the information is that beyond what p(z) depends on. Decided by ends of 95 % intervals, never by a value:
        fewer than 10 points                                       undecided
        information < 0.1                                          collapsed
        the interval of the loss lies within -0.1 to 0.1           collapsed; on the decoder's side if information_low >= 0.1
        the interval of the loss lies above 0.1                    not collapsed; weakly used where information is less than
                                                                   ln 10 and less than a tenth of nats_of_x, or, without
                                                                   those, 1 - exp(-2 information / elements) < 0.1
        else                                                       undecided
    The nats of a density depend on the unit of x. The share that stands for them is that of the variance: so much of it can be
    explained by these nats where x has as many independent normal elements.
    """
    if dimensions == 0:
        return Verdict("The model has no latent variables: there is nothing to collapse.", NO_LATENTS)
    lost = loss or Interval(math.nan, math.nan, math.nan)
    low, high = _ordered(information_low, information)
    share = _share(low, high, nats_of_x)
    kind = _kind(lost, low, high, _part(high, share, elements)) if points >= FEWEST else UNDECIDED
    amounts = {
        "information": {"low": low, "high": high},
        "share": share,
        "nats_of_x": nats_of_x,
        "loss": vars(lost).copy(),
        "active_units": active,
        "dimensions": dimensions,
    }
    why = _why(kind, lost, active) if points >= FEWEST else [f"a verdict needs {FEWEST} points, and these are {points}"]
    said = _said(low, high, share, nats_of_x)
    said = f"Beyond what p(z) depends on, {said}" if conditional and high is not None else said
    parts = [said, _lost(lost), _units(active, dimensions), *why]
    return Verdict(f"{'; '.join(parts)}: {CONCLUSIONS.get(kind, kind)}.", kind, amounts)


def _kind(lost: Interval, low: float | None, high: float | None, part: float | None) -> str:
    if high is not None and high < NOTHING:
        return COLLAPSED
    if lost.low >= -NOTHING and lost.high <= NOTHING:
        return DEAF if low is not None and low >= NOTHING else COLLAPSED
    if not lost.low > NOTHING:
        return UNDECIDED
    return WEAK if part is not None and part < SMALL_SHARE and high is not None and high < FEW_NATS else USED


def _part(high: float | None, share: dict[str, Any] | None, elements: int | None) -> float | None:
    """The largest part of x that z can say: of its nats, or else of its variance; None where it is not known."""
    if high is None:
        return None
    if share is not None:
        return share["high"]
    return -math.expm1(-2 * high / elements) if elements else None


def _ordered(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Both ends as numbers of at least 0; the lower one is at most the upper one, which noise alone can break."""
    low, high = (None if end is None or not math.isfinite(end) else max(end, 0.0) for end in (low, high))
    return (min(low, high) if low is not None and high is not None else low), high


def _share(low: float | None, high: float | None, nats_of_x: float | None) -> dict[str, Any] | None:
    if nats_of_x is None or not math.isfinite(nats_of_x) or nats_of_x <= 0:
        return None
    return {"low": None if low is None else low / nats_of_x, "high": None if high is None else high / nats_of_x}


def _said(low: float | None, high: float | None, share: dict[str, Any] | None, nats_of_x: Any) -> str:
    if low is None and high is None:
        return "What z says of x is not known"
    said = f"z says {_range(low, high, _nats)} nats of x"
    if share is None:
        return said
    low_share, high_share = (None if end is None else 100 * end for end in share.values())
    percent = _range(low_share, high_share, _percent)
    return f"{said} ({percent} % of its {_nats(nats_of_x)} nats, -log p(x))"


def _lost(lost: Interval) -> str:
    if math.isnan(lost.value):
        return "what the decoder loses when z is shuffled is not known"
    ends = "" if math.isnan(lost.low) or math.isinf(lost.low) else f" ({_nats(lost.low)} to {_nats(lost.high)})"
    return f"the decoder loses {_nats(lost.value)} nats{ends} when z is shuffled"


def _units(active: int | None, dimensions: int) -> str:
    return "active units unknown" if active is None else f"{active} of {dimensions} units active"


def _why(kind: str, lost: Interval, active: int | None) -> list[str]:
    """What a reader cannot see from the amounts alone."""
    if kind == DEAF:
        return ["z varies with x but the decoder ignores it"]
    if kind == UNDECIDED and lost.high < -NOTHING:
        return ["it does better with the z of other points, so the encoder does not fit it"]
    if kind == UNDECIDED and not math.isnan(lost.value):
        return [f"these points do not tell whether that is more than {NOTHING} nats"]
    if kind in (USED, WEAK) and active == 0:
        return ["z varies on a scale below the threshold of active units"]
    return []


def _range(low: Any, high: Any, written: Callable[[float], str]) -> str:
    if low is None or high is None:
        return f"at most {written(high)}" if low is None else f"at least {written(low)}"
    if low < high / 100:
        return f"at most {written(high)}"
    return written(high) if written(low) == written(high) else f"{written(low)} to {written(high)}"


def _nats(value: float) -> str:
    return f"{value:z.{3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1}f}"


def _percent(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
