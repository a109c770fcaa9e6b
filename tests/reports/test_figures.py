"""Pictures: they show what they were given, in sizes that can be read, without pyplot and with reproducible bytes."""

import math
import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from pyro_skipvae.reports import figures

MINUS = "\N{MINUS SIGN}"
DIGITS = torch.linspace(0, 1, 16 * 64).reshape(16, 8, 8)
REPORT = SimpleNamespace(
    elbo=-24.0,
    rate=1.5,
    distortion=22.5,
    rate_per_dimension=[0.005, 0.9, 0.0, 0.595],
    active_unit_variances=[0.015, 0.8, 0.0, 0.5],
    standard_errors={"rate": 0.1, "distortion": 0.3},
)
METRICS = [
    {"epoch": e, "train_loss": 30 / e, "beta": e / 4, "valid_elbo": -26.0, "valid_rate": 2.0 - 0.5 * e,
     "valid_distortion": 24.0, "active_units": 4 - e}
    for e in (1, 2, 3, 4)
]  # fmt: skip
EMBEDDING, CLASSES = torch.linspace(-1, 1, 60).reshape(30, 2).sin(), torch.arange(30) % 3
PLACES = [
    ("2 layers, plain", "plain", -94.9, -95.2, 0.1),
    ("2 layers, skip", "skip", -94.8, -94.1, None),
    ("x", "x", None, None, None),
]
CURVES = [("plain", [2, 3], [5.0, 4.0], [5.5, None], [0.2, None]), ("skip", [2, 3], [6.0, 5.0], [None, None], [None, None])]
LAYERS = [
    {"layer": str(l), "z": {"value": 0.3 / l, "low": 0.2 / l, "high": 0.4 / l}, "others": 0.2, "constant": 0.8 - 0.3 / l,
     "directions": 9.0 / l}
    for l in (1, 2, 3)
]  # fmt: skip
RUN = ("skip-vae", REPORT.rate, REPORT.distortion, 0.1, 0.3)

# name -> how to draw it, into `ax` where that is given
DRAWN = {
    "prior_samples": lambda **o: figures.prior_samples(DIGITS, **o),
    "reconstructions": lambda **o: figures.reconstructions(DIGITS, DIGITS / 2, DIGITS.round(), **o),
    "latent_traversals": lambda **o: figures.latent_traversals(
        DIGITS[:6].reshape(2, 3, 8, 8), values=(-3, 0, 3), labels=["z 7", "z 1"], **o
    ),
    "rate_per_dimension": lambda **o: figures.rate_per_dimension(REPORT.rate_per_dimension, **o),
    "active_unit_variances": lambda **o: figures.active_unit_variances(REPORT.active_unit_variances, **o),
    "collapse_curve": lambda **o: figures.collapse_curve([0.0, 0.004, 0.6, 2.5], **o),
    "dimension_losses": lambda **o: figures.dimension_losses([(0.0, -0.1, 0.1), (9.0, 8.0, 10.0)], ["3", "17"], **o),
    "posterior_means": lambda **o: figures.posterior_means(EMBEDDING, CLASSES, title="PCA", accuracy=0.9, **o),
    "rate_distortion": lambda **o: figures.rate_distortion([RUN, ("vae", 0.2, 27.0, 0.0, 0.0)], **o),
    "importance_bound": lambda **o: figures.importance_bound(
        [1, 20, 200], [-24.0, -22.5, -22.0], [0.3, 0.2, 0.2], elbo=-24.0, exact=-21.5, **o
    ),
    "published_and_ours": lambda **o: figures.published_and_ours(PLACES, heading="ELBO", **o),
    "by_depth": lambda **o: figures.by_depth(CURVES, quantity="KL (nats)", ceilings=[6.91, 9.21], **o),
    "variance_histogram": lambda **o: figures.variance_histogram(
        {"plain": REPORT.active_unit_variances, "skip": [0.9, 0.7]}, between=(0.003, 0.1), **o
    ),
}
PANELS = {"training_curves": 4, "layer_sensitivities": 2, "runs_by_epoch": 3}
EVERY = DRAWN | {
    "training_curves": lambda: figures.training_curves(METRICS),
    "runs_by_epoch": lambda: figures.runs_by_epoch({"plain": METRICS, "skip": METRICS[:2], "not begun": []}),
    "layer_sensitivities": lambda: figures.layer_sensitivities(LAYERS),
}


def rendered(figure):
    """The pixels (H, W, 4) of a figure, which also makes the ticks that were not drawn before."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    buffer.seek(0)
    return imread(buffer)


def written(figure):
    """The texts that are drawn; matplotlib also keeps labels of ticks beyond the limits."""
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    beyond = [tick for axis in axes for tick in axis.get_major_ticks() if not _within(tick.get_loc(), axis)]
    unseen = {tick.label1 for tick in beyond}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in unseen]


def _within(value, axis):
    low, high = sorted(axis.get_view_interval())
    return low <= value <= high


def words(figure):
    return {text.get_text() for text in written(figure)}


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_is_not_blank_and_all_its_text_can_be_read(name):
    figure = EVERY[name]()
    pixels = rendered(figure)
    assert pixels[..., :3].std() > 0.03
    assert len(figure.axes) == PANELS.get(name, 1)
    assert all(text.get_fontsize() >= 8 for text in written(figure))
    assert not any("$" in text for text in words(figure))  # its superscripts would be smaller


@pytest.mark.parametrize("name", EVERY)
def test_no_text_is_cut_off_or_lies_on_another(name):
    figure = EVERY[name]()
    rendered(figure)
    inside = figure.get_tightbbox().padded(0.1)
    # Class names may lie on one another, where the classes do.
    boxes = [text.get_window_extent() for text in written(figure) if text.get_weight() != "bold"]
    assert all(inside.x0 <= box.x0 / figure.dpi and box.x1 / figure.dpi <= inside.x1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", DRAWN)
def test_given_axes_are_used(name):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert DRAWN[name](ax=right) is figure
    assert right.has_data() and not left.has_data() and len(figure.axes) == 2


def test_training_curves_take_a_subfigure():
    figure = Figure()
    left, right = figure.subfigures(1, 2)
    assert figures.training_curves(METRICS, figure=right) is right
    assert len(right.axes) == 4 and not left.axes


@pytest.mark.parametrize("name", EVERY)
def test_equal_inputs_give_equal_bytes_whatever_the_callers_style(name, tmp_path):
    figures.save_png(EVERY[name](), tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.pad_inches": 3, "xtick.color": "red"}):
        figures.save_png(EVERY[name](), tmp_path / "two.png")
        assert matplotlib.rcParams["font.size"] == 30
    content = (tmp_path / "one.png").read_bytes()
    assert content == (tmp_path / "two.png").read_bytes()
    assert content.startswith(b"\x89PNG") and b"atplotlib" not in content
    assert not list(tmp_path.glob(".*"))


def test_the_module_does_without_pyplot():
    code = "import sys; from pyro_skipvae.reports import figures as f; f.rate_per_dimension([1.0]); "
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_curve_of_collapse_counts_what_is_at_or_below_each_threshold():
    ax = DRAWN["collapse_curve"]().axes[0]
    x, y = ax.lines[0].get_data()
    assert dict(zip(x.tolist(), y.tolist(), strict=True)) == {0.001: 0.25, 0.004: 0.5, 0.6: 0.75, 2.5: 1.0, 5.0: 1.0}
    assert "2 of 4 dimensions are collapsed at 0.01 nats" in ax.get_title(loc="left")
    whole = figures.collapse_curve({"collapse_thresholds": [0.0, 0.0]}).axes[0].lines[0].get_data()[1]
    assert set(whole.tolist()) == {1.0}


def test_losses_are_sorted_and_those_near_0_set_apart():
    ax = DRAWN["dimension_losses"]().axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["17", "3"]
    assert [bar.get_height() for bar in ax.patches] == [9.0, 0.0]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2
    assert "1 of 2 dimensions matter" in ax.get_title(loc="left")
    with pytest.raises(ValueError, match="for each of 2 labels"):
        figures.dimension_losses([(1.0, 0.0, 2.0)], ["1", "2"])


def test_the_parts_of_a_layer_stand_on_each_other():
    above, below = figures.layer_sensitivities(LAYERS).axes
    tops = {bar.get_y() + bar.get_height() for bar in above.patches[-3:]}
    assert all(top == pytest.approx(1) for top in tops) and len(above.patches) == 9
    assert [label.get_text() for label in below.get_xticklabels()] == ["1", "2", "3"]
    alone = figures.layer_sensitivities([layer | {"others": -0.01} for layer in LAYERS]).axes[0]
    assert len(alone.patches) == 6  # a decoder of z alone
    with pytest.raises(ValueError, match="at least one layer"):
        figures.layer_sensitivities([])


def test_images_are_shown_pixel_by_pixel_with_their_own_greys(tmp_path):
    image = np.array([[[0.0, 1.0], [0.25, 2.0]]])  # a value above 1 is clipped
    figures.save_png(figures.prior_samples(image), tmp_path / "image.png")
    pixels = imread(tmp_path / "image.png")[..., 0]
    rows, columns = (np.flatnonzero((pixels < 0.99).any(axis)) for axis in (1, 0))
    assert len(rows) == len(columns) and len(rows) % 4 == 0  # two pixels and a gap on either side, all of one size
    size = len(rows) // 4
    inner = pixels[np.ix_(rows[size:-size], columns[size:-size])].reshape(2, size, 2, size)
    assert np.allclose(inner, np.array([[0, 1], [0.25, 1]])[:, None, :, None], atol=1 / 255)
    gap = pixels[rows[0] : rows[0] + size, columns]
    assert np.allclose(gap, figures.GAP[0], atol=1 / 255)


def test_colour_images_keep_their_colours():
    image = torch.zeros(2, 3, 4, 4)
    image[0, 0] = image[1, 2] = 1
    shown = figures.prior_samples(image, columns=1).axes[0].images[0].get_array()
    assert shown.shape == (11, 6, 3)
    assert shown[1:5, 1:5].reshape(-1, 3).tolist() == [[1, 0, 0]] * 16
    assert shown[6:10, 1:5].reshape(-1, 3).tolist() == [[0, 0, 1]] * 16
    assert (shown[5] == figures.GAP).all()


def test_reconstructions_are_labelled_rows_and_a_mean_may_be_missing():
    labels = [label.get_text() for label in DRAWN["reconstructions"]().axes[0].get_yticklabels()]
    assert labels == ["input", "mean", "sample"]
    without = figures.reconstructions(DIGITS[:, None], None, DIGITS[:, None]).axes[0]
    assert [label.get_text() for label in without.get_yticklabels()] == ["input", "sample"]
    assert without.images[0].get_array().shape[:2] == (2 * 8 + 3, 16 * 8 + 17)


def test_traversals_name_rows_and_columns():
    ax = DRAWN["latent_traversals"]().axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["z 7", "z 1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"{MINUS}3", "0", "3"]
    assert "standard deviations" in ax.get_xlabel()


def test_rates_are_sorted_bars_in_nats_with_the_threshold():
    ax = figures.rate_per_dimension(REPORT.rate_per_dimension, threshold=0.1).axes[0]
    assert [bar.get_height() for bar in ax.patches[:4]] == [0.9, 0.595, 0.005, 0.0]
    assert ax.lines[0].get_ydata() == [0.1, 0.1]
    assert "nats" in ax.get_ylabel()
    assert ax.get_title("left") == "Sum 1.50 nats; 2 of 4 dimensions above 0.1 nats"


def test_variances_are_sorted_on_a_log_axis_with_both_thresholds():
    figure = DRAWN["active_unit_variances"]()
    ax = figure.axes[0]
    shown = next(c for c in ax.collections if isinstance(c, PathCollection)).get_offsets()
    assert shown[:, 1].tolist() == [0.8, 0.5, 0.015, 1e-8]
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] < 1e-8
    assert sorted(line.get_ydata()[0] for line in ax.lines) == [0.01, 0.02]
    assert {"0.01 Burda et al.", "0.02 authors' code"} <= words(figure)
    assert ax.get_title("left") == "3 of 4 units active at 0.01, 2 at 0.02"


def test_classes_with_names_are_shown_by_them():
    names = ("a cat", "$x^", "_hidden\x1b[2J", "n" * 90, *map(str, range(4, 10)))
    figure = figures.posterior_means(EMBEDDING, CLASSES, class_names=names)
    figures.png(figure)  # a formula that is none would raise here
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    present = sorted(set(torch.as_tensor(CLASSES).tolist()))
    expected = ["a cat", r"\$x^", r" _hidden\x1b[2J", "n" * 19 + "…", *names[4:]]
    assert shown == [expected[number] for number in present]


def test_posterior_means_are_coloured_and_named_by_class():
    figure = DRAWN["posterior_means"]()
    ax = figure.axes[0]
    colours = ax.collections[0].get_facecolors()
    assert all((colours[CLASSES == c] == colours[c]).all() for c in range(3)) and len(np.unique(colours, axis=0)) == 3
    assert {"0", "1", "2", "PCA", "nearest-neighbour accuracy in the latent space: 90.0 %"} <= words(figure)
    assert len(ax.get_legend().get_texts()) == 3
    assert figures.posterior_means(EMBEDDING, torch.arange(30)).axes[0].get_legend() is None


def test_lines_of_equal_elbo_are_where_they_say():
    ax = DRAWN["rate_distortion"]().axes[0]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    named = [float(text.get_text().removeprefix("ELBO ").replace(MINUS, "-")) for text in ax.texts]
    assert len(dashed) == len(named) >= 3
    for line, elbo in zip(dashed, named, strict=True):
        np.testing.assert_allclose(line.get_xdata() + line.get_ydata(), -elbo)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["skip-vae", "vae"]


@pytest.mark.parametrize("runs", [[RUN], [RUN] * 40, [("text", 0.0, 340.0, 0.0, 1.0), ("more", 0.1, 336.0, 0.0, 1.0)]])
def test_one_run_or_many_or_unequal_scales_have_lines_of_equal_elbo(runs):
    figure = figures.rate_distortion(runs)
    rendered(figure)
    assert any(text.startswith("ELBO") for text in words(figure))


def test_the_plane_spends_little_room_on_negative_rates():
    left, right = figures.rate_distortion([("plain", 0.1, 27.0, 0.1, 0.2), ("mmd", 27.0, 19.0, 0.5, 0.2)]).axes[0].get_xlim()
    assert -2 < left < 0 and right > 28  # all of a bar at 0.1 is to be seen


def test_training_curves_keep_rate_and_distortion_apart():
    losses, rate, units, beta = figures.training_curves(METRICS).axes
    assert [list(line.get_ydata()) for line in losses.lines[1:]] == [[26.0] * 4, [24.0] * 4]
    assert list(rate.lines[0].get_ydata()) == [1.5, 1.0, 0.5, 0.0]
    assert list(units.lines[0].get_ydata()) == [3, 2, 1, 0]
    assert list(beta.lines[0].get_ydata()) == [0.25, 0.5, 0.75, 1.0]
    assert "nats" in rate.get_ylabel() and beta.get_xlabel() == "epoch"
    assert all(ax.get_shared_x_axes().joined(ax, beta) and ax.get_ylim()[0] < 0 < 1 < ax.get_ylim()[1] for ax in (rate, units))


def test_runs_by_epoch_have_one_line_each_in_every_panel():
    runs = {"plain": METRICS, "skip": [line | {"valid_rate": None} for line in METRICS[:3]], "not begun": []}
    elbo, rate, units = (ax.lines for ax in figures.runs_by_epoch(runs).axes)
    assert list(elbo[0].get_ydata()) == [-26.0] * 4 and list(rate[0].get_ydata()) == [1.5, 1.0, 0.5, 0.0]
    assert len(rate[1].get_ydata()) == 3 and np.isnan(rate[1].get_ydata()).all() and list(units[1].get_ydata()) == [3, 2, 1]
    assert elbo[0].get_color() == rate[0].get_color() != elbo[1].get_color()


def test_training_curves_leave_gaps_for_what_is_missing():
    lines = [{"epoch": 1, "train_loss": 3.0, "valid_rate": None}, {"epoch": 2, "train_loss": float("inf"), "beta": 1.0}]
    figure = figures.training_curves(lines)
    rendered(figure)
    losses, rate, _, _ = figure.axes
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), [3.0, np.nan])
    assert np.isnan(rate.lines[0].get_ydata()).all()


def test_importance_bound_has_its_samples_as_ticks_and_the_lines_given():
    figure = DRAWN["importance_bound"]()
    rendered(figure)
    ax = figure.axes[0]
    assert ax.get_xscale() == "log" and {"1", "20", "200", "ELBO", "exact"} <= words(figure)
    assert list(ax.lines[0].get_ydata()) == [-24.0, -22.5, -22.0]
    assert {-24.0, -21.5} <= {line.get_ydata()[0] for line in ax.lines}
    bars = ax.collections[0].get_segments()
    np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], [2 * half for half in (0.3, 0.2, 0.2)])
    assert "ELBO" not in words(figures.importance_bound([20, 200], [-1.0, -0.5], [0.1, 0.1]))


def test_a_line_by_depth_goes_on_over_depths_that_are_not_known():
    figure = figures.by_depth([("plain", [1, 3, 9], [13.0, 10.0, 7.0], [13.5, None, 6.0], [None] * 3)], quantity="KL (nats)")
    assert [1, 9] in [list(line.get_xdata()) for line in figure.axes[0].lines]


@pytest.mark.parametrize("end", [None, math.nan])
def test_losses_and_parts_of_layers_without_ends_have_no_bars(end):
    figure = figures.dimension_losses([(3.0, end, end), (9.0, 8.0, 10.0)], ["3", "17"])
    rendered(figure)
    assert "1 of 2 dimensions matter: a loss above 0.1 nats" in words(figure)
    rendered(figures.layer_sensitivities([{**LAYERS[0], "z": {"value": 0.3, "low": end, "high": end}}]))


def test_a_place_shows_what_was_published_and_ours_where_there_are_such():
    (ax,) = figures.published_and_ours(PLACES, heading="ELBO").axes
    rings = [line.get_xdata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]
    dots = [container[0].get_xdata()[0] for container in ax.containers]
    assert rings == [-94.9, -94.8] and dots == [-95.2, -94.1]
    assert [label.get_text() for label in ax.get_yticklabels()] == [label for label, *_ in PLACES]
    top, bottom = ax.get_ylim()[::-1]
    assert top < 0 < bottom  # the first place is at the top


def test_curves_by_depth_leave_out_what_is_missing_and_span_a_nat():
    (ax,) = figures.by_depth(CURVES, quantity="KL (nats)").axes
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"plain, published", "plain, ours", "skip, published"}
    (ax,) = figures.by_depth([("plain", [1, 2], [9.2, 9.21], [9.2, 9.2], [None, None])], quantity="MI").axes
    assert ax.get_ylim()[1] - ax.get_ylim()[0] >= 1


def test_every_unit_is_in_the_histogram_of_variances():
    (ax,) = figures.variance_histogram({"plain": [0.0, 1e-5, 0.5], "skip": [0.02, 3.0]}).axes
    assert [sum(bar.get_height() for bar in bars) for bars in ax.containers] == [3, 2]


def test_neighbour_accuracy_leaves_a_point_out_of_its_own_neighbours():
    apart = torch.cat([torch.randn(20, 3), torch.randn(20, 3) + 50])
    halves = torch.arange(40) // 20
    assert figures.neighbour_accuracy(apart, halves) == 1.0
    # Among pairs of unlike twins the nearest other is always of the wrong class.
    twins = torch.arange(20.0).repeat_interleave(2)[:, None]
    assert figures.neighbour_accuracy(twins, torch.arange(40) % 2, k=1) == 0.0


def test_embeddings_are_planar_and_reproducible():
    means = torch.randn(40, 5) * torch.tensor([9.0, 3.0, 0.1, 0.1, 0.1])
    for embed in (figures.pca, figures.tsne):
        embedding = embed(means)
        assert embedding.shape == (40, 2)
        np.testing.assert_array_equal(embedding, embed(means))
    spread = torch.from_numpy(figures.pca(means)).var(0)
    assert spread[0] > spread[1] and spread.sum() > 0.99 * means.double().var(0).sum()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.prior_samples(torch.zeros(4, 2, 8, 8)),
        lambda: figures.prior_samples(torch.zeros(8, 8)),
        lambda: figures.prior_samples(torch.zeros(0, 8, 8)),
        lambda: figures.prior_samples(torch.full((4, 8, 8), torch.nan)),
        lambda: figures.prior_samples(DIGITS, columns=0),
        lambda: figures.reconstructions(DIGITS, None, DIGITS[:3]),
        lambda: figures.latent_traversals(DIGITS.reshape(4, 4, 8, 8), values=(0, 1), labels=list("abcd")),
        lambda: figures.rate_per_dimension([]),
        lambda: figures.rate_per_dimension([1.0, float("nan")]),
        lambda: figures.active_unit_variances([[0.1]]),
        lambda: figures.posterior_means(EMBEDDING, CLASSES[:3]),
        lambda: figures.neighbour_accuracy(EMBEDDING, CLASSES, k=30),
        lambda: figures.rate_distortion([]),
        lambda: figures.training_curves([]),
        lambda: figures.runs_by_epoch({"plain": [], "skip": []}),
        lambda: figures.importance_bound([1, 2], [0.0], [0.0]),
        lambda: figures.published_and_ours([], heading="ELBO"),
        lambda: figures.by_depth([], quantity="KL"),
        lambda: figures.variance_histogram({}),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(ValueError, match="expected .*, got"):
        draw()


def test_a_report_or_its_dict_can_be_drawn():
    fields = {"rate_per_dimension": [1.0, 0.001], "active_unit_variances": [0.5, 0.001]}
    for report in (fields, SimpleNamespace(**fields)):
        assert "1 of 2 dimensions" in figures.rate_per_dimension(report).axes[0].get_title(loc="left")
        assert "1 of 2 units" in figures.active_unit_variances(report).axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="expected a report with rate_per_dimension, got one without"):
        figures.rate_per_dimension({"rate_per_dimension": None})
