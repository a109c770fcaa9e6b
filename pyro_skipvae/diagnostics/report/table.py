"""The collapse report as a table of text."""

import io
from html import escape
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..pairs.interval import Interval

if TYPE_CHECKING:
    from ..estimates.codes import Codes
    from ..estimates.sites import SiteReport
    from .report import CollapseReport

GROUPS = {
    "fit": (
        ("ELBO", "elbo"), ("distortion -E log p(x|z)", "distortion"), ("log-likelihood", "log_likelihood"),
        ("  with a tenth of the samples", "log_likelihood_tenth"),
        ("  effective samples, median", "effective_sample_size"),
        ("  ELBO on the same points", "elbo_on_log_likelihood_points"),
    ),
    "rate and information": (
        ("rate KL(q(z|x) || p(z))", "rate"), ("I_q(x; z), lower bound", "mi_lower"),
        ("I_q(x; z), upper bound", "mi_upper"), ("I_q(x; z), fitted-marginal bound", "mi_marginal"),
        ("ceiling of the lower bound", "mi_ceiling"), ("KL(q(z) || p(z))", "aggregate_kl"),
    ),
    "units": (("active units (0.01)", "active_units"), ("active units (0.02)", "active_units_0_02")),
    "decoder": (("loss when z is shuffled", "shuffled_latent_loss"),),
}  # fmt: skip
_SAME = ("elbo_on_log_likelihood_points",)  # said where it differs from the ELBO above
SMALL_RATE = 0.01  # nats of a dimension, below which at 99 % of x the table counts it as collapsed
MOST_SITES = 12  # rows in the table; all are in report.sites
FEW_SAMPLES = 10  # effective importance samples, median over points: with fewer, log p(x) is a lower bound only


def table(report: "CollapseReport") -> str:
    """The report as aligned text, in nats per datapoint: estimates with 95 % intervals, notes, the verdict."""
    text = io.StringIO()
    console = Console(file=text, width=100, color_system=None, force_terminal=False, emoji=False, highlight=False)
    console.print(_grid(report))
    for note in _notes(report):
        console.print(note, markup=False)
    console.print(report.verdict.sentence, markup=False, soft_wrap=True)  # one line, however long
    return text.getvalue().rstrip()


def html(report: "CollapseReport") -> str:
    """The same as HTML, escaped: a caption, the rows, the verdict, the notes."""
    grid = _grid(report)
    columns = [[escape(str(cell)) for cell in column.cells] for column in grid.columns]
    rows = "".join(
        f"<tr><th>{group}</th><td>{label}</td><td>{value}</td><td>{interval}</td></tr>"
        for group, label, value, interval in zip(*columns, strict=True)
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(report))
    caption = f"<caption>{escape(str(grid.title))}</caption>"
    return f"<p><b>{escape(report.verdict.sentence)}</b></p><table>{caption}<tbody>{rows}</tbody></table><ul>{notes}</ul>"


def few_samples(effective: float | None, importance_samples: int) -> str | None:
    """The warning that importance sampling rests on a few draws: `effective` is the median over points, None or nan unknown."""
    if effective is None or not effective < FEW_SAMPLES or importance_samples <= 1:
        return None
    return (
        f"log p(x) rests on {effective:.1f} effective samples of {importance_samples} (median over points; 10 are wanted): "
        "it is a lower bound that may be some nats low, and its interval, that of the bound, may lie below the true value."
    )


def _grid(report: "CollapseReport") -> Table:
    grid = Table(title="Is it collapsed? (nats per datapoint, 95 % intervals)", title_justify="left", show_header=False)
    if report.perplexity:
        _perplexities(grid, report.perplexity)
    if report.bits_per_dimension:
        _bits(grid, report.bits_per_dimension, report.card["importance_samples"])
    for name, rows in GROUPS.items():
        for position, (label, attribute) in enumerate(rows):
            if attribute not in _SAME or report.card["log_likelihood_points"] < report.card["elbo_points"]:
                grid.add_row("" if position else name, label, *_cells(report, attribute))
            if attribute == "rate" and report.card.get("committed_rate") is not None:
                grid.add_row("", "  committed", _number(report.card["committed_rate"]), "")
            if attribute == "rate" and report.card.get("auxiliary_prior"):
                grid.add_row("", "  against the auxiliary prior", *_measured(report.card["auxiliary_prior"]["rate"]))
            if attribute == "elbo" and report.card.get("auxiliary_prior"):
                grid.add_row("", "  with the auxiliary prior", *_measured(report.card["auxiliary_prior"]["elbo"]))
            if attribute == "active_units_0_02" and report.collapse_thresholds:
                dimensions = len(report.collapse_thresholds)
                small = round(report.collapsed_share(SMALL_RATE) * dimensions)
                grid.add_row("", f"rate below {SMALL_RATE} at 99 % of x", str(small), f"of {dimensions} dimensions")
        grid.add_section()
    if report.card.get("ranking"):
        _ranking(grid, report.card["ranking"])
    if report.amortized:
        _amortized(grid, report.amortized)
    _sites(grid, report)
    under = report.model_mutual_information
    if under:
        grid.add_row("generative model", "I_p(x; z), lower bound", *_bound(under.lower))
        grid.add_row("", "I_p(x; z), upper bound", *_bound(under.upper))
        grid.add_section()
    papers, batch = report.mi_dieng_2019, report.mi_he_2019_batch_32
    if papers:
        grid.add_row("papers' conventions", f"Dieng 2019, N = {papers['N']}", *_convention(papers))
    if batch:
        grid.add_row("" if papers else "papers' conventions", f"He 2019, batches of {batch['batch']}", *_convention(batch))
    return grid


def _sites(grid: Table, report: "CollapseReport") -> None:
    """A row for each latent site where there are several, groups first; and what discrete ones say."""
    sites = report.sites or []
    if len(sites) > 1:
        rows = sorted(sites, key=lambda site: len(site.sites) == 1)
        for position, site in enumerate(rows[:MOST_SITES]):
            grid.add_row("" if position else "rate of each site", Text(site.name), *_site(site))
        if len(rows) > MOST_SITES:
            grid.add_row("", f"... and {len(rows) - MOST_SITES} more", "", "report.sites")
        grid.add_section()
    for site in sites[:MOST_SITES]:
        if site.codes:
            _codes(grid, site.name, site.codes)


def _site(site: "SiteReport") -> tuple[str, str]:
    units = "units unknown" if site.active_units is None else f"{site.active_units} of {site.dimensions} units"
    lost = site.shuffled_loss_with_latents
    said = "" if lost is None else f"; {_number(lost.value)} lost without it"
    return ("-" if site.rate is None else _number(site.rate.value)), f"{units}{said}: {site.kind}"


def _codes(grid: Table, name: str, codes: "Codes") -> None:
    several = codes.positions > 1
    perplexity = sum(codes.perplexity) / codes.positions
    grid.add_row(
        Text(f"codes of {name}"), "perplexity" + ", mean of the positions" * several, _number(perplexity), f"of {codes.codes}"
    )
    grid.add_row("", "dead codes", str(sum(codes.dead)), f"of {codes.codes * codes.positions}")
    if several:
        grid.add_row("", "perplexity of a codebook shared by all", _number(codes.codebook_perplexity), f"of {codes.codes}")
        grid.add_row("", "  dead codes", str(codes.codebook_dead), f"of {codes.codes}")
    high, low = _number(codes.information_high), _number(codes.information_low)
    grid.add_row("", "I(x; codes)", low if low == high else f"{low} to {high}", f"ceiling {_number(codes.ceiling)} a position")
    grid.add_section()


def _perplexities(grid: Table, perplexity: dict[str, Any]) -> None:
    for position, (key, name) in enumerate(_bounds(perplexity).items()):
        grid.add_row("" if position else "perplexity per token", name, *_measured(perplexity[key]))
    grid.add_section()


def _bits(grid: Table, bits: dict[str, Any], samples: int) -> None:
    labels = {"bits_iw": f"importance sampling, {samples} draws", "bits_elbo": "ELBO", "bits_rate": "  of which the rate"}
    for position, (key, label) in enumerate(labels.items()):
        grid.add_row("" if position else "bits per dimension", label, *_measured(bits[key]))
    grid.add_section()


def _ranking(grid: Table, measures: dict[str, Any]) -> None:
    for position, (name, measure) in enumerate((name, each) for name, each in measures.items() if name != "users"):
        grid.add_row("" if position else "ranking of items held out", name, *_measured(measure))
    grid.add_section()


def _bounds(perplexity: dict[str, Any]) -> dict[str, str]:
    return {"ppl_iw": f"ppl_iw{perplexity['importance_samples']}", "ppl_elbo": "ppl_elbo"}


def _amortized(grid: Table, amortized: dict[str, Any]) -> None:
    """What the encoder alone reaches, and the gap of its bound in two parts."""
    labels = {"elbo": "ELBO", "rate": "rate", "mi_lower": "I_q(x; z), lower bound", "mi_upper": "I_q(x; z), upper bound",
              "active_units": "active units (0.01)", "amortization_gap": "amortization gap, refined - amortized ELBO",
              "approximation_gap": "approximation gap, log p(x) - refined ELBO"}  # fmt: skip
    for position, (key, label) in enumerate(labels.items()):
        grid.add_row("" if position else "before refinement", label, *_measured(amortized.get(key)))
    grid.add_section()


def _measured(value: Any) -> tuple[str, str]:
    if isinstance(value, dict):
        return _number(value["value"]), f"{_number(value['low'])} to {_number(value['high'])}"
    if value is None:
        return "-", "not available"
    return (str(value) if isinstance(value, int) else _number(value)), ""


def _cells(report: "CollapseReport", attribute: str) -> tuple[str, str]:
    value = getattr(report, attribute)
    if attribute == "effective_sample_size":
        return _effective(value, report.card["importance_samples"])
    if value is None or isinstance(value, Interval):
        return _bound(value)
    if isinstance(value, int):
        return str(value), f"of {len(report.active_unit_variances)}"
    half = report.estimates()[attribute].half_width
    return _number(value), "" if half is None else f"+- {_number(half)}"


def _bound(value: Interval | None) -> tuple[str, str]:
    return ("-", "not available") if value is None else (_number(value.value), _range(value))


def _effective(effective: dict[str, Any] | None, samples: int) -> tuple[str, str]:
    if effective is None or effective.get("median") is None:
        return "-", "not available"
    return f"{effective['median']:.1f}", f"of {samples}; least {effective['min']:.1f}"


def _convention(convention: dict[str, Any]) -> tuple[str, str]:
    return _number(convention["value"]), f"ceiling {_number(convention['ceiling'])}"


def _range(interval: Interval) -> str:
    return f"{_number(interval.low)} to {_number(interval.high)}"


def _number(value: float) -> str:
    return f"{value:z.3f}" if abs(value) < 1000 else f"{value:,.1f}"


HOLES = 5.0  # nats between q(z) and the prior: a draw of q(z) is then about a hundred times as likely under it


def _notes(report: "CollapseReport") -> list[str]:
    notes = []
    if report.card.get("mi_components"):
        notes.append(
            f"Bounds on I_q: {report.card['mi_points']:,} points against {report.card['mi_components']:,} random ones; "
            f"the rest on {report.card['points']:,} points."
        )
    if report.saturated:
        more = "random components" if report.card.get("mi_components") else "points"
        notes.append(f"Saturated: the lower bound is within 2 nats of its ceiling and may be far too low. Use more {more}.")
    under = report.model_mutual_information
    if under and under.saturated:
        notes.append(f"The lower bound on I_p is saturated: its ceiling is ln {under.points} = {under.ceiling:.2f}.")
    iw, by_elbo = (f", and {name}" for name in _bounds(report.perplexity).values()) if report.perplexity else ("", "")
    if report.card["elbo_points"] < report.card["points"]:
        notes.append(f"ELBO, distortion, loss when z is shuffled{by_elbo}: on the first {report.card['elbo_points']:,} points.")
    if report.card["log_likelihood_points"] < report.card["points"]:
        notes.append(f"Log-likelihood{iw}: on the first {report.card['log_likelihood_points']:,} points.")
    apart = report.aggregate_kl
    if apart and apart.low > max(HOLES, report.rate / 2):
        notes.append(
            f"Holes in q(z): at least {_number(apart.low)} of the {_number(report.rate)} nats of the rate are KL(q(z) || p(z)) "
            "and say nothing of x; draws of the prior lie mostly where the decoder was never trained."
        )
    few = few_samples((report.effective_sample_size or {}).get("median"), report.card["importance_samples"])
    if few:
        notes.append(f"Warning: {few}")
    if report.perplexity:
        notes.append(f"Tokens: {report.perplexity['counted']}.")
    unavailable = report.card["unavailable"]
    for reason in dict.fromkeys(unavailable.values()):
        names = ", ".join(name for name, why in unavailable.items() if why == reason)
        notes.append(f"Not available: {names}. Reason: {reason}.")
    notes += [f"Beyond the budget: {left_out}." for left_out in report.card["beyond_budget"]]
    return notes + [f"Note: {note}." for note in report.card["notes"]]
