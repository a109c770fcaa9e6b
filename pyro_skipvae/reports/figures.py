"""Every picture: numbers and images in, a matplotlib figure out.

Each function draws into `ax`, or into a figure of its own where none is given, and returns the figure. Figures are
made without pyplot, which would need a display and keep every one of them alive. Arrays, tensors and lists are all
taken; what is finite by nature and is not raises ValueError.

Images are (H, W), (1, H, W) or (3, H, W), shown with the greys of the data: 0 is black, 1 is white. Values outside
[0, 1], as a normal likelihood draws them, are clipped for the eye.
"""

from functools import wraps
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from pyro_skipvae.runs.checkpoint import write_whole
from pyro_skipvae.text.printable import printable

# Okabe and Ito 2008, in an order that also differs in lightness; their yellow is too faint for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Petroff 2021: ten colours that were optimised for colour-blind and normal eyes together.
LONGEST_CLASS_NAME = 20  # characters beside a figure
CLASS_PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
INK, QUIET, FAINT = "#222222", "#6b6b6b", "#d0d0d0"
GAP = (0.55, 0.60, 0.66)
DOTS_PER_INCH = 150
STYLE = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib, so a picture is the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "figure.dpi": DOTS_PER_INCH,
    "legend.fontsize": 8,
    "legend.frameon": False,
}
BURDA, AUTHORS_CODE = 0.01, 0.02  # variances above which a unit counts as active


def _styled(draw):
    """Run a function in the one style; the caller's rcParams have no influence, and come back as they were."""

    @wraps(draw)
    def styled(*arguments, **options):
        with rc_context():
            rcdefaults()
            rcParams.update(STYLE)
            return draw(*arguments, **options)

    return styled


@_styled
def prior_samples(images, *, ax=None, columns=8):
    """A grid of images (N, H, W) or (N, C, H, W) with `columns` in a row. Raises ValueError for fewer than one."""
    if columns < 1:
        raise ValueError(f"expected at least 1 column, got {columns}")
    tiles = _tiles(images, 1)
    ax, _ = _mosaic(ax, tiles, min(columns, len(tiles)))
    return ax.figure


@_styled
def samples(means, draws, *, ax=None, columns=8):
    """Means of p(x|z) above draws from it, each (N, H, W) or (N, C, H, W), for the same z in the same places.

    Raises ValueError if the two differ in shape, or for fewer than one column.
    """
    means, draws = _tiles(means, 1), _tiles(draws, 1)
    if means.shape != draws.shape or columns < 1:
        raise ValueError(f"expected means and draws of one shape and a column, got {means.shape}, {draws.shape}, {columns}")
    columns = min(columns, len(draws))
    rows = -(-len(draws) // columns)
    blank = np.broadcast_to(np.array(GAP), (rows * columns - len(draws), *means.shape[1:]))
    ax, (centres, _) = _mosaic(ax, np.concatenate([means, blank, draws]), columns)
    ax.set_yticks([centres[:rows].mean(), centres[rows:].mean()], ["mean", "draw"])
    return ax.figure


@_styled
def reconstructions(images, means, samples, *, ax=None):
    """Rows of inputs x, means of p(x|z) and samples of it, z ~ q(z|x), each (N, H, W) or (N, C, H, W).

    `means` is None for a decoder that has none in closed form (an autoregressive one): there are two rows then.
    Raises ValueError if the rows differ in shape.
    """
    rows = {"input": images, "mean": means, "sample": samples}
    rows = {name: _tiles(row, 1) for name, row in rows.items() if row is not None}
    shapes = [row.shape for row in rows.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"expected rows of one shape (N, H, W, colours), got {shapes}")
    ax, centres = _mosaic(ax, np.concatenate(list(rows.values())), len(rows["input"]))
    ax.set_yticks(centres[0], list(rows))
    return ax.figure


@_styled
def latent_traversals(images, *, values, labels, ax=None):
    """Images (rows, columns, H, W) or (rows, columns, C, H, W): a row per latent dimension, a column per value of it.

    `values` are in standard deviations of the prior, `labels` name the rows, by decreasing rate. Raises ValueError if
    there are not as many as columns and rows.
    """
    tiles = _tiles(images, 2)
    if tiles.shape[:2] != (len(labels), len(values)):
        raise ValueError(f"expected images for {len(labels)} labels and {len(values)} values, got {tiles.shape[:2]}")
    ax, (rows, columns) = _mosaic(ax, tiles.reshape(-1, *tiles.shape[2:]), len(values))
    ax.set_yticks(rows, labels)
    ax.set_xticks(columns, [f"{float(value):g}".replace("-", "\N{MINUS SIGN}") for value in values])
    ax.set_xlabel("value of one latent dimension, in standard deviations of the prior")
    return ax.figure


@_styled
def rate_per_dimension(rates, *, ax=None, threshold=0.01):
    """Bars of KL(q(z_d|x) || p(z_d)) (D,) in nats per datapoint, sorted, and those below `threshold` nats set apart.

    `rates` may be a report (a CollapseReport or its dict) too.
    """
    rates = np.sort(_vector(_from_report(rates, "rate_per_dimension"), "rates"))[::-1]
    ranks, above = np.arange(1, len(rates) + 1), int((rates > threshold).sum())
    ax = _axes(ax, 6.4, 2.8)
    ax.bar(ranks, rates, color=np.where(rates > threshold, PALETTE[0], PALETTE[4]), width=0.8)
    _level(ax, threshold, f"{threshold:g} nats", side="bottom")
    if above < len(rates):
        ax.axvspan(above + 0.5, len(rates) + 0.5, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
    _whole_numbers(ax, 1, len(rates))
    ax.set_xlabel("latent dimension, sorted by rate")
    ax.set_ylabel("rate (nats)")
    ax.set_title(f"Sum {rates.sum():.2f} nats; {above} of {len(rates)} dimensions above {threshold:g} nats")
    return ax.figure


@_styled
def active_unit_variances(variances, *, codes=False, ax=None):
    """Var_x E_q[z_d|x] (D,), sorted on a log axis, with the two thresholds in use above which a unit counts as active.

    `variances` may be a report (a CollapseReport or its dict) too. With `codes` they are what each discrete code says of x.
    Reference: Burda, Grosse, Salakhutdinov 2016 (0.01); the code of Dieng et al. 2019 (0.02).
    """
    variances = _from_report(variances, "active_unit_variances")
    # An encoder that ignores x has the variance 0, which a log axis cannot show.
    variances = np.sort(_vector(variances, "variances").clip(1e-8))[::-1]
    ax = _axes(ax, 6.4, 2.8)
    ax.scatter(np.arange(1, len(variances) + 1), variances, s=16, linewidths=0, zorder=3,
               c=np.where(variances > BURDA, PALETTE[0], PALETTE[4]))  # fmt: skip
    _level(ax, AUTHORS_CODE, f"{AUTHORS_CODE:g} authors' code", side="bottom", style=":")
    _level(ax, BURDA, f"{BURDA:g} Burda et al.", side="top")
    ax.set_yscale("log")
    ax.set_ylim(min(0.004, variances[-1] / 2), max(2.0, variances[0] * 2))
    _whole_numbers(ax, 1, len(variances))
    _plain_log_labels(ax.yaxis)
    ax.set_xlabel("code, sorted by information" if codes else "latent dimension, sorted by variance")
    ax.set_ylabel("information (nats)" if codes else "variance of the posterior mean")
    counts = [int((variances > threshold).sum()) for threshold in (BURDA, AUTHORS_CODE)]
    ax.set_title(f"{counts[0]} of {len(variances)} units active at {BURDA:g}, {counts[1]} at {AUTHORS_CODE:g}")
    return ax.figure


@_styled
def collapse_curve(thresholds, *, ax=None, epsilon=0.01):
    """The share of dimensions that are collapsed at each e, P_x[KL_d <= e] >= 0.99, over e in nats on a log axis.

    `thresholds` (D,) are the smallest such e of each dimension, or a report (a CollapseReport or its dict); `epsilon` is
    marked.
    Reference: Lucas et al. 2019, "Don't blame the ELBO!", definition 1 and figure 3.
    """
    thresholds = np.sort(_vector(_from_report(thresholds, "collapse_thresholds"), "thresholds"))
    ax = _axes(ax, 6.4, 2.8)
    # A dimension that is the prior at all x has the threshold 0, which a log axis cannot show: it counts from the left end on.
    left, right = min(1e-3, epsilon / 2), max(2 * thresholds[-1], 10 * epsilon)
    places = np.concatenate([[left], thresholds[thresholds > left], [right]])
    ax.step(places, [np.mean(thresholds <= place) for place in places], where="post", color=PALETTE[0])
    ax.axvline(epsilon, color=PALETTE[1], linestyle="--", linewidth=1)
    ax.set(xscale="log", xlim=(left, right), ylim=(-0.03, 1.03))
    _plain_log_labels(ax.xaxis)
    ax.minorticks_off()  # they take a third of the time of the picture
    ax.set_xlabel("e (nats): the KL of the dimension is at most e at 99 % of x")
    ax.set_ylabel("share of dimensions")
    ax.set_title(f"{(thresholds <= epsilon).sum()} of {len(thresholds)} dimensions are collapsed at {epsilon:g} nats")
    return ax.figure


@_styled
def dimension_losses(losses, labels, *, ax=None, threshold=0.1):
    """Bars of what the decoder loses for each dimension (D,), sorted, with their 95 % intervals, in nats per datapoint.

    `losses` are (value, low, high), named by `labels`; those whose interval reaches `threshold`, or has no ends (None or nan),
    are set apart. Raises ValueError if there are not as many.
    """
    losses = np.array(losses, dtype=float)
    if losses.shape != (len(labels), 3) or not len(labels):
        raise ValueError(f"expected a loss with its interval for each of {len(labels)} labels, got shape {losses.shape}")
    order = np.argsort(-_array(losses[:, 0], "losses"), kind="stable")
    values, lows, highs = losses[order].T
    matter = lows > threshold  # False for nan
    ax = _axes(ax, 6.4, 2.8)
    places = np.arange(1, len(labels) + 1)
    ax.bar(places, values, color=np.where(matter, PALETTE[0], PALETTE[4]), width=0.8)
    ax.errorbar(places, values, yerr=[values - lows, highs - values], fmt="none", ecolor=INK, elinewidth=1)
    ax.set_xticks(places, [labels[i] for i in order], rotation=90 if len(labels) > 12 else 0)
    ax.set_xlim(0.4, len(labels) + 0.6)
    ax.set_xlabel("latent dimension, sorted by loss")
    ax.set_ylabel("loss (nats)")
    ax.set_title(f"{matter.sum()} of {len(labels)} dimensions matter: a loss above {threshold:g} nats")
    return ax.figure


@_styled
def layer_sensitivities(layers, *, figure=None):
    """Two panels over the layers of a decoder: what its activations are made of, and in how many directions z moves them.

    `layers` are dicts of `layer`, `z` (a dict of value, low, high; its ends may be None or nan), `others`, `constant` and
    `directions`, from the bottom up: see `pyro_skipvae.diagnostics.LayerSensitivity`. Draws two
    axes into `figure`. Raises ValueError for no layers.
    """
    if not layers:
        raise ValueError("expected at least one layer, got none")
    figure = Figure(figsize=(6.4, 4.6), layout="constrained") if figure is None else figure
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    places = np.arange(len(layers))
    z = _array([layer["z"]["value"] for layer in layers], "parts")
    low, high = (np.array([layer["z"][end] for layer in layers], dtype=float) for end in ("low", "high"))
    # A part that is 0 but for the noise of the draws may be estimated a little below; a decoder of z alone has no others.
    others, constant = (np.clip(_array([layer[name] for layer in layers], "parts"), 0, 1) for name in ("others", "constant"))
    _axes(above).bar(places, z, color=PALETTE[0], label="z")
    if others.max() > 0.02:
        above.bar(places, others, bottom=z, color=PALETTE[4], label="elements of x before")
    above.bar(places, constant, bottom=z + others, color=FAINT, label="the same for all x")
    above.errorbar(places, z, yerr=[z - low, high - z], fmt="none", ecolor=INK, elinewidth=1)
    above.set(ylim=(0, 1.05), ylabel="part of the mean square")
    directions = _array([layer["directions"] for layer in layers], "directions")
    _axes(below).bar(places, directions, color=PALETTE[0])
    below.set_xticks(places, [layer["layer"] for layer in layers])
    below.set(xlabel="layer of the decoder, from the bottom up", ylabel="directions")
    below.set_ylim(0, max(2.0, 1.1 * directions.max()))
    above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def _from_report(values, name):
    """What a report, or its dict, has under a name; other values as they are. Raises ValueError where the report has none."""
    found = values.get(name) if isinstance(values, dict) else getattr(values, name, values)
    if found is None:
        raise ValueError(f"expected a report with {name}, got one without; its card says why under 'unavailable'")
    return found


def tsne(means, *, seed=0):
    """Embed posterior means (N, D) in the plane by t-SNE, (N, 2), with perplexity 30, or less for few points."""
    from sklearn.manifold import TSNE  # slow to import, and few pictures need it

    means = _array(means, "means")
    return TSNE(perplexity=min(30, (len(means) - 1) / 3), init="pca", random_state=seed).fit_transform(means)


def pca(means):
    """Project posterior means (N, D) on their first two principal components, (N, 2)."""
    from sklearn.decomposition import PCA

    return PCA(2).fit_transform(_array(means, "means"))


def neighbour_accuracy(means, classes, *, k=10):
    """The share of points (N, D) whose class is the commonest among their k nearest others, in the latent space itself.

    Every point is held out in turn. Raises ValueError for k or fewer points, or another number of classes (N,).
    """
    from sklearn.neighbors import NearestNeighbors

    means, classes = _array(means, "means"), torch.as_tensor(classes).cpu()
    if not k < len(means) == len(classes):
        raise ValueError(f"expected more than {k} points with a class each, got {len(means)} and {len(classes)} classes")
    # Without a query every point is left out of its own neighbours.
    neighbours = NearestNeighbors(n_neighbors=k).fit(means).kneighbors(return_distance=False)
    return (classes[torch.from_numpy(neighbours)].mode(1).values == classes).double().mean().item()


@_styled
def posterior_means(embedding, classes, *, ax=None, title=None, accuracy=None, class_names=()):
    """Posterior means embedded in the plane (N, 2), coloured by class (N,), each class named at its median.

    `class_names` are those of the classes 0, 1, ...; without them a class is named by its number.
    `accuracy`, a share in [0, 1], is that of `neighbour_accuracy`, and goes into the caption.
    Raises ValueError if there are not as many classes as points.
    """
    embedding, classes = _array(embedding, "embedding"), torch.as_tensor(classes).cpu().numpy()
    if embedding.shape != (len(classes), 2):
        raise ValueError(f"expected an embedding ({len(classes)}, 2) of the classes, got {embedding.shape}")
    names, index = np.unique(classes, return_inverse=True)
    ax = _axes(ax, 4.6, 4.2)
    colours = np.array([CLASS_PALETTE[i % len(CLASS_PALETTE)] for i in range(len(names))])
    ax.scatter(*embedding.T, c=colours[index], s=5, linewidths=0, alpha=0.8)
    for i, name in enumerate(names):
        shown = _class_name(class_names[name]) if class_names else str(name)
        _halo(ax, *np.median(embedding[index == i], 0), shown)
        ax.scatter([], [], color=colours[i], s=20, linewidths=0, label=shown)
    if len(names) <= len(CLASS_PALETTE):
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)  # the coordinates mean nothing
    if title is not None:
        ax.set_title(title)
    if accuracy is not None:
        ax.set_xlabel(f"nearest-neighbour accuracy in the latent space: {100 * accuracy:.1f} %")
    return ax.figure


def _class_name(name):
    """A name from the data as a figure shows it: short, and without what Matplotlib would take for a formula or hide."""
    short = name if len(name) <= LONGEST_CLASS_NAME else name[: LONGEST_CLASS_NAME - 1] + "…"
    short = printable(short).replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short


@_styled
def rate_distortion(points, *, ax=None):
    """One point a run in the plane of rate and distortion, in nats per datapoint, with dashed lines of equal ELBO.

        ELBO = -(rate + distortion)

    `points` are tuples (label, rate, distortion, half of the bar at the rate, that at the distortion), where a bar is a 95 %
    interval if nothing else is said. Raises ValueError if there are none.

    Reference: Alemi et al. 2018, figure 1.
    """
    if not points:
        raise ValueError("expected at least one run, got none")
    ax = _axes(ax, 6.4, max(3.6, 0.18 * len(points) + 0.4))  # as high as the legend
    for i, (label, rate, distortion, rate_half, distortion_half) in enumerate(points):
        ax.errorbar(rate, distortion, xerr=rate_half, yerr=distortion_half, label=label, zorder=3,
                    color=PALETTE[i % len(PALETTE)], marker="osD^v"[i // len(PALETTE) % 5], markersize=6)  # fmt: skip
    _widen(ax, points)
    _iso_elbo_lines(ax, points)
    ax.set_xlabel("rate (nats)")
    ax.set_ylabel("distortion (nats)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02))
    return ax.figure


@_styled
def rate_planes(groups, *, accuracy="accuracy of a linear probe (%)", figure=None):
    """Families of runs over rates: distortion with dashed lines of equal ELBO above, what a probe reads out of z below.

        ELBO = -(rate + distortion)

    `groups` are {family: points}, a point a dict of `rate`, `distortion` and `accuracy` (or None), each (value, half of its
    95 % interval), `name`, its setting, and perhaps `auxiliary`, its rate against an auxiliary prior: a hollow mark. Draws
    two axes into `figure`. Raises ValueError for no points.

    Reference: Razavi et al. 2019, figure 4; Alemi et al. 2018, figure 1.
    """
    if not any(groups.values()):
        raise ValueError("expected at least one run, got none")
    figure = Figure(figsize=(6.4, 8.2), layout="constrained") if figure is None else figure
    panels = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for ax, quantity in zip(panels, ("distortion", "accuracy"), strict=True):
        _axes(ax)
        for i, (family, points) in enumerate(groups.items()):
            below = -10 if i % 2 else 4  # names of neighbouring families keep apart
            style = {"colour": PALETTE[i % len(PALETTE)], "marker": "osD^vP*"[i % 7], "names": (4, below)}
            _family(ax, family, points, quantity, **style)
    points = [("", p["rate"][0], p["distortion"][0], p["rate"][1], p["distortion"][1]) for own in groups.values() for p in own]
    _widen(panels[0], points)
    _iso_elbo_lines(panels[0], points)
    panels[0].set_ylabel("distortion (nats)")
    panels[1].set(xlabel="rate (nats)", ylabel=accuracy)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _family(ax, family, points, quantity, *, colour, marker, names):
    """Points of one family by increasing rate, a thin line through them, each with the name of its setting."""
    own = sorted((point for point in points if point[quantity] is not None), key=lambda point: point["rate"][0])
    if not own:
        return
    style = {"color": colour, "marker": marker, "markersize": 5, "zorder": 3}
    rates, values = ([point[name][0] for point in own] for name in ("rate", quantity))
    bars = {"xerr": [point["rate"][1] for point in own], "yerr": [point[quantity][1] for point in own]}
    ax.errorbar(rates, values, **bars, **style, linewidth=0.8, elinewidth=1, label=family)
    for point in own:
        place, white = (point["rate"][0], point[quantity][0]), [withStroke(linewidth=2, foreground="white")]
        ax.annotate(point["name"], place, names, textcoords="offset points", fontsize=7, color=colour, path_effects=white)
        if point.get("auxiliary"):
            ax.plot(point["auxiliary"][0], point[quantity][0], **style, mfc="white")


@_styled
def committed_rates(by_correlation, by_length, *, published=(), ceiling=None, figure=None):
    """The rate that an AR(1) prior commits: against the correlation above, of a step against the length below.

    `by_correlation` and `by_length` are {label: (xs, nats of one channel)}; `published` are points (correlation, nats);
    `ceiling` is what a step of a long sequence commits at most. Raises ValueError for no curves.

    Reference: Razavi et al. 2019, figure 1.
    """
    if not by_correlation or not by_length:
        raise ValueError("expected at least one curve in each panel, got none")
    figure = Figure(figsize=(6.4, 6.4), layout="constrained") if figure is None else figure
    above, below = map(_axes, figure.subplots(2))
    for ax, curves in ((above, by_correlation), (below, by_length)):
        for i, (label, (xs, nats)) in enumerate(curves.items()):
            ax.plot(xs, nats, color=PALETTE[i % len(PALETTE)], label=label)
    if published:
        above.plot(*zip(*published, strict=True), "x", color=INK, label="published")
    above.set(xlabel="correlation of neighbouring steps", ylabel="nats a channel", ylim=(0, None))
    below.set(xlabel="steps", ylabel="nats a step and channel", xscale="log", ylim=(0, None))
    _plain_log_labels(below.xaxis)
    if ceiling is not None:
        _level(below, ceiling, "(ln 2)/2", side="center")
    for ax in (above, below):
        ax.legend(loc="upper left", bbox_to_anchor=(1.12, 1.02))
    return figure


@_styled
def normal_contours(panels, *, reach=3.0, figure=None):
    """Contours of two normals in the plane, at one and two standard deviations, one panel for each pair.

    `panels` are tuples (title, covariance of the prior (2, 2), covariance of the posterior (2, 2)), both with mean 0. Raises
    ValueError for none. Reference: Razavi et al. 2019, figure 1.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    figure = Figure(figsize=(6.4, 6.4), layout="constrained") if figure is None else figure
    columns = 2 if len(panels) > 1 else 1
    axes = np.ravel(figure.subplots(-(-len(panels) // columns), columns, sharex=True, sharey=True))
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for ax, (title, prior, posterior) in zip(axes, panels, strict=False):
        _axes(ax).set(title=title, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        named = ((prior, PALETTE[0], "prior"), (posterior, PALETTE[1], "nearest independent posterior"))
        for covariance, colour, name in named:
            root = np.linalg.cholesky(_array(covariance, "covariances"))
            for deviations in (1, 2):
                label = name if ax is axes[0] and deviations == 1 else None
                ax.plot(*(deviations * root @ circle), color=colour, label=label, linewidth=1.6 / deviations)
    figure.supxlabel("first step of z", fontsize=9)
    figure.supylabel("second step of z", fontsize=9)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@_styled
def draws_of_latents(same, different, *, columns):
    """Two grids of images: a row of draws of x for each z above, a draw of x for each of as many other z below.

    Each (N, H, W) or (N, C, H, W). Reference: Razavi et al. 2019, figure 3.
    """
    same, different = _tiles(same, 1), _tiles(different, 1)
    blank = np.broadcast_to(np.array(GAP), (columns, *same.shape[1:]))
    ax, (rows, _) = _mosaic(None, np.concatenate([same, blank, different]), columns)
    count = len(same) // columns
    ax.set_yticks([rows[:count].mean(), rows[count + 1 :].mean()], ["one z\na row", "other z\neach"])
    return ax.figure


@_styled
def training_curves(metrics, *, figure=None):
    """The epochs of a run, from the lines of metrics.jsonl: loss, rate, active units and beta over one axis.

    Draws four axes into `figure`, a Figure or SubFigure. Rate and distortion stand apart because their sum, the
    negative ELBO, hides a collapse. A number that a line lacks, or that is not finite, leaves a gap. Raises ValueError
    if there are no lines.
    """
    if not metrics:
        raise ValueError("expected at least one line of metrics, got none")
    figure = Figure(figsize=(6.4, 5.6), layout="constrained") if figure is None else figure
    panels = figure.subplots(4, sharex=True, height_ratios=(4, 3, 2, 2))
    for ax, name in zip(panels, ("loss (nats)", "rate (nats)", "active\nunits", "beta"), strict=True):
        _axes(ax).set_ylabel(name)
    losses, rate, units, beta = panels
    _curve(losses, metrics, "train_loss", PALETTE[4], label="training loss")
    _curve(losses, metrics, "valid_elbo", INK, label="negative ELBO, validation", sign=-1)
    _curve(losses, metrics, "valid_distortion", PALETTE[1], label="distortion, validation")
    losses.legend()
    for ax, key, colour in ((rate, "valid_rate", 0), (units, "active_units", 2), (beta, "beta", 3)):
        _curve(ax, metrics, key, PALETTE[colour])
        _from_zero(ax)
    committed = metrics[-1].get("committed_rate")
    if committed is not None:
        _level(rate, committed, f"{committed:.3g} nats committed", side="bottom")
    units.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _whole_numbers(beta, metrics[0]["epoch"], metrics[-1]["epoch"])
    beta.set_xlabel("epoch")
    figure.align_ylabels(panels)
    return figure


@_styled
def runs_by_epoch(runs, *, figure=None):
    """ELBO, rate and active units of several runs against the epoch: when z is lost, and what that costs.

    `runs` are {name: lines of metrics.jsonl}; all are of validation items. Draws three axes into `figure`, a Figure or
    SubFigure. A number that a line lacks, or that is not finite, leaves a gap. Raises ValueError if there are no lines.
    """
    if not any(runs.values()):
        raise ValueError("expected at least one line of metrics, got none")
    figure = Figure(figsize=(6.4, 5.0), layout="constrained") if figure is None else figure
    panels = figure.subplots(3, sharex=True, height_ratios=(4, 4, 2))
    keys = {"valid_elbo": "ELBO (nats)", "valid_rate": "rate (nats)", "active_units": "active\nunits"}
    for ax, (key, name) in zip(panels, keys.items(), strict=True):
        _axes(ax).set_ylabel(name)
        for i, (run, lines) in enumerate(runs.items()):
            style = "-" if i < len(PALETTE) else "--"
            _curve(ax, lines, key, PALETTE[i % len(PALETTE)], label=run, style=style)
    for ax in panels[1:]:
        _from_zero(ax)
    panels[2].yaxis.set_major_locator(MaxNLocator(3, integer=True))
    epochs = [line["epoch"] for lines in runs.values() for line in lines]
    _whole_numbers(panels[2], min(epochs), max(epochs))
    panels[2].set_xlabel("epoch")
    panels[0].legend(loc="lower right", ncols=1 + (len(runs) > 4))
    figure.align_ylabels(panels)
    return figure


@_styled
def importance_bound(samples, bounds, halves, *, ax=None, elbo=None, exact=None):
    """The importance-weighted bound (nats per datapoint) against the number K of samples, on a log axis.

    `halves` are those of the 95 % intervals of the bounds; `elbo` and `exact`, the log-likelihood of a
    model that has one in closed form, are lines. Raises ValueError if the three lists differ in length.
    """
    if not len(samples) == len(bounds) == len(halves):
        raise ValueError(f"expected lists of one length, got {len(samples)}, {len(bounds)} and {len(halves)}")
    ax = _axes(ax, 5.2, 3.2)
    samples, bounds, halves = (_array(values, "samples, bounds and halves") for values in (samples, bounds, halves))
    ax.errorbar(samples, bounds, yerr=halves, color=PALETTE[0], marker="o", markersize=4, capsize=2)
    # The ELBO lies below the exact value, so that the names keep apart.
    if exact is not None:
        _level(ax, exact, "exact", side="bottom", style="-")
    if elbo is not None:
        _level(ax, elbo, "ELBO", side="top")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(samples, nbins=12))
    ax.xaxis.set_minor_locator(FixedLocator([]))
    _plain_log_labels(ax.xaxis)
    ax.set_xlabel("samples K")
    ax.set_ylabel("nats per datapoint")
    ax.set_title("Importance-weighted bound, 95 % intervals")
    return ax.figure


@_styled
def published_and_ours(places, *, heading, ax=None):
    """A number in a column of a table: for each place what was published (a ring) and ours (a dot, a bar of one deviation).

    `places` are tuples (label, group, published, ours, deviation), from top to bottom, numbers None where there are none;
    a group has one colour. Raises ValueError if there are no places.
    """
    if not places:
        raise ValueError("expected at least one place, got none")
    ax = _axes(ax, 5.2, 0.24 * len(places) + 0.7)
    groups = list(dict.fromkeys(group for _, group, *_ in places))
    for height, (_, group, published, ours, deviation) in enumerate(places):
        colour = PALETTE[groups.index(group) % len(PALETTE)]
        ax.axhline(height, color=FAINT, linewidth=0.5, zorder=1)
        if published is not None:
            ax.plot(published, height, "o", mfc="white", mec=colour, mew=1.4, markersize=7, zorder=2)
        if ours is not None:
            ax.errorbar(ours, height, xerr=deviation or None, color=colour, marker="o", markersize=4, capsize=2, zorder=3)
    ax.set_yticks(range(len(places)), [label for label, *_ in places])
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(heading)
    return ax.figure


@_styled
def by_depth(curves, *, quantity, ax=None, ceilings=()):
    """A quantity against the number of layers: dashed what was published, solid what is ours, with bars of one deviation.

    `curves` are tuples (label, depths, published, ours, deviations), the last three with None where there is no number;
    `ceilings` are lines that no value of some data can pass. Raises ValueError if there are no curves.

    Reference: Dieng et al. 2019, figure 1.
    """
    if not curves:
        raise ValueError("expected at least one curve, got none")
    ax = _axes(ax, 4.6, 3.0)
    for i, (label, depths, published, ours, deviations) in enumerate(curves):
        colour, marker = PALETTE[i % len(PALETTE)], "os^Dv"[i % 5]
        values, bars = (np.array(row, dtype=float) for row in (ours, [d or 0.0 for d in deviations]))  # None becomes NaN
        ax.plot(
            depths,
            np.array(published, dtype=float),
            marker,
            color=colour,
            mfc="white",
            linestyle="--",
            label=f"{label}, published",
        )
        if (known := np.isfinite(values)).any():  # a line goes on over depths that are not known
            places = np.array(depths)[known]
            ax.errorbar(places, values[known], yerr=bars[known], color=colour, marker=marker, capsize=2, label=f"{label}, ours")
    for ceiling in ceilings:
        _level(ax, ceiling, f"ceiling\n{ceiling:.2f}", side="center", style=":")
    depths = sorted({depth for curve in curves for depth in curve[1]})
    ax.xaxis.set_major_locator(FixedLocator(depths))
    ax.margins(y=0.15)
    low, high = ax.get_ylim()
    room = max(0.0, 1.0 - (high - low)) / 2  # a nat at least: values at a ceiling must not look far apart
    ax.set_ylim(low - room, high + room)
    ax.set_xlabel("layers of the decoder")
    ax.set_ylabel(quantity)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.22), ncols=2)
    return ax.figure


@_styled
def variance_histogram(groups, *, ax=None, between=None):
    """How many units have posterior means of which variance, on a log axis, with both thresholds in use.

    `groups` are {name: variances of all units (D,)}; `between`, two variances, is the stretch that has next to no units if
    they are of two kinds. Raises ValueError for none. Reference: Dieng et al. 2019, section 4.
    """
    if not groups:
        raise ValueError("expected at least one group of variances, got none")
    ax = _axes(ax, 6.4, 3.0)
    # An encoder that ignores x has the variance 0, which a log axis cannot show.
    logs = {name: np.log10(_vector(variances, "variances").clip(1e-8)) for name, variances in groups.items()}
    lowest, highest = min(values.min() for values in logs.values()), max(values.max() for values in logs.values())
    bins = 10 ** np.arange(min(np.floor(lowest), -3), max(np.ceil(highest), 0) + 0.01, 0.25)
    ax.hist([10**values for values in logs.values()], bins, stacked=True, label=list(groups),
            color=[PALETTE[i % len(PALETTE)] for i in range(len(groups))], edgecolor="white", linewidth=0.5)  # fmt: skip
    if between is not None:
        ax.axvspan(*between, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
    for threshold, style in ((BURDA, "--"), (AUTHORS_CODE, ":")):
        ax.axvline(threshold, color=INK, linestyle=style, linewidth=1, label=f"threshold {threshold:g}")
    ax.set_xscale("log")
    _plain_log_labels(ax.xaxis)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("variance of the posterior mean over x")
    ax.set_ylabel("units")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax.figure


@_styled
def png(figure):
    """The bytes of a figure as PNG: 150 dpi, cropped to what is drawn, the same bytes for the same picture."""
    buffer = BytesIO()
    # matplotlib would write its version into the file.
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure, path):
    """Write a figure as PNG, whole or not at all. Raises ValueError for a name that promises another format."""
    if Path(path).suffix.lower() not in ("", ".png"):
        raise ValueError(f"expected the name of a .png file, got {path}")
    write_whole(path, png(figure))


def _array(values, name):
    """A float array of a tensor, array or list."""
    array = torch.as_tensor(values, dtype=torch.float64).detach().cpu().numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite {name}, got NaN or infinity")
    return array


def _vector(values, name):
    array = _array(values, name)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected {name} of shape (D,), got {array.shape}")
    return array


def can_draw(event_shape):
    """Whether items of this shape are images: (H, W), or (C, H, W) with 1 or 3 channels."""
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def _tiles(images, leading):
    """Images with `leading` dimensions before (H, W) or (C, H, W) -> colours (..., H, W, 3) in [0, 1]."""
    images = _array(images, "images").clip(0, 1)
    if images.ndim == leading + 2:
        images = np.expand_dims(images, leading)
    if images.ndim != leading + 3 or images.shape[leading] not in (1, 3) or not images.size:
        raise ValueError(f"expected images (H, W) or (1 or 3, H, W) in {leading} dimensions, got shape {images.shape}")
    tiles = np.moveaxis(images, leading, -1)
    return np.broadcast_to(tiles, (*tiles.shape[:-1], 3))


def _mosaic(ax, tiles, columns):
    """Draw tiles (N, H, W, 3) row by row; returns the axes, and where the centres of rows and columns lie."""
    count, height, width, _ = tiles.shape
    gap, rows = max(1, width // 14), -(-count // columns)
    # Between images and around them stands a colour that no grey image has: white gaps would run into white ink.
    canvas = np.tile(np.array(GAP), (rows * (height + gap) + gap, columns * (width + gap) + gap, 1))
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    ax = _pixel_axes(canvas.shape, width) if ax is None else ax
    ax.imshow(canvas, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    centres = [gap + (side - 1) / 2 + np.arange(n) * (side + gap) for side, n in ((height, rows), (width, columns))]
    return ax, centres


def _pixel_axes(shape, width, *, tile=84, page=1000, margin=120):
    """Axes of a figure in which every pixel of the canvas is a whole number of dots, so that none looks wider."""
    scale = max(1, min(tile // width, page // shape[1]))
    size = np.array([shape[1], shape[0]]) * scale
    figure = Figure(figsize=(size + 2 * margin) / DOTS_PER_INCH)
    return figure.add_axes((*margin / (size + 2 * margin), *size / (size + 2 * margin)))


def _axes(ax, *size):
    """The given axes, or those of a new figure of that size in inches, without what carries no information."""
    ax = Figure(figsize=size, layout="constrained").add_subplot() if ax is None else ax
    ax.spines[["top", "right"]].set_visible(False)
    # Ticks are made when they are drawn, after the style has been left.
    ax.tick_params(which="both", labelsize=8, color=QUIET, labelcolor=INK)
    return ax


def _level(ax, value, text, *, side, style="--"):
    """A horizontal line, named in the margin at its right, above the line (`side` "bottom") or below it ("top")."""
    ax.axhline(value, color=PALETTE[1], linestyle=style, linewidth=1)
    ax.text(1.01, value, text, transform=ax.get_yaxis_transform(), va=side, fontsize=8)


def _halo(ax, x, y, text):
    """Bold text that can be read on top of points."""
    white = [withStroke(linewidth=3, foreground="white")]
    ax.text(x, y, text, ha="center", va="center", fontsize=11, weight="bold", path_effects=white)


def _whole_numbers(ax, first, last):
    """An x axis of whole numbers, with half a unit of room at both ends."""
    ax.set_xlim(first - 0.5, last + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _plain_log_labels(axis):
    # The exponents of the default labels would be set smaller than the rest.
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _curve(ax, metrics, key, colour, *, label=None, sign=1, style="-"):
    epochs = [line["epoch"] for line in metrics]
    values = np.array([line.get(key) for line in metrics], dtype=float)  # None becomes NaN
    values = sign * np.where(np.isfinite(values), values, np.nan)
    ax.plot(epochs, values, color=colour, label=label, linestyle=style, marker="o", markersize=2.5)


def _from_zero(ax):
    """A y axis that shows 0, and at least 1: a collapsed rate must not fill its panel."""
    ax.autoscale_view()
    top = max(1, ax.get_ylim()[1])
    ax.set_ylim(-0.06 * top, 1.06 * top)


def _widen(ax, points):
    """Limits with room around the points for their bars and for the lines of equal ELBO; hardly any at negative rates."""
    for set_limits, value, half, least in ((ax.set_xlim, 1, 3, 0.0), (ax.set_ylim, 2, 4, -np.inf)):
        low = min(point[value] - point[half] for point in points)
        high = max(point[value] + point[half] for point in points)
        room = max(0.2 * (high - low), 0.05 * abs(high), 0.5)
        set_limits(max(low - room, min(low, least) - room / 4), high + room)


def _iso_elbo_lines(ax, points):
    """Dashed lines rate + distortion = -ELBO through the limits of the axes, labelled away from the points."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    corner, size = np.array([left, bottom]), np.array([right - left, top - bottom])
    places = (np.array([point[1:3] for point in points]) - corner) / size
    for total in MaxNLocator(8, steps=(1, 2, 5, 10)).tick_values(left + bottom, right + top):
        start, end = max(left, total - top), min(right, total - bottom)
        ends = np.array([[start, total - start], [end, total - end]])
        length = np.linalg.norm((ends[1] - ends[0]) / size)
        if start >= end or length < 0.25:
            continue  # outside, or in a corner that has no room for a label
        ax.plot(*ends.T, color=QUIET, linestyle="--", linewidth=0.7, zorder=1)
        along = np.linspace(0.12, length - 0.12, 9)[:, None] / length * (ends[1] - ends[0]) + ends[0]
        distance = np.linalg.norm((along - corner)[:, None] / size - places, axis=-1).min(1)
        # The first place that is far enough from all points, or the farthest.
        _on_line(ax, *along[np.argmax(distance.clip(max=0.15))], f"ELBO {-total:g}")


def _on_line(ax, x, y, text):
    """Text along a line of slope -1."""
    ax.text(x, y, text.replace("-", "\N{MINUS SIGN}"), color=QUIET, fontsize=8, ha="center", va="center", zorder=2,
            rotation=-45, rotation_mode="anchor", transform_rotates_text=True,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
