"""The step: scaling, clipping, the parameter store, learning rates; and fit."""

import copy
import math
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam, CosineAnnealingLR
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_skipvae import VAE, decoders, encoders, fit, svi_step
from pyro_skipvae.blocks import TRACED
from pyro_skipvae.decoders import MLPDecoder, PixelCNNDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import analytic_elbo, elbo, iwae
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.schedules import Halving, linear, unfinished
from pyro_skipvae.training import Progress, evaluate_loss, graphs, hamiltonian_step, lagging_step
from pyro_skipvae.training.step import MOST_LOOKED


def make_vae():
    torch.manual_seed(0)
    return VAE(StandardNormal(2), MLPDecoder(2, (3, 3), layers=2, width=8), MLPEncoder((3, 3), 2, hidden=(8,)))


@pytest.fixture
def vae(float64):
    return make_vae()


X = torch.rand(20, 3, 3, generator=torch.Generator().manual_seed(0)).gt(0.5)


class Waits(TorchDispatchMode):
    """Counts the numbers and sizes that are made of tensors: on a GPU each waits for the device."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += any(name in str(operator) for name in ("_local_scalar_dense", "nonzero"))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", [elbo, analytic_elbo])
@pytest.mark.parametrize("decoder", [MLPDecoder, PixelCNNDecoder])
def test_a_step_after_the_first_never_waits_for_the_device(decoder, objective):
    pyro.clear_param_store()
    vae = VAE(StandardNormal(2), decoder(2, (3, 3), layers=2), MLPEncoder((3, 3), 2, hidden=(8,)))
    optim = pyro.optim.LambdaLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3, "fused": True}, "lr_lambda": lambda step: 1.0}
    )
    step = svi_step(vae.model, vae.guide, objective, optim, max_norm=1.0)
    step(X.float(), 0.5)
    # What distributions check is the user's setting; the command line trains without, too.
    with pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False), Waits() as waits:
        step(X.float(), 0.7)
    assert waits.count == 0


@pytest.mark.parametrize(("ours", "pyros"), [(elbo, Trace_ELBO()), (analytic_elbo, TraceMeanField_ELBO())])
def test_our_objectives_are_pyros_bit_for_bit(ours, pyros):
    pyro.clear_param_store()
    vae, found = make_vae(), []
    for bound in (ours, pyros.differentiable_loss):
        torch.manual_seed(1)
        loss = bound(vae.model, vae.guide, X.float())
        found.append((loss, *torch.autograd.grad(loss, list(vae.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Recorder(pyro.optim.PyroOptim):
    """An optimizer that notes the gradients it is given and leaves the parameters alone."""

    def __init__(self):
        super().__init__(torch.optim.SGD, {"lr": 0.0})

    def __call__(self, params, *args, **kwargs):
        self.gradients = {pyro.get_param_store().param_name(p): p.grad.clone() for p in params}
        super().__call__(params, *args, **kwargs)


@pytest.mark.parametrize(("ours", "pyros"), [(elbo, Trace_ELBO()), (analytic_elbo, TraceMeanField_ELBO())])
def test_our_objective_and_pyros_give_the_same_step(vae, ours, pyros):
    seen = []
    for objective in (ours, pyros):
        torch.manual_seed(1)
        step = svi_step(vae.model, vae.guide, objective, optim := Recorder())
        seen.append((step(X.double(), 0.5), optim.gradients))
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=1e-12, atol=0)
    for name, gradient in seen[0][1].items():
        torch.testing.assert_close(gradient, seen[1][1][name])


def test_loss_and_gradient_are_means_over_the_batch(vae):
    x, losses, gradients = X.double(), [], []
    for batch in (x[:5].repeat(2000, 1, 1), x[:5].repeat(8000, 1, 1)):
        step = svi_step(vae.model, vae.guide, analytic_elbo, optim := Recorder())
        losses.append(step(batch).item())
        gradients.append(torch.cat([g.flatten() for _, g in sorted(optim.gradients.items())]).norm().item())
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and gradients[0] == pytest.approx(gradients[1], rel=0.05)


def test_batches_whose_rows_cannot_be_counted_are_refused(vae):
    step = svi_step(vae.model, vae.guide, elbo, Recorder())
    with pytest.raises(ValueError, match="the first with a row for each datapoint, got a dict: give them as a tuple"):
        step({"x": X.double(), "y": X.double()})

    def time_first(x):
        with pyro.plate("data", x.shape[1]):
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[:, :1], 1.0).expand([x.shape[1], len(x)]).to_event(1), obs=x.T)

    step = svi_step(time_first, poutine.block(time_first, hide=["x"]), elbo, Recorder())
    for take in (step, step.evaluate):
        with pytest.raises(ValueError, match="a plate over the 7 rows of x, got plates of 64: the first dimension"):
            take(torch.zeros(7, 64))
        assert not pyro.poutine.runtime.am_i_wrapped()  # nothing of it is left behind

    def without_size(x):
        with pyro.plate("data", dim=-1):
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2))[0], 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    step = svi_step(without_size, poutine.block(without_size, hide=["x"]), elbo, Recorder())
    assert step(torch.zeros(7)).isfinite()


def test_a_module_that_is_not_registered_is_told(vae):
    weight = nn.Linear(3, 2)

    def pair(register):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ torch.ones(2, 3), 1.0).to_event(1), obs=x)

        def guide(x):
            if register:
                pyro.module("weight", weight)
            scale = pyro.param("scale", torch.ones(2))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(weight(x), scale.exp()).to_event(1))

        return model, guide

    pyro.clear_param_store()
    with pytest.warns(UserWarning, match=r"2 parameters with a gradient are not trained, of shape \(2,\), \(2, 3\): register"):
        svi_step(*pair(False), elbo, Adam({"lr": 0.1}))(torch.ones(5, 3))
    for register in (True, False):
        weight.requires_grad_(register)
        pyro.clear_param_store()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            svi_step(*pair(register), elbo, Adam({"lr": 0.1}))(torch.ones(5, 3))


@pytest.mark.parametrize("objective", [elbo, Trace_ELBO()])
def test_a_plate_that_stands_for_more_points_leaves_nats_per_datapoint(vae, objective):
    def pair(size):
        def model(x):
            pyro.module("decoder", vae.decoder)
            with pyro.plate("data", size, subsample=torch.arange(len(x))):
                z = pyro.sample("z", vae.prior())
                pyro.sample("x", vae.decoder(z), obs=x)

        def guide(x):
            pyro.module("encoder", vae.encoder)
            with pyro.plate("data", size, subsample=torch.arange(len(x))):
                pyro.sample("z", vae.encoder(x))

        return model, guide

    found = []
    for size in (len(X), 1000):
        torch.manual_seed(1)
        step = svi_step(*pair(size), objective, optim := Recorder())
        found.append([step(X.double()), *optim.gradients.values()])
        torch.manual_seed(1)
        assert step.evaluate(X.double()) == pytest.approx(found[-1][0].item())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("objective", [Trace_ELBO(), elbo, analytic_elbo])
def test_a_plate_that_chooses_rows_or_pixels_leaves_nats_per_datapoint(objective, float64):
    """All rows are alike, and all pixels: the loss does not depend on which are chosen, nor on how many."""

    def pair(rows, pixels):
        def model(x):
            scale = pyro.param("scale", torch.ones(()))
            with pyro.plate("data", len(x), subsample_size=rows, dim=-2) as chosen:
                z = pyro.sample("z", dist.Normal(torch.zeros(len(chosen), 1), 1.0))
                with pyro.plate("pixels", x.shape[1], subsample_size=pixels, dim=-1) as some:
                    pyro.sample("x", dist.Normal(0 * z, scale), obs=x[chosen][:, some])

        def guide(x):
            with pyro.plate("data", len(x), subsample_size=rows, dim=-2) as chosen:
                pyro.sample("z", dist.Normal(torch.ones(len(chosen), 1), 1e-3))

        return model, guide

    found = []
    for rows, pixels in ((20, 30), (5, 30), (20, 6), (5, 6)):
        pyro.clear_param_store()
        step = svi_step(*pair(rows, pixels), objective, optim := Recorder())
        found.append([step(torch.ones(20, 30)), *optim.gradients.values()])
    exact = 30 * (1 + math.log(2 * math.pi)) / 2 + 0.5 * (1e-6 + 1 - 1 - math.log(1e-6))
    for loss, gradient in found:
        assert float(loss) == pytest.approx(exact, abs=2.5)  # log q and log p of a draw
        torch.testing.assert_close(gradient, found[0][1])


@pytest.mark.parametrize("max_norm", [0.01, 1e9])
def test_the_norm_of_the_whole_gradient_is_clipped(vae, max_norm):
    norms = []
    for limit in (None, max_norm):
        torch.manual_seed(1)
        svi_step(vae.model, vae.guide, elbo, optim := Recorder(), max_norm=limit)(X.double())
        norms.append(torch.cat([g.flatten() for g in optim.gradients.values()]).norm().item())
    assert norms[1] == pytest.approx(min(norms[0], max_norm), rel=1e-4)


class Separate(PyroLRScheduler):
    """Pyro's own loop over one optimizer for each parameter."""

    def __init__(self, optim_args):
        super().__init__(torch.optim.lr_scheduler.LambdaLR, optim_args)

    def __call__(self, params, *args, **kwargs):
        super().__call__(params, *args, **kwargs)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_one_optimizer_of_all_parameters_does_what_pyros_do_one_by_one(kind):
    """Over a step that is left out, and over what is saved by one and loaded into another."""

    def make_step(of):
        options = {"lr": 0.1, "fused": True} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
        halving = {"optimizer": kind, "optim_args": options, "lr_lambda": lambda step: 0.5**step}
        return svi_step(vae.model, vae.guide, lambda *given: factor * elbo(*given), of(halving), max_norm=1.0)

    ended = []
    for of in (pyro.optim.LambdaLR, Separate, pyro.optim.LambdaLR):
        pyro.clear_param_store()
        vae = make_vae()
        torch.manual_seed(1)
        step = make_step(of)
        for n in range(6):
            factor = torch.nan if n == 2 else 1.0
            step(X.float())
            if n == 3 and len(ended) == 2:
                state, step = step.state_dict(), make_step(of)
                step.load_state_dict(state)
        assert step.nonfinite().steps == 1 and (step._one is None) == (of is Separate)
        ended.append([p.detach().clone() for p in vae.parameters()])
    torch.testing.assert_close(ended[0], ended[1], rtol=0, atol=0)
    torch.testing.assert_close(ended[0], ended[2], rtol=0, atol=0)


def test_parameters_with_options_of_their_own_keep_their_optimizers(vae):
    options = lambda name: {"lr": 0.1 if name.startswith("decoder") else 0.01, "fused": True}  # noqa: E731
    step = svi_step(vae.model, vae.guide, elbo, pyro.optim.PyroOptim(torch.optim.Adam, options))
    step(X.double())
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    step(X.double())
    moved = {name: (p - before[name]).abs().max().item() for name, p in vae.named_parameters()}
    assert step._one is None
    assert all(size < 0.02 for name, size in moved.items() if name.startswith("encoder"))
    assert max(size for name, size in moved.items() if name.startswith("decoder")) > 0.05


def test_a_second_model_in_the_same_store_is_refused_before_it_trains():
    step = svi_step(make_vae().model, make_vae().guide, elbo, Adam({"lr": 0.1}))
    step(X.float())
    second = make_vae()
    with pytest.raises(ValueError, match="belongs to another model; call pyro.clear_param_store"):
        svi_step(second.model, second.guide, elbo, Adam({"lr": 0.1}))(X.float())
    pyro.clear_param_store()
    before = [p.clone() for p in second.parameters()]
    svi_step(second.model, second.guide, elbo, Adam({"lr": 0.1}))(X.float())
    assert all(not p.equal(old) for p, old in zip(second.parameters(), before, strict=True))


def test_a_step_that_is_gone_on_with_after_another_model_is_refused_too():
    first, second = make_vae(), make_vae()
    step = svi_step(first.model, first.guide, elbo, Adam({"lr": 0.1}))
    step(X.float())
    pyro.clear_param_store()
    with pytest.raises(ValueError, match="save before pyro.clear_param_store"):
        step.state_dict()
    svi_step(second.model, second.guide, elbo, Adam({"lr": 0.1}))(X.float())
    with pytest.raises(ValueError, match="belongs to another model; call pyro.clear_param_store"):
        step(X.float())
    pyro.clear_param_store()
    before = [p.clone() for p in first.parameters()]
    step(X.float())
    assert all(not p.equal(old) for p, old in zip(first.parameters(), before, strict=True))


def test_nan_that_stands_for_what_is_missing_is_trained_on():
    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

    means = Means()

    def model(x):
        pyro.module("means", means)
        with pyro.plate("data", len(x)):
            there = ~x.isnan()
            pyro.sample("x", dist.Normal(means.weight, 1.0).expand(x.shape).mask(there).to_event(1), obs=x.nan_to_num())

    step = svi_step(model, lambda x: None, Trace_ELBO(), Adam({"lr": 0.1}))
    x = torch.tensor([[1.0, torch.nan], [torch.nan, -1.0]])
    losses = [step(x).item() for _ in range(50)]
    assert step.nonfinite() is None and losses[-1] < losses[0]
    assert means.weight.detach().tolist() == pytest.approx([1, -1], abs=0.3)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_schedule_advances_in_a_first_step_that_is_left_out_too(vae):
    def make_step():
        optim = CosineAnnealingLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "T_max": 10})
        return svi_step(vae.model, vae.guide, lambda *given: factor * elbo(*given), optim)

    def rates(step):
        return {one.get_last_lr()[0] for one in step.optim.optim_objs.values()}

    whole, factor = make_step(), 1.0
    for number in range(4):
        factor = torch.nan if number == 2 else 1.0
        if number == 2:
            saved = copy.deepcopy(whole.state_dict())
        whole(X.double())
    expected = rates(whole)
    again = make_step()
    again.load_state_dict(saved)
    factor = torch.nan
    again(X.double())
    factor = 1.0
    again(X.double())
    assert rates(again) == expected and len(expected) == 1


def test_parameters_that_the_store_would_copy_are_refused():
    vae = make_vae()
    vae.encoder.network[0].weight = torch.nn.Parameter(torch.randn(9, 8).T)
    with pytest.raises(ValueError, match="is not contiguous"):
        svi_step(vae.model, vae.guide, elbo, Adam({"lr": 0.1}))(X.float())


def test_sparse_gradients_are_refused_before_an_update():
    embedding = torch.nn.Embedding(10, 2, sparse=True)

    def pair(x):
        pyro.module("embedding", embedding)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(embedding(x), 1.0).to_event(1))

    before = embedding.weight.clone()
    with pytest.raises(ValueError, match="expected dense gradients, got a sparse one: leave sparse=True out"):
        svi_step(pair, pair, elbo, Adam({"lr": 0.1}))(torch.arange(4))
    assert embedding.weight.equal(before)


def test_a_torch_optimizer_is_refused_in_plain_words():
    vae = make_vae()
    with pytest.raises(ValueError, match="expected an optimizer of pyro.optim, got Adam"):
        svi_step(vae.model, vae.guide, elbo, torch.optim.Adam(vae.parameters()))


def test_a_schedule_that_waits_for_a_loss_is_refused_before_it_trains():
    vae = make_vae()
    optim = pyro.optim.ReduceLROnPlateau({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}})
    with pytest.raises(ValueError, match="expected a learning-rate schedule of the step alone, got ReduceLROnPlateau"):
        svi_step(vae.model, vae.guide, elbo, optim)


@pytest.mark.parametrize(
    "make",
    [
        svi_step,
        partial(svi_step, compile=True),
        hamiltonian_step,
        partial(lagging_step, draw=lambda number: [X.float()], valid=X.float(), every=1, most=3),
    ],
)
def test_a_batch_that_is_a_list_is_its_tensors(make):
    """As a DataLoader of a TensorDataset gives it."""
    losses = []
    for batch in (X.float(), [X.float()], (X.float(),)):
        pyro.clear_param_store()
        vae = make_vae()
        torch.manual_seed(1)
        step = make(vae.model, vae.guide, elbo, Adam({"lr": 1e-2}))
        losses.append([float(step(batch)), float(step(batch)), step.evaluate(batch)])
        torch.manual_seed(1)
        losses[-1] += [iwae(2)(vae.model, vae.guide, batch).item()]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("make", [svi_step, partial(svi_step, compile=True), lagging_step])
def test_a_list_of_two_tensors_is_the_two_arguments_of_a_model(make, monkeypatch):
    """Also where the step is traced, and where the batches that it draws itself are lists."""
    monkeypatch.setattr(graphs, "_compiled", lambda graph, tensors: graph)
    offset = torch.arange(20.0)[:, None]

    def model(x, context):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + context, 1.0).expand((len(x), 9)).to_event(1), obs=x)

    def guide(x, context):
        loc = pyro.param("slope", torch.tensor(0.5)) * (x - context).mean(1, keepdim=True)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.3).to_event(1))

    losses: list = []
    for kind in (tuple, list):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        batch = kind([X.flatten(1).float(), offset])
        more = {"draw": lambda number, drawn=batch: drawn, "valid": batch, "every": 1, "most": 3}
        step = make(model, guide, elbo, Adam({"lr": 1e-2}), **(more if make is lagging_step else {}))
        losses.append([float(step(batch)), float(step(batch)), step.evaluate(batch)])
        assert step.compilation is None or (step.compilation.graphs, step.compilation.refused) == (1, None)
    assert losses[0] == losses[1]


def test_a_jitted_elbo_of_pyro_takes_no_other_beta_than_one(vae):
    step = svi_step(vae.model, vae.guide, JitTrace_ELBO(ignore_jit_warnings=True), Adam({"lr": 1e-2}))
    with pytest.raises(ValueError, match="expected a beta of 1 with JitTrace_ELBO, got 0.5"):
        step(X.double(), 0.5)


def test_a_users_own_pyro_param_trains_too():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(loc, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal((x + pyro.param("loc")) / 2, 0.5**0.5))

    pyro.param("loc", torch.tensor(0.0))
    step = svi_step(model, guide, Trace_ELBO(), Adam({"lr": 0.05}))
    list(fit(step, [torch.randn(50) + 3], epochs=200))
    assert pyro.param("loc").item() == pytest.approx(3.0, abs=0.4)


def test_a_learning_rate_schedule_advances_with_every_step():
    vae = make_vae()
    optim = CosineAnnealingLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "T_max": 10})
    step = svi_step(vae.model, vae.guide, elbo, optim)
    rates = []
    for _ in range(10):
        step(X.float())
        rates.append(next(iter(optim.optim_objs.values())).get_last_lr()[0])
    assert rates[4] == pytest.approx(0.05) and rates[9] == pytest.approx(0.0, abs=1e-9)


def test_fit_yields_epochs_and_asks_the_schedule_at_every_step():
    class Fake:
        steps, betas = 0, []

        def __call__(self, x, beta):
            self.steps += 1
            self.betas.append(beta)
            return float(x.sum())

    step = Fake()
    batches = [torch.ones(2), torch.ones(1)]
    epochs = list(fit(step, batches, epochs=2, beta=linear(0.1, 1.0, 3)))
    assert [e.number for e in epochs] == [1, 2] and [e.steps for e in epochs] == [2, 4]
    assert epochs[0].loss == pytest.approx((2 * 2 + 1 * 1) / 3)  # by datapoint, not by batch
    assert step.betas == pytest.approx([0.1, 0.4, 0.7, 1.0]) and epochs[1].beta == 1.0


def test_fit_goes_on_in_the_middle_of_an_epoch_as_if_it_had_not_stopped():
    class Fake:
        steps = 0

        def __call__(self, x, beta):
            self.steps += 1
            return x.mean() * beta

    class Broken(Exception):
        pass

    class Until:
        """Batches that break off after some, and go on from there."""

        def __init__(self, stop):
            self.batches, self.position, self.stop = torch.randn(6, 4), 0, stop

        def __iter__(self):
            while self.position < 6:
                self.position += 1
                yield self.batches[self.position - 1]
                if self.position == self.stop:
                    self.stop = None
                    raise Broken
            self.position = 0

    def epochs(stop):
        torch.manual_seed(0)
        step, batches, progress, found = Fake(), Until(stop), Progress(), []
        while progress.epochs < 2:
            try:
                for epoch in fit(step, batches, epochs=2, beta=beta, progress=progress):
                    found.append((epoch.number, epoch.steps, epoch.loss, epoch.beta))
            except Broken:
                progress = Progress(**vars(progress))
        return found

    beta = linear(0.1, 1.0, 9)
    whole = epochs(None)
    assert len(whole) == 2 and all(epochs(stop) == whole for stop in range(1, 7))


def test_an_epoch_without_a_finite_loss_has_none():
    class Fake:
        steps = 0

        def __call__(self, x, beta):
            return x.sum()

    nan = torch.tensor([torch.nan])
    losses = [next(fit(Fake(), batches, epochs=1)).loss for batches in ([nan], [nan, torch.ones(2)])]
    assert losses == pytest.approx([float("nan"), 2.0], nan_ok=True)
    assert math.isnan(next(fit(Fake(), [], epochs=1, progress=Progress())).loss)  # resumed at the end of such an epoch


def test_a_schedule_that_cannot_finish_is_reported():
    assert "ends on another objective" in unfinished(linear(0.1, 1.0, 101), 100)
    assert unfinished(linear(0.1, 1.0, 100), 100) is None


def test_evaluation_moves_no_parameter(vae):
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 0.1}))
    step(X.double())
    before = [p.clone() for p in vae.parameters()]
    loss = evaluate_loss(step, X.double().split(8))
    assert 4 < loss < 12 and all(p.equal(old) for p, old in zip(vae.parameters(), before, strict=True))


def test_a_step_restored_from_its_state_goes_on_exactly():
    def run(vae, steps, optim, state=None):
        step = svi_step(vae.model, vae.guide, elbo, optim)
        if state:
            step.load_state_dict(state)
        for _ in range(steps):
            step(X.float())
        return step

    def optim():
        return CosineAnnealingLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "T_max": 10})

    whole = make_vae()
    torch.manual_seed(5)
    run(whole, 6, optim())
    pyro.clear_param_store()
    half = make_vae()
    torch.manual_seed(5)
    state = run(half, 3, optim()).state_dict()
    weights = {name: tensor.clone() for name, tensor in half.state_dict().items()}
    draws = torch.get_rng_state()
    pyro.clear_param_store()
    again = make_vae()
    again.load_state_dict(weights)
    torch.set_rng_state(draws)
    step = run(again, 3, optim(), state)
    assert step.steps == 6
    assert all(a.equal(b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_step_that_has_gone_on_goes_back_to_a_state():
    vae = make_vae()
    rates = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1, "fused": True}, "lr_lambda": lambda step: 1 / (1 + step)}
    step = svi_step(vae.model, vae.guide, elbo, pyro.optim.LambdaLR(rates))

    def four_steps():
        torch.manual_seed(5)
        for _ in range(4):
            step(X.float())
        return [p.detach().clone() for p in vae.parameters()]

    for _ in range(3):
        step(X.float())
    weights, state = copy.deepcopy((vae.state_dict(), step.state_dict()))
    expected, kept = four_steps(), copy.deepcopy(state)
    for _ in range(2):  # what was loaded is not used up
        vae.load_state_dict(weights)
        step.load_state_dict(state)
        assert step.steps == 3 and step.state_dict()["optimizer"].keys() == state["optimizer"].keys()
        assert all(a.equal(b) for a, b in zip(four_steps(), expected, strict=True))
    assert step.steps == 7
    for one in step.state_dict()["optimizer"].values():
        assert one["optimizer"]["state"][0]["step"] == 7 and one["scheduler"]["last_epoch"] == 7
    for name, one in state["optimizer"].items():
        old, new = kept["optimizer"][name]["optimizer"]["state"][0], one["optimizer"]["state"][0]
        assert all(new[key].equal(old[key]) for key in old)


def test_inputs_of_any_type_are_looked_at_and_only_floats_can_be_not_finite():
    def model(x, labels, mask, nothing):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
            pyro.sample("x", pyro.distributions.Normal(z + labels * mask, 1.0, validate_args=False), obs=x)

    def guide(x, labels, mask, nothing):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    step = svi_step(model, guide, Trace_ELBO(), Adam({"lr": 0.05}))
    others = torch.ones(3, dtype=torch.long), torch.tensor([True, False, True]), torch.zeros(0)
    step((torch.randn(3), *others))
    assert step.nonfinite() is None
    with pytest.warns(UserWarning, match="Encountered NaN"):
        step((torch.tensor([0.0, torch.nan, 1.0]), *others))
    assert step.nonfinite().first == 1 and step.nonfinite().what[0] == "input"


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_steps_that_are_not_finite_are_counted_over_many_and_over_a_resume(vae):
    def make_step():
        return svi_step(vae.model, vae.guide, lambda *given: factor * elbo(*given), Adam({"lr": 1e-3, "fused": True}))

    step = make_step()
    for n in range(MOST_LOOKED + 10):
        factor = torch.nan if n in (MOST_LOOKED - 1, MOST_LOOKED + 3) else 1.0
        step(X.double())
    assert vars(step.nonfinite()) == {"steps": 2, "first": MOST_LOOKED - 1, "what": ("loss", "gradient")}
    again = make_step()
    again(X.double())
    again.load_state_dict(step.state_dict())
    factor = torch.nan
    again(X.double())
    assert vars(again.nonfinite()) == {**vars(step.nonfinite()), "steps": 3}


def test_halving_waits_for_its_epoch_and_does_not_stop_once_it_started():
    halving, factors = Halving(first=3), []
    for epoch, better in enumerate([False, False, True, True, False, True, True, True, True, True], 1):
        halving.after(epoch, better)
        factors.append(halving(step=0))
    assert factors == [1, 1, 1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64]
    assert halving.ended and Halving(**vars(halving)) == halving
    assert not Halving(factor=1 / 32, floor=0.03).ended


TEXT = torch.tensor([[5, 6, 7, 2, 0], [4, 2, 0, 0, 0], [8, 9, 5, 4, 2]])


@pytest.mark.parametrize("encoder", ["LSTMEncoder", "TransformerEncoder"])
@pytest.mark.parametrize("decoder", ["LSTMDecoder", "DilatedCNNDecoder", "TransformerDecoder"])
def test_a_step_on_text_never_waits_for_another_device_and_is_the_step_of_a_cpu(decoder, encoder, float64):
    """A CPU looks at lengths and at what underflows, since it has the numbers at hand; any other device is not asked."""
    sizes = {"embedding": 4, "width": 8}
    layers = {} if decoder == "LSTMDecoder" else {"layers": 1}
    found = []
    for elsewhere in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        made = getattr(decoders, decoder)(12, 3, max_length=5, dropout=0.0, **sizes, **layers)
        read = getattr(encoders, encoder)(12, 3, **sizes, **({"dropout": 0.0} if encoder == "TransformerEncoder" else {}))
        vae = VAE(StandardNormal(3), made, read)
        step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3, "fused": True}), max_norm=1.0)
        checks = pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False)
        token = TRACED.set(elsewhere)  # as on a GPU: no value can be had
        try:
            step(TEXT)
            with checks, Waits() as waits:
                loss = step(TEXT)
        finally:
            TRACED.reset(token)
        assert not (elsewhere and waits.count)
        found.append([loss, *vae.parameters()])
    torch.testing.assert_close(found[1], found[0])


def test_the_loss_of_all_batches_is_the_mean_over_datapoints():
    class Step:
        def evaluate(self, x):
            return x.mean().item()

    assert evaluate_loss(Step(), torch.arange(20.0).split(8)) == 9.5
