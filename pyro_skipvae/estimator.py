"""`SkipVAE`: a VAE as an estimator of scikit-learn, for arrays (n_samples, n_features)."""

import copy
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
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

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.data.dataset import Data
from pyro_skipvae.diagnostics import CollapseReport, collapse_report
from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.model import VAE
from pyro_skipvae.modules import device_of
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.runs.build import (
    build_beta,
    build_blank,
    build_step,
    build_vae,
    check_objective,
    choose_device,
    resolve,
    without_effect,
)
from pyro_skipvae.runs.config import CODES, Config, ConfigError
from pyro_skipvae.runs.description import DataDescription
from pyro_skipvae.text.decoding import on_support
from pyro_skipvae.training import fit

KINDS = {"bernoulli": "binary", "poisson": "count", "multinomial": "count", "normal": "real", "normal-shared-scale": "real"}
OURS = ("importance_samples", "device")  # the parameters that are no settings of a training
EACH_PASS = ("lr", "beta", "max_norm", "batch_size")  # that each call of `partial_fit` reads anew
UNUSED = ("epochs", "lr_schedule", "beta_schedule", "warmup_epochs", "importance_samples", "seed", "device")  # by the model
ONE_AT_A_TIME = threading.RLock()  # random numbers and Pyro's parameter store are those of the process
FLAG = re.compile(r"--([a-z][a-z-]+)")
KEPT = 1000  # rows of the training data, for `report_`
ROWS = 500  # that are decoded together
DRAWS = 10  # of z for a point, in the ELBO
LEAST_SPREAD = 1e-6  # deviation over mean of a column; float32 has a relative error of 6e-8


def _with_gradients(train: Callable[..., "SkipVAE"]) -> Callable[..., "SkipVAE"]:
    """A training that is called where gradients are off."""

    @wraps(train)
    def run(*arguments: Any, **named: Any) -> "SkipVAE":
        with torch.inference_mode(False), torch.enable_grad():
            return train(*arguments, **named)

    return run


class SkipVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A generative skip VAE (with skip="none" a VAE) as a scikit-learn estimator, for arrays X (n_samples, n_features).

        fit: maximises the ELBO;   transform: E[z|x];   inverse_transform: E[x|z];   score: nats per row, higher is better

    The parameters are the settings of `skipvae-pyro train`, by the same names; None is chosen from the data. layers and width
    are of the decoder, encoder_width of the two hidden layers of the encoder, 512 where it is None. likelihood: None
    is bernoulli where all of X is 0 or 1, else normal-shared-scale; poisson and multinomial are for counts. X needs no
    StandardScaler: networks and p(x|z) work in units of the columns' standard deviations, and all results are in units of X.
    importance_samples: K of the bound that `score` returns; None returns the ELBO. Equal seeds give equal results; random
    numbers and Pyro's parameter store stay as found. Threads wait for each other.

    Attributes: `vae_`, the `pyro_skipvae.VAE`; `losses_`, one per epoch in nats per row; `report_`, the collapse report on at
    most 1,000 rows of the last call of `fit` or `partial_fit`, made when it is first used (for other rows: `report(X)`);
    `n_features_in_`, and `feature_names_in_` where X has names. Raises ValueError for parameters that are wrong or do not suit
    X, and for a training that does not stay finite. Warns of parameters without effect.
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        layers: int = 2,
        width: int = 128,
        encoder_width: int | None = None,
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
        self.encoder_width = encoder_width
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

    @_with_gradients
    def fit(self, X: ArrayLike, y: Any = None) -> "SkipVAE":  # noqa: N803
        """Trains a new model on X (n_samples, n_features); y is ignored."""
        with self._as_before_if_it_fails():
            data = self._data(self._checked(X, reset=True), self.likelihood)
            self._build(data)
            self._train(data, self._config.epochs, self._config)
        return self

    @_with_gradients
    def partial_fit(self, X: ArrayLike, y: Any = None) -> "SkipVAE":  # noqa: N803
        """Trains for one pass over X, at a constant learning rate and beta; the first call builds the model, whose units stay.

        lr, beta, max_norm and batch_size may change between calls; None is what the first one had. Raises ValueError for
        another parameter that did, and for a beta that is controlled or rises with the objective, over several passes.
        """
        first = not hasattr(self, "vae_")
        for name in ("beta_schedule", "objective"):
            if str(value := getattr(self, name)).partition("(")[0] in ("control", "kl-balancing"):
                raise ValueError(f"expected another {name} for partial_fit, whose beta is constant, got {value}; use fit")
        with self._as_before_if_it_fails():
            data = self._data(self._checked(X, reset=first), self.likelihood if first else self._config.likelihood)
            if first:
                self._build(data)
            config = self._of_this_pass(data)
            if self._optimizer is not None:
                _set_rate(self._optimizer, config.lr)  # that of a whole training has fallen to 0
            self._train(data, 1, config)
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The means of q(z|x), (n_samples, latent_dim); over 100 draws where they have no closed form.

        Where q is refined (`inference`) or a flow, noise is drawn for X as a whole: then a row's mean also depends, by that
        noise, on its place in X.
        """
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return _as(torch.cat([self._mean(part) for part in self._tensor(X).split(ROWS)]), X)

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The means of p(x|z), (n_samples, n_features), at z = X (n_samples, latent_dim); on a sphere at X / |X|."""
        check_is_fitted(self)
        z = check_array(X, dtype=(np.float64, np.float32))
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"expected z of {self._n_features_out} dimensions, got {z.shape[1]}")
        with torch.no_grad():
            latents = on_support(self._double.prior, torch.from_numpy(z.astype(np.float64)).to(device_of(self.vae_)))
            return _as(torch.cat([self._double.decoder(part).mean for part in latents.split(ROWS)]), z)

    def sample(self, n_samples: int = 1, *, seed: int | None = None) -> NDArray[Any]:
        """Draws from the model, (n_samples, n_features): z from p(z), x from p(x|z).

        With seed=None the estimator's seed is used, so that each call gives the same draws. Raises ValueError for n_samples
        below 1.
        """
        check_is_fitted(self)
        check_sizes(n_samples=n_samples)
        if seed is not None and not isinstance(seed, Integral):
            raise ValueError(f"expected seed to be a whole number or None, got {seed!r}")
        with self._apart(seed), torch.no_grad():
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
        with self._apart(), torch.no_grad():
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
            self._cached_report = self._report(self._kept, card={"rows": "of the data of the last call of fit or partial_fit"})
        return self._cached_report

    @property
    def _n_features_out(self) -> int:
        return self._config.latent_dim

    def _checked(self, X: Any, *, reset: bool) -> NDArray[Any]:  # noqa: N803
        return validate_data(self, X, reset=reset, dtype=(np.float64, np.float32))

    def _data(self, X: NDArray[Any], likelihood: str | None) -> Data:  # noqa: N803
        """X as data of one split, of the kind that the likelihood is for. Raises ValueError for values that it is not for."""
        name = likelihood or ("bernoulli" if _is_binary(X) else "normal-shared-scale")
        if name not in KINDS:
            raise ValueError(f"expected likelihood to be one of {', '.join(KINDS)} or None, got {name!r}")
        _check_values(X, name)
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
        if self.guide in CODES:
            raise ValueError(f"expected a guide of real z, (n_samples, latent_dim), got {self.guide!r}")
        check_sizes(latent_dim=_plain(self.latent_dim))
        try:
            self._config = resolve(Config.from_flags({**given, "decoder": "mlp", "encoder": "mlp"}), data)
            if self._config.lr_schedule == "halving":
                raise ConfigError("expected a --lr-schedule of cosine or constant, since nothing is validated, got halving")
            for flag, wanted in without_effect(self._config, given).items():
                warnings.warn(_of_parameters(f"{flag} has no effect here: it needs {wanted}"), stacklevel=3)
            self.__dict__.pop("vae_", None)  # the device is that of the new one
            with self._apart():
                self.vae_ = build_vae(self._config, data).to(choose_device(self.device))
        except ConfigError as error:
            raise ValueError(_of_parameters(str(error))) from None
        self._optimizer, self.losses_, self._built_with = None, [], self.get_params()

    def _of_this_pass(self, data: Data) -> Config:
        """The settings of a pass of `partial_fit`. Raises ValueError where the model would have to be another one."""
        for name, value in self.get_params().items():
            if name not in (*EACH_PASS, *UNUSED) and value != self._built_with[name]:
                raise ValueError(
                    f"expected {name}={self._built_with[name]!r}, with which partial_fit began, got {value!r}; use fit"
                )
        given = {name: _plain(value) for name in EACH_PASS if (value := getattr(self, name)) is not None}
        try:
            config = replace(self._config, **given, lr_schedule="constant", beta_schedule="constant")
            check_objective(config, data)
        except ConfigError as error:
            raise ValueError(_of_parameters(str(error))) from None
        return config

    def _train(self, data: Data, epochs: int, config: Config) -> None:
        """Train in a parameter store and with random numbers of its own."""
        batches = data.batches("train", config.batch_size, seed=self._seed)
        batches.epoch = len(self.losses_)  # so that each has an order of its own
        device = device_of(self.vae_)
        checks = {"validate_distributions_pyro": False, "validate_distributions_torch": False}  # the step looks for itself
        with self._apart(self._seed + len(self.losses_)), pyro.settings.context(**checks), warnings.catch_warnings():
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
        self.__dict__.pop("_of_vae", None)  # a training leaves the versions of tensors as they are
        self._double  # noqa: B018  made now, so that a look at the estimator changes nothing in it

    @property
    def _double(self) -> VAE:
        """`vae_` in float64, in which the rounding of a row does not depend on its batch; made again where `vae_` changed."""
        weights = self.vae_.state_dict()
        made_of = [(value.data_ptr(), value._version) for value in weights.values()]
        if getattr(self, "_of_vae", (None,))[0] != made_of:
            self._of_vae = made_of, self._rebuilt(weights).double().to(device_of(self.vae_)).eval()
        return self._of_vae[1]

    def _rebuilt(self, weights: dict[str, Tensor]) -> VAE:
        with self._apart():  # the weights that it starts from are drawn
            found = build_blank(self._config, self._about)
        found.load_state_dict(weights)
        return found

    def _tensor(self, X: Any) -> Tensor:  # noqa: N803
        _check_values(X, self._config.likelihood)
        return torch.from_numpy(np.array(X, dtype=np.float64)).to(device_of(self.vae_))

    def _mean(self, x: Tensor) -> Tensor:
        with self._apart():
            return posterior_moments(self._double.posterior(x))[0]

    def _log_weights(self, x: Tensor, draws: int) -> Tensor:
        """log p(x, z) - log q(z|x) at draws of z, (draws, n)."""
        q = self._double.posterior(x)
        pairs = [(z := q.rsample() if q.has_rsample else q.sample(), q.log_prob(z)) for _ in range(draws)]
        z, log_q = (torch.stack(part) for part in zip(*pairs, strict=True))
        return self._double.decoder(z).log_prob(x) + self._double.prior().log_prob(z) - log_q

    def _report(self, X: Any, **options: Any) -> CollapseReport:  # noqa: N803
        with self._apart():
            return collapse_report(self._double.model, self._double.guide, self._tensor(X), **options)

    @property
    def _seed(self) -> int:
        return int(self._config.seed if self.seed is None else self.seed)

    @contextmanager
    def _apart(self, seed: int | None = None) -> Iterator[None]:
        """Random numbers, by default from the estimator's seed, and a parameter store of its own; one thread at a time."""
        device = device_of(self.vae_) if isinstance(getattr(self, "vae_", None), VAE) else choose_device(self.device)
        with ONE_AT_A_TIME, pyro.get_param_store().scope(), forked({device}, self._seed if seed is None else int(seed)):
            usual = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
            try:
                yield
            finally:
                torch.set_default_dtype(usual)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "vae_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The fields, with weights in place of modules, which hold functions, and with tensors on the CPU."""
        state = {name: value for name, value in super().__getstate__().items() if name != "_of_vae"}
        state |= {"vae_": self.vae_.state_dict()} if hasattr(self, "vae_") else {}
        return {name: tree_map_only(Tensor, Tensor.cpu, value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "vae_" in state:
            self.__dict__.setdefault("_built_with", self.get_params())  # a pickle of before has none
            try:
                device = choose_device(self.device)
            except ConfigError:
                warnings.warn(f"there is no {self.device} here: the model is on the CPU", stacklevel=2)
                device, self.device = choose_device("cpu"), "cpu"
            self.vae_ = self._rebuilt(self.vae_).to(device).eval()
            self._double  # noqa: B018


def _is_binary(X: NDArray[Any]) -> bool:  # noqa: N803
    return bool(((X == 0) | (X == 1)).all())


def _check_values(X: NDArray[Any], likelihood: str) -> None:  # noqa: N803
    """Raises ValueError for values that a likelihood is not for."""
    if likelihood == "bernoulli" and not _is_binary(X):
        raise ValueError("expected X of 0 and 1 for likelihood='bernoulli', got other values")
    if KINDS[likelihood] == "count" and ((X < 0) | (X != np.round(X))).any():
        raise ValueError(f"expected X of counts, whole numbers of at least 0, for likelihood={likelihood!r}, got other values")


def _of_parameters(text: str) -> str:
    """A sentence of flags, as one of the parameters of those names."""
    return FLAG.sub(lambda found: found[1].replace("-", "_"), text)


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
    """Give every group of the optimizers in a state, and their schedules, this learning rate."""
    for name, value in state.items() if isinstance(state, dict) else ():
        if name == "param_groups":
            for group in value:
                group["lr"] = group["initial_lr"] = lr
        elif name == "base_lrs":
            value[:] = [lr] * len(value)
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
