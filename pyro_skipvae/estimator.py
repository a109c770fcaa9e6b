"""`SkipVAE`: a VAE as an estimator of scikit-learn, for arrays (n_samples, n_features)."""

import copy
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pyro_skipvae.data.dataset import Data
from pyro_skipvae.diagnostics import CollapseReport, collapse_report
from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.model import VAE
from pyro_skipvae.modules import device_of
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.runs.build import build_beta, build_blank, build_step, build_vae, choose_device, resolve
from pyro_skipvae.runs.config import CODES, Config, ConfigError
from pyro_skipvae.runs.description import DataDescription
from pyro_skipvae.training import fit

KINDS = {"bernoulli": "binary", "poisson": "count", "multinomial": "count", "normal": "real", "normal-shared-scale": "real"}
OURS = ("importance_samples", "device")  # the parameters that are no settings of a training
FLAG = re.compile(r"--([a-z][a-z-]+)")
KEPT = 1000  # rows of the training data, for `report_`
ROWS = 500  # that are decoded together
DRAWS = 10  # of z for a point, in the ELBO
LEAST_SPREAD = 1e-6  # deviation over mean of a column; float32 has a relative error of 6e-8


class SkipVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A generative skip VAE (with skip="none" a VAE) as a scikit-learn estimator, for arrays X (n_samples, n_features).

        fit: maximises the ELBO;   transform: E[z|x];   inverse_transform: E[x|z];   score: nats per row, higher is better

    The parameters are the settings of `skipvae-pyro train`, by the same names; None is chosen from the data. likelihood: None
    is bernoulli where all of X is 0 or 1, else normal-shared-scale; poisson and multinomial are for counts. X needs no
    StandardScaler: networks and p(x|z) work in units of the columns' standard deviations, and all results are in units of X.
    importance_samples: K of the bound that `score` returns; None returns the ELBO. Equal seeds give equal results; random
    numbers and Pyro's parameter store stay as found.

    Attributes: `vae_`, the `pyro_skipvae.VAE`; `losses_`, one per epoch in nats per row; `report_`, the collapse report on at
    most 1,000 of the training rows, made when it is first used (for other rows: `report(X)`); `n_features_in_`, and
    `feature_names_in_` where X has names. Raises ValueError for parameters that are wrong or do not suit X, and for a training
    that does not stay finite.
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        layers: int = 2,
        width: int = 128,
        skip: str = "all",
        likelihood: str | None = None,
        scaling: str | None = None,
        initialisation: str = "torch",
        prior: str = "standard-normal",
        components: int = 10,
        guide: str = "diagonal-normal",
        objective: str = "elbo",
        inference: str = "amortized",
        svi_steps: int = 10,
        epochs: int = 50,
        batch_size: int = 64,
        optimizer: str = "adam",
        lr: float | None = None,
        lr_schedule: str = "cosine",
        max_norm: float = 5.0,
        beta: float = 1.0,
        beta_schedule: str | None = None,
        warmup_epochs: float | None = None,
        seed: int = 0,
        importance_samples: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.latent_dim = latent_dim
        self.layers = layers
        self.width = width
        self.skip = skip
        self.likelihood = likelihood
        self.scaling = scaling
        self.initialisation = initialisation
        self.prior = prior
        self.components = components
        self.guide = guide
        self.objective = objective
        self.inference = inference
        self.svi_steps = svi_steps
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.max_norm = max_norm
        self.beta = beta
        self.beta_schedule = beta_schedule
        self.warmup_epochs = warmup_epochs
        self.seed = seed
        self.importance_samples = importance_samples
        self.device = device

    def fit(self, X: ArrayLike, y: Any = None) -> "SkipVAE":  # noqa: N803
        """Trains a new model on X (n_samples, n_features); y is ignored."""
        with self._as_before_if_it_fails():
            data = self._data(self._checked(X, reset=True))
            self._build(data)
            self._train(data, self.epochs, self._config)
        return self

    def partial_fit(self, X: ArrayLike, y: Any = None) -> "SkipVAE":  # noqa: N803
        """Trains for one pass over X, at a constant learning rate and beta; the first call builds the model, whose units stay.

        Raises ValueError for a beta that is controlled or rises with the objective, which goes over several passes.
        """
        first = not hasattr(self, "vae_")
        for name in ("beta_schedule", "objective"):
            if str(value := getattr(self, name)).partition("(")[0] in ("control", "kl-balancing"):
                raise ValueError(f"expected another {name} for partial_fit, whose beta is constant, got {value}; use fit")
        with self._as_before_if_it_fails():
            data = self._data(self._checked(X, reset=first))
            if first:
                self._build(data)
            elif self._optimizer is not None:
                _set_rate(self._optimizer, self._config.lr)  # that of a whole training has fallen to 0
            if not first and data.kind != self._about.kind and self._about.kind != "real":
                raise ValueError(f"expected {self._about.kind} values, as at the first call, got {data.kind} ones")
            self._train(data, 1, replace(self._config, lr_schedule="constant", beta_schedule="constant"))
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The means of q(z|x), (n_samples, latent_dim); over 100 draws where they have no closed form."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        means = [posterior_moments(self._posterior(part))[0] for part in self._tensor(X).split(ROWS)]
        return _as(torch.cat(means), X)

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The means of p(x|z), (n_samples, n_features), at z = X (n_samples, latent_dim)."""
        check_is_fitted(self)
        z = check_array(X, dtype=(np.float64, np.float32))
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"expected z of {self._n_features_out} dimensions, got {z.shape[1]}")
        with torch.no_grad():
            return _as(torch.cat([self._double.decoder(part).mean for part in self._tensor(z).split(ROWS)]), z)

    def sample(self, n_samples: int = 1, *, seed: int | None = None) -> NDArray[Any]:
        """Draws from the model, (n_samples, n_features): z from p(z), x from p(x|z).

        With seed=None the estimator's seed is used, so that each call gives the same draws. Raises ValueError for n_samples
        below 1.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"expected n_samples of at least 1, got {n_samples}")
        with self._apart(self.seed if seed is None else seed), torch.no_grad():
            z = self._double.prior().sample((n_samples,))
            return torch.cat([self._double.decoder(part).sample() for part in z.split(ROWS)]).cpu().numpy()

    def score(self, X: ArrayLike, y: Any = None) -> float:  # noqa: N803
        """The mean ELBO of the rows of X (10 draws of z each), or their importance-weighted bound, in nats; y is ignored.

        The bound is used where the parameter `importance_samples` is given. Both are lower bounds on log p(x) on average. Of
        real values log p(x) is a density: compare scores of the same columns only.
        """
        check_is_fitted(self)
        samples = self.importance_samples
        if samples is not None and not (isinstance(samples, Integral) and samples >= 1):
            raise ValueError(f"expected importance_samples to be a whole number of at least 1, or None, got {samples}")
        x = self._tensor(self._checked(X, reset=False))
        with self._apart(self.seed), torch.no_grad():
            weights = [
                self._log_weights(part, samples or DRAWS) for part in x.split(max(1, ROWS * DRAWS // (samples or DRAWS)))
            ]
        bounds = [w.mean(0) if samples is None else w.logsumexp(0) - math.log(samples) for w in weights]
        return torch.cat(bounds).mean().item()

    def report(self, X: ArrayLike, **options: Any) -> CollapseReport:  # noqa: N803
        """The `CollapseReport` on the rows of X; options are those of `pyro_skipvae.collapse_report`."""
        check_is_fitted(self)
        return self._report(self._checked(X, reset=False), **options)

    @property
    def report_(self) -> CollapseReport:
        """The `CollapseReport` on at most 1,000 of the training rows."""
        check_is_fitted(self)
        if self._cached_report is None:
            self._cached_report = self._report(self._kept, card={"rows": "of the data that it was fitted to"})
        return self._cached_report

    @property
    def _n_features_out(self) -> int:
        return self._config.latent_dim

    def _checked(self, X: Any, *, reset: bool) -> NDArray[Any]:  # noqa: N803
        return validate_data(self, X, reset=reset, dtype=(np.float64, np.float32))

    def _data(self, X: NDArray[Any]) -> Data:  # noqa: N803
        """X as data of one split, of the kind that the likelihood is for. Raises ValueError for values that it is not for."""
        is_binary = bool(((X == 0) | (X == 1)).all())
        name = self.likelihood or ("bernoulli" if is_binary else "normal-shared-scale")
        if name not in KINDS:
            raise ValueError(f"expected likelihood to be one of {', '.join(KINDS)} or None, got {name!r}")
        if name == "bernoulli" and not is_binary:
            raise ValueError("expected X of 0 and 1 for likelihood='bernoulli', got other values")
        if KINDS[name] == "count" and ((X < 0) | (X != np.round(X))).any():
            raise ValueError(f"expected X of counts, whole numbers of at least 0, for likelihood={name!r}, got other values")
        x = torch.from_numpy(np.array(X, dtype=np.float32))
        if not x.isfinite().all():
            raise ValueError("expected values that float32 can hold, got infinity: X is too large")
        _check_offsets(X)
        binarisation = "given" if KINDS[name] == "binary" else "none"
        about = {"kind": KINDS[name], "levels": None, "binarisation": binarisation, "seed": 0, "checksum": "", "split": "one"}
        return Data("X", x, x, x, event_shape=(x.shape[1],), labels={}, **about)

    def _build(self, data: Data) -> None:
        given = {name: _plain(value) for name, value in self.get_params().items() if name not in OURS and value is not None}
        same = ("name", "event_shape", "kind", "levels", "binarisation", "checksum")
        self._about = DataDescription(**{name: getattr(data, name) for name in same})
        try:
            self._config = resolve(Config.from_flags({**given, "decoder": "mlp", "encoder": "mlp"}), data)
            if self._config.lr_schedule == "halving":
                raise ConfigError("expected a --lr-schedule of cosine or constant, since nothing is validated, got halving")
            if self._config.guide in CODES:
                raise ConfigError(f"expected a guide of real z, (n_samples, latent_dim), got {self._config.guide!r}")
            with self._apart(self.seed):
                self.vae_ = build_vae(self._config, data).to(choose_device(self.device))
        except ConfigError as error:  # it speaks of flags
            raise ValueError(FLAG.sub(lambda found: found[1].replace("-", "_"), str(error))) from None
        self._optimizer, self.losses_ = None, []

    def _train(self, data: Data, epochs: int, config: Config) -> None:
        """Train in a parameter store and with random numbers of its own."""
        batches = data.batches("train", self.batch_size, seed=self.seed)
        batches.epoch = len(self.losses_)  # so that each has an order of its own
        device = device_of(self.vae_)
        checks = {"validate_distributions_pyro": False, "validate_distributions_torch": False}  # the step looks for itself
        with pyro.settings.context(**checks), self._apart(self.seed + len(self.losses_)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered ")
            beta = build_beta(config, len(batches))
            step = build_step(config, self.vae_.train(), epochs * len(batches), beta=beta, data=data, batches=batches)
            if self._optimizer is not None:
                step.load_state_dict(self._optimizer)
            feed = _Feed(batches, device)
            self.losses_ += [epoch.loss for epoch in fit(step, feed, epochs=epochs, beta=beta)]
            self._optimizer = copy.deepcopy(step.state_dict()) if epochs else None
        if left_out := step.nonfinite():
            raise ValueError(
                f"expected a training that stays finite, but {' and '.join(left_out.what)} of {left_out.steps} steps did not: "
                f"lower lr (it was {config.lr:g})"
            )
        self._finish(data)

    @contextmanager
    def _as_before_if_it_fails(self) -> Iterator[None]:
        """Inside a training may fail: then the estimator is as it was, or not fitted."""
        settings = self.get_params(deep=False).keys()
        fields = {name: value for name, value in self.__dict__.items() if name not in settings}
        held = copy.deepcopy({name: fields[name] for name in ("_optimizer", "losses_") if name in fields})
        weights = copy.deepcopy(self.vae_.state_dict()) if hasattr(self, "vae_") else None
        try:
            yield
        except BaseException:
            for name in self.__dict__.keys() - fields.keys() - settings:
                del self.__dict__[name]
            self.__dict__.update(fields | held)
            if weights is not None:
                self.vae_.load_state_dict(weights)
                self.vae_.eval()
            raise

    def _finish(self, data: Data) -> None:
        self.vae_.eval()
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:KEPT]
        self._kept, self._cached_report = data.train[order.sort().values].numpy(), None
        self.__dict__.pop("_double", None)
        self._double  # noqa: B018  made now, so that a look at the estimator changes nothing in it

    @cached_property
    def _double(self) -> VAE:
        """The model in float64, so that a row has the same numbers in any batch."""
        return self._rebuilt(self.vae_.state_dict()).double().to(device_of(self.vae_)).eval()

    def _rebuilt(self, weights: dict[str, Tensor]) -> VAE:
        with self._apart(self.seed):  # the weights that it starts from are drawn
            found = build_blank(self._config, self._about)
        found.load_state_dict(weights)
        return found

    def _tensor(self, X: Any) -> Tensor:  # noqa: N803
        return torch.from_numpy(np.array(X, dtype=np.float64)).to(device_of(self.vae_))

    def _posterior(self, x: Tensor) -> Any:
        with self._apart(self.seed):
            return self._double.posterior(x)

    def _log_weights(self, x: Tensor, draws: int) -> Tensor:
        """log p(x, z) - log q(z|x) at draws of z, (draws, n)."""
        q = self._double.posterior(x)
        pairs = [(z := q.rsample() if q.has_rsample else q.sample(), q.log_prob(z)) for _ in range(draws)]
        z, log_q = (torch.stack(part) for part in zip(*pairs, strict=True))
        return self._double.decoder(z).log_prob(x) + self._double.prior().log_prob(z) - log_q

    def _report(self, X: Any, **options: Any) -> CollapseReport:  # noqa: N803
        with self._apart(self.seed):
            return collapse_report(self._double.model, self._double.guide, self._tensor(X), **options)

    @contextmanager
    def _apart(self, seed: int) -> Iterator[None]:
        """Random numbers and a parameter store of its own."""
        device = device_of(self.vae_) if isinstance(getattr(self, "vae_", None), VAE) else choose_device(self.device)
        with pyro.get_param_store().scope(), forked({device}, int(seed)):
            yield

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "vae_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The fields, with weights in place of modules, which hold functions, and with tensors on the CPU."""
        state = {name: value for name, value in super().__getstate__().items() if name != "_double"}
        state |= {"vae_": self.vae_.state_dict()} if hasattr(self, "vae_") else {}
        return {name: tree_map_only(Tensor, Tensor.cpu, value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "vae_" in state:
            try:
                device = choose_device(self.device)
            except ConfigError:
                warnings.warn(f"there is no {self.device} here: the model is on the CPU", stacklevel=2)
                device, self.device = choose_device("cpu"), "cpu"
            self.vae_ = self._rebuilt(self.vae_).to(device).eval()
            self._double  # noqa: B018


def _check_offsets(X: NDArray[Any]) -> None:  # noqa: N803
    """Raises ValueError for a column that varies by less than float32 can tell at its size; a constant one is fine."""
    mean, deviation = np.abs(X.mean(0, dtype=np.float64)), X.std(0, dtype=np.float64)
    lost = (deviation > 1e-12 * mean) & (deviation < LEAST_SPREAD * mean)
    if lost.any():
        column = int(lost.argmax())
        raise ValueError(
            f"expected columns that vary by more than a millionth of their mean, got column {column} with mean "
            f"{X[:, column].mean():.6g} and deviation {deviation[column]:.3g}: subtract its mean first"
        )


def _set_rate(state: Any, lr: float) -> None:
    """Give every group of the optimizers in a state this learning rate."""
    for name, value in state.items() if isinstance(state, dict) else ():
        if name == "param_groups":
            for group in value:
                group["lr"] = lr
        else:
            _set_rate(value, lr)


class _Feed:
    """Batches on a device."""

    def __init__(self, batches: Any, device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Any:
        return (x.to(self.device) for x in self.batches)


def _plain(value: Any) -> Any:
    """A setting of NumPy, as the grid of a search has, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _as(values: Tensor, like: NDArray[Any]) -> NDArray[Any]:
    return values.cpu().numpy().astype(like.dtype, copy=False)
