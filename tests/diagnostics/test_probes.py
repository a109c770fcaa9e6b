"""Probes: classes that lie apart are told, labels at random are not, and nothing depends on the caller's seed."""

import pytest
import torch

from pyro_skipvae.diagnostics.estimates import probes

PROBES = {
    "linear": probes.linear_probe,
    "mlp": lambda *blobs: probes.mlp_probe(*blobs, hidden=64, epochs=8, batch_size=64),
    "neighbours": probes.nearest_neighbours,
}


def blobs(distance, count=600, seed=0):
    """Three classes of normals in 4 dimensions, their centres `distance` apart: means and classes of training and test."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(2 * count) % 3
    means = torch.randn(2 * count, 4, generator=generator) + distance / 2**0.5 * torch.eye(4)[classes]
    return means[:count], classes[:count], means[count:], classes[count:]


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_classes_far_apart_are_all_told(probe):
    found = probe(*blobs(20.0))
    assert found.value == 1.0 and found.standard_error == 0.0


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_labels_at_random_are_told_by_chance(probe):
    found = probe(*blobs(0.0))
    assert found.value == pytest.approx(1 / 3, abs=4 * found.standard_error)
    assert found.standard_error == pytest.approx((found.value * (1 - found.value) / 600) ** 0.5)


def test_two_normals_are_told_as_well_as_they_can_be():
    """Of two unit normals d apart, the best rule is right with the probability Phi(d / 2)."""
    generator = torch.Generator().manual_seed(1)
    classes = torch.arange(8000) % 2
    means = torch.randn(8000, 2, generator=generator) + 2.0 * classes[:, None] * torch.tensor([1.0, 0.0])
    split = means[:4000], classes[:4000], means[4000:], classes[4000:]
    best = torch.special.ndtr(torch.tensor(1.0)).item()  # 0.841
    for found in (probes.linear_probe(*split), probes.mlp_probe(*split, hidden=64, epochs=10, batch_size=64)):
        assert found.value == pytest.approx(best, abs=4 * found.standard_error)


def test_only_the_perceptron_sees_what_is_not_linear():
    """Which of two opposite quadrants a point lies in: no line tells more than chance, one hidden layer tells all."""
    means = torch.randn(2400, 2, generator=torch.Generator().manual_seed(2))
    classes = (means.prod(1) > 0).long()
    split = means[:1600], classes[:1600], means[1600:], classes[1600:]
    assert probes.linear_probe(*split).value < 0.65
    assert probes.mlp_probe(*split, hidden=128, epochs=20, batch_size=64, lr=1e-2).value > 0.95


def test_the_linear_probe_reads_dimensions_of_any_scale():
    means, classes, test, test_classes = blobs(20.0)
    scale = torch.tensor([1e-4, 1e-4, 1e-4, 1.0])
    assert probes.linear_probe(means * scale, classes, test * scale, test_classes).value == 1.0


def test_a_probe_has_a_seed_of_its_own():
    split = blobs(2.0, count=200)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append([probe(*split) for probe in PROBES.values()])
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_silhouette():
    means, classes, *_ = blobs(200.0)
    assert probes.silhouette(means, classes) > 0.95
    overlapping, classes, *_ = blobs(0.0)
    assert abs(probes.silhouette(overlapping, classes)) < 0.05
    # two pairs on a line: a = 1, b = 10 or 11 for each point
    line, pairs = torch.tensor([[0.0], [1.0], [10.5], [11.5]]), torch.tensor([0, 0, 1, 1])
    distances = [11.0, 10.0, 10.0, 11.0]
    assert probes.silhouette(line, pairs) == pytest.approx(sum((b - 1) / b for b in distances) / 4)


def test_mistakes():
    means, classes, test, test_classes = blobs(1.0, count=30)
    with pytest.raises(ValueError, match=r"expected means \(N, D\) of training and test items"):
        probes.linear_probe(means[:, :2], classes, test, test_classes)
    with pytest.raises(ValueError, match="expected a class for each item, got 29 for 30"):
        probes.mlp_probe(means, classes[1:], test, test_classes)
    with pytest.raises(ValueError, match="expected two classes at least"):
        probes.silhouette(means, torch.zeros(30))
    with pytest.raises(ValueError, match="expected k of 1 to 30"):
        probes.nearest_neighbours(means, classes, test, test_classes, k=31)
