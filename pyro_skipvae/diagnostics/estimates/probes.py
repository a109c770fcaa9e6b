"""Probes: what a classifier can read out of posterior means, by a fixed protocol.

Means (N, D) and classes (N,), numbered from 0, of training and test items go in; what comes out is the share of test items
that are told rightly. Nothing is chosen by the test items. A representation is to be compared with that of a random encoder,
an untrained one of the same class: its means can be read too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_skipvae.random_numbers import forked

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C of the linear probe: the inverse of its penalty
FOLDS = 3
CHOSEN_ON = 10_000  # training items by which C is chosen


@dataclass(frozen=True)
class Accuracy:
    """The share of N test items that are told rightly, and its standard error over them, sqrt(p (1 - p) / N)."""

    value: float
    standard_error: float


def linear_probe(means: Tensor, classes: Tensor, test: Tensor, test_classes: Tensor, *, seed: int = 0) -> Accuracy:
    """Multinomial logistic regression on means that are standardised by those of training.

    Its penalty is chosen by 3-fold cross-validation on 10,000 training items at most; then all of them are used. A
    dimension that the encoder leaves at the prior counts as much as any other here: what it says is read, however faintly.

    Raises ValueError for other shapes, or a single class.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and few need it
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    means, classes, test, test_classes = _checked(means, classes, test, test_classes)
    some = _some(len(means), seed)
    probes = [make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)) for C in STRENGTHS]
    best = max(probes, key=lambda probe: cross_val_score(probe, means[some], classes[some], cv=FOLDS).mean())
    return _accuracy(torch.from_numpy(best.fit(means, classes).predict(test)), test_classes)


def mlp_probe(
    means: Tensor,
    classes: Tensor,
    test: Tensor,
    test_classes: Tensor,
    *,
    hidden: int = 1024,
    dropout: float = 0.5,
    epochs: int = 60,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
) -> Accuracy:
    """A perceptron of two layers, D -> hidden -> classes, with ReLU and dropout, on the means as they are.

    The paper says "2-layer MLP", 1024 hidden units, ReLU, dropout 0.5: read as two linear maps with one hidden layer
    between. Ours, since the paper is silent: Adam whose rate falls to 0 by half a cosine, so that the last epoch is the one
    to take, and no item is needed to stop by. (After 20 epochs it has not learned all: on MNIST 0.4 points less than after 60.)

    Raises ValueError for other shapes, or a single class. Reference: Dieng et al. 2019, section 4.1.
    """
    _checked(means, classes, test, test_classes)
    with forked([means.device], seed), torch.enable_grad():
        outputs = int(classes.max()) + 1
        probe = nn.Sequential(nn.Linear(means.shape[1], hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)).to(
            means
        )
        _train(probe, means.detach(), classes, epochs, batch_size, lr)
    with torch.no_grad():
        return _accuracy(probe.eval()(test).argmax(1), test_classes)


def nearest_neighbours(means: Tensor, classes: Tensor, test: Tensor, test_classes: Tensor, *, k: int = 10) -> Accuracy:
    """The class that is commonest among the k training items whose means are nearest, by Euclidean distance.

    Raises ValueError for other shapes, a single class, or fewer than k training items.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if not 1 <= k <= len(means):
        raise ValueError(f"expected k of 1 to {len(means)}, the training items, got {k}")
    means, classes, test, test_classes = _checked(means, classes, test, test_classes)
    found = KNeighborsClassifier(n_neighbors=k, algorithm="brute").fit(means, classes).predict(test)
    return _accuracy(torch.from_numpy(found), test_classes)


def silhouette(means: Tensor, classes: Tensor) -> float:
    """How far apart the classes lie, from -1 to 1: the mean over items of (b - a) / max(a, b).

    a is the mean distance of an item to its own class, b that to the nearest other class. 0 where classes overlap; 1 where
    they are small and far apart. Memory grows by pieces, time as N^2: 10,000 items of 50 dimensions take some seconds.

    Raises ValueError for other shapes, or a single class. Reference: Rousseeuw 1987.
    """
    from sklearn.metrics import silhouette_score

    means, classes, *_ = _checked(means, classes, means, classes)
    return float(silhouette_score(means, classes))


def _train(probe: nn.Module, means: Tensor, classes: Tensor, epochs: int, batch_size: int, lr: float) -> None:
    """Minimise the cross-entropy; the order of the items is drawn from torch's generator."""
    optimizer = torch.optim.Adam(probe.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(means) // batch_size))
    for _ in range(epochs):
        for index in torch.randperm(len(means), device="cpu").split(batch_size):
            index = index.to(means.device)
            optimizer.zero_grad()
            nn.functional.cross_entropy(probe(means[index]), classes[index]).backward()
            optimizer.step()
            schedule.step()


def _checked(means: Tensor, classes: Tensor, test: Tensor, test_classes: Tensor) -> list[Any]:
    """The four as NumPy arrays. Raises ValueError where they do not fit together."""
    if means.ndim != 2 or test.ndim != 2 or means.shape[1] != test.shape[1]:
        raise ValueError(
            f"expected means (N, D) of training and test items, got {tuple(means.shape)} and {tuple(test.shape)}; "
            "flatten sequences of latent variables"
        )
    if len(means) != len(classes) or len(test) != len(test_classes):
        pairs = f"{len(classes)} for {len(means)} and {len(test_classes)} for {len(test)}"
        raise ValueError(f"expected a class for each item, got {pairs}")
    if len(classes.unique()) < 2:
        raise ValueError("expected two classes at least, got one")
    return [tensor.detach().cpu().numpy() for tensor in (means, classes, test, test_classes)]


def _some(count: int, seed: int) -> Any:
    """Which items C is chosen by: all, or 10,000 at random."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed), device="cpu")[:CHOSEN_ON].numpy()


def _accuracy(found: Tensor, classes: Tensor) -> Accuracy:
    right = (found.cpu() == torch.as_tensor(classes).cpu()).double()
    share = right.mean().item()
    return Accuracy(share, (share * (1 - share) / len(right)) ** 0.5)
