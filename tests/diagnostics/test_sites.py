"""Several latent sites and discrete ones: rows of a report against closed forms, Pyro's ELBO, and models that ignore a site."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_skipvae.diagnostics import CollapseReport, Monitor, collapse_report, log_likelihood, rate


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def report(model, guide, x, **options):
    return collapse_report(model, guide, x, **{"importance_samples": 20, "posterior_samples": 4} | options)


X = draw(300, 2) * 3**0.5


def ladder(x, use_top=True):
    """z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1): p(x) = N(0, 3). Without use_top z1 ~ N(0, 2)."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", normal(torch.zeros_like(x)))
        z1 = pyro.sample("z1", normal(z2) if use_top else normal(0 * z2, 2**0.5))
        pyro.sample("x", normal(z1), obs=x)


def top_down(x, use_top=True):
    """The exact posterior, z2 first: q(z2|x) = N(x/3, 2/3), q(z1|z2, x) = N((z2 + x)/2, 1/2)."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", normal(x / 3, (2 / 3) ** 0.5) if use_top else normal(0 * x))
        pyro.sample("z1", normal((z2 + x) / 2, 0.5**0.5) if use_top else normal(2 * x / 3, (2 / 3) ** 0.5))


def bottom_up(x):
    """The exact posterior, z1 first: q(z1|x) = N(2x/3, 2/3), q(z2|z1) = N(z1/2, 1/2)."""
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", normal(2 * x / 3, (2 / 3) ** 0.5))
        pyro.sample("z2", normal(z1 / 2, 0.5**0.5))


EVIDENCE = normal(torch.zeros(2).double(), 3**0.5).log_prob(X).mean().item()
# KL(N(m, v) || N(0, s)) summed over two dimensions, with m^2 of the data.
SQUARE = X.square().sum(1).mean().item()
TOP = 0.5 * (2 * (2 / 3) + SQUARE / 9 - 2 - 2 * math.log(2 / 3))
# E KL(N((z2 + x)/2, 1/2) || N(z2, 1)), (x - z2)/2 of mean x/3 and variance 1/6.
BOTTOM = 0.5 * (2 * 0.5 + SQUARE / 9 + 2 / 6 - 2 - 2 * math.log(0.5))


@pytest.mark.parametrize("guide", [top_down, bottom_up])
def test_a_ladder_in_both_orders(guide):
    found = report(ladder, guide, X, posterior_samples=60)
    rows = {row.name: row for row in found.sites}
    assert list(rows) == ["z2", "z1", "z*"] and rows["z*"].sites == ["z2", "z1"]
    assert found.elbo == pytest.approx(EVIDENCE, abs=0.02) and found.log_likelihood == pytest.approx(EVIDENCE, abs=1e-9)
    assert found.rate == pytest.approx(TOP + BOTTOM, abs=0.05)
    assert rows["z*"].rate.value == pytest.approx(found.rate, abs=1e-9)
    assert rows["z2"].rate.value + rows["z1"].rate.value == pytest.approx(found.rate, abs=1e-9)
    if guide is top_down:
        assert rows["z2"].rate.value == pytest.approx(TOP, abs=1e-9) and rows["z2"].rate_estimator == "closed form"
        assert rows["z1"].rate.value == pytest.approx(BOTTOM, abs=0.02) and rows["z1"].rate_estimator == "closed form"
        assert sum(found.rate_per_dimension) == pytest.approx(found.rate, abs=1e-6)
    else:
        assert rows["z1"].rate_estimator == "Monte Carlo" and found.rate_per_dimension is None
    assert [rows[name].active_units for name in ("z2", "z1", "z*")] == [2, 2, 4] == [2, 2, found.active_units]
    assert found.active_unit_variances == pytest.approx([x for f in (1 / 9, 4 / 9) for x in (f * X.var(0)).tolist()], rel=0.05)
    # x sees z1 alone; what z2 does shows in log p(z1|z2).
    assert rows["z2"].shuffled_latent_loss.value == pytest.approx(0, abs=1e-9)
    assert rows["z2"].kind == rows["z1"].kind == "used"
    # E 1/2 [(z1 - z2')^2 - (z1 - z2)^2] = Cov(z1, z2) = 1 per dimension where x has its variance of 3
    assert rows["z2"].shuffled_loss_with_latents.value == pytest.approx(2, abs=0.4)
    # E 1/2 [(x - z1')^2 - (x - z1)^2] = Cov(x, z1) = 2 per dimension
    assert rows["z1"].shuffled_latent_loss.value == pytest.approx(4, abs=0.7)
    assert found.shuffled_latent_loss == pytest.approx(rows["z*"].shuffled_latent_loss.value, abs=1e-9)


def test_a_top_level_that_is_not_used_is_told_apart():
    found = report(lambda x: ladder(x, use_top=False), lambda x: top_down(x, use_top=False), X)
    rows = {row.name: row for row in found.sites}
    assert (
        rows["z2"].kind == "collapsed" and rows["z2"].active_units == 0 and rows["z2"].rate.value == pytest.approx(0, abs=1e-9)
    )
    assert rows["z1"].kind == "used" and found.verdict.kind == "not collapsed"


def test_the_joint_bound_is_that_of_pyro_and_a_named_site_has_all_rows_beside():
    elbo = -Trace_ELBO(num_particles=30).loss(ladder, top_down, X) / len(X)
    assert report(ladder, top_down, X, posterior_samples=20).elbo == pytest.approx(elbo, abs=0.05)

    def two(x):
        with pyro.plate("data", len(x)):
            z, w = pyro.sample("z", normal(torch.zeros_like(x))), pyro.sample("w", normal(torch.zeros_like(x)))
            pyro.sample("x", normal(z + w), obs=x)

    def independent(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 3, 0.8))
            pyro.sample("w", normal(x / 4, 0.8))

    found = report(two, independent, X, site="w")
    assert [row.name for row in found.sites] == ["z", "w"]
    assert found.sites[1].rate.value == pytest.approx(found.rate, abs=1e-9) and found.card["site"] == "w"


def test_a_report_of_one_site_has_one_row_and_all_come_back_from_json():
    def one(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x)))), obs=x)

    def posterior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 2, 0.5**0.5))

    found = report(one, posterior, X)
    (row,) = found.sites
    assert (row.name, row.rate.value, row.active_units) == ("z", found.rate, found.active_units) and row.kind == "used"
    assert row.shuffled_latent_loss.value == found.shuffled_latent_loss
    for each in (found, report(ladder, top_down, X)):
        assert CollapseReport.from_json(each.to_json()).to_json() == each.to_json()
    assert "z2" in str(each) and "z*" in str(each)


class SmallDMM(nn.Module):
    """Pyro's deep Markov model, small: masks of unequal lengths, p(z_t | z_(t-1)), q(z_t | z_(t-1), x), a scale of the KL."""

    def __init__(self):
        super().__init__()
        self.emitter, self.transition = nn.Linear(2, 3).double(), nn.Linear(2, 2).double()
        self.rnn, self.combiner = nn.RNN(3, 4, batch_first=True).double(), nn.Linear(6, 4).double()
        with torch.no_grad():
            self.emitter.weight.mul_(3)
            self.combiner.weight.mul_(2)

    def model(self, x, mask, annealing=1.0):
        pyro.module("dmm", self)
        z = x.new_zeros(len(x), 2)
        with pyro.plate("z_minibatch", len(x)):
            for t in range(1, x.shape[1] + 1):
                with poutine.scale(scale=annealing):
                    q = dist.Normal(0.5 * self.transition(z), 0.9).mask(mask[:, t - 1 : t]).to_event(1)
                    z = pyro.sample(f"z_{t}", q)
                p = dist.Bernoulli(logits=self.emitter(z)).mask(mask[:, t - 1 : t]).to_event(1)
                pyro.sample(f"obs_x_{t}", p, obs=x[:, t - 1])

    def guide(self, x, mask, annealing=1.0):
        pyro.module("dmm", self)
        z, hidden = x.new_zeros(len(x), 2), self.rnn(x.flip(1))[0].flip(1)
        with pyro.plate("z_minibatch", len(x)):
            for t in range(1, x.shape[1] + 1):
                loc, scale = self.combiner(torch.cat([z, hidden[:, t - 1]], 1)).chunk(2, 1)
                with poutine.scale(scale=annealing):
                    q = dist.Normal(loc, 0.5 * scale.sigmoid()).mask(mask[:, t - 1 : t]).to_event(1)
                    z = pyro.sample(f"z_{t}", q)


def test_a_deep_markov_model_with_sequences_of_unequal_length():
    torch.manual_seed(0)
    pyro.clear_param_store()
    dmm, length = SmallDMM(), torch.arange(60) % 4 + 1
    x = (draw(60, 4, 3) > 0).double()
    mask = torch.arange(4) < length[:, None]
    found = report(dmm.model, dmm.guide, (x, mask), posterior_samples=10, importance_samples=10)
    rows = {row.name: row for row in found.sites}
    assert list(rows) == ["z_1", "z_2", "z_3", "z_4", "z_*"] and rows["z_*"].dimensions == 8
    elbo = -sum(Trace_ELBO().loss(dmm.model, dmm.guide, x, mask) for _ in range(15)) / 15 / len(x)
    assert found.elbo == pytest.approx(elbo, abs=0.2) and found.elbo < found.log_likelihood
    assert sum(rows[f"z_{t}"].rate.value for t in (1, 2, 3, 4)) == pytest.approx(found.rate, abs=1e-9)
    # Only a quarter of the rows has a fourth step, the others pay nothing for it.
    alone = report(dmm.model, dmm.guide, (x[length == 4], mask[length == 4]), posterior_samples=10, importance_samples=2)
    assert rows["z_4"].rate.value == pytest.approx(alone.sites[3].rate.value / 4, rel=0.2)
    assert all(row.shuffled_latent_loss.value > 0 for row in found.sites)


K, CODES = 5, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
POSTERIOR = torch.full((8, K), 0.025, dtype=torch.float64)
POSTERIOR[torch.arange(8), CODES] = 0.9
MEAN = POSTERIOR.mean(0)
INFORMATION = ((POSTERIOR * POSTERIOR.log()).sum(1).mean() - (MEAN * MEAN.log()).sum()).item()
LEVELS = torch.tensor([-2.0, -1, 1, 2, 0], dtype=torch.float64)


def code_pair(family):
    """One code of five, x ~ N(its level, 1/2); a one-hot code or its number, or two positions of it."""

    def sites(probs):
        if family == "categorical":
            return dist.Categorical(probs)
        if family == "one-hot":
            return dist.OneHotCategorical(probs)
        return dist.Categorical(probs[..., None, :].expand(*probs.shape[:-1], 2, K)).to_event(1)

    def level(z):
        return z @ LEVELS if family == "one-hot" else LEVELS[z] if family == "categorical" else LEVELS[z[..., 0]]

    def model(x, probs):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", sites(torch.full_like(probs, 1 / K)))
            pyro.sample("x", dist.Normal(level(z), 0.5), obs=x)

    def guide(x, probs):
        with pyro.plate("data", len(x)):
            pyro.sample("z", sites(probs))

    return model, guide


@pytest.mark.parametrize("family", ["categorical", "one-hot", "two positions"])
def test_codes_against_closed_forms(family):
    x = LEVELS[CODES] + 0.1 * draw(8)
    found = report(*code_pair(family), (x, POSTERIOR), posterior_samples=10)
    codes, positions = found.sites[0].codes, 2 if family == "two positions" else 1
    assert codes.information == pytest.approx([INFORMATION] * positions, abs=1e-9)
    assert codes.perplexity == pytest.approx([(-(MEAN * MEAN.log()).sum()).exp().item()] * positions)
    assert codes.dead == [1] * positions and codes.codebook_dead == 1  # the fifth is expected 0.2 times in a position
    assert (codes.positions, codes.codes, codes.ceiling) == (positions, K, pytest.approx(math.log(5)))
    rate = positions * ((POSTERIOR * (POSTERIOR * K).log()).sum(1).mean().item())
    assert found.rate == pytest.approx(rate, abs=1e-9) and found.active_units == positions
    others = (MEAN * len(POSTERIOR) - POSTERIOR) / (len(POSTERIOR) - 1)
    apart = (POSTERIOR * (POSTERIOR / others).log()).sum(1).mean().item()
    assert found.mi_lower.value == pytest.approx(INFORMATION) and found.mi_upper.value == pytest.approx(positions * apart)
    assert "perplexity" in str(found) and "dead" in str(found)
    many = report(*code_pair(family), (x.repeat(20), POSTERIOR.repeat(20, 1)))
    assert many.sites[0].codes.dead == [0] * positions and many.sites[0].codes.information == pytest.approx(codes.information)
    assert many.verdict.kind == "not collapsed" and many.sites[0].kind == "used"


def test_the_elbo_of_codes_is_exact_where_the_posterior_is():
    """p(x) by the sum over the codes; its exact posterior as the guide."""
    x = LEVELS[CODES] + 0.3 * draw(8)
    joint = dist.Normal(LEVELS, 0.5).log_prob(x[:, None]) - math.log(K)
    found = report(*code_pair("categorical"), (x, joint.softmax(1)))
    assert found.elbo == pytest.approx(joint.logsumexp(1).mean().item(), abs=0.5)
    assert found.log_likelihood == pytest.approx(joint.logsumexp(1).mean().item(), abs=1e-9)


def test_a_code_that_is_certain_leaves_no_importance_sampling():
    """All draws are one: the estimate would be the ELBO, for any number of draws, with all of them effective."""
    x = LEVELS[CODES] + 0.3 * draw(8)
    certain = torch.nn.functional.one_hot(CODES, K).double()
    state = torch.get_rng_state()
    for pair in (code_pair("categorical"), code_pair("one-hot")):
        found = report(*pair, (x.repeat(3), certain.repeat(3, 1)), importance_samples=20)
        assert found.log_likelihood is None and found.effective_sample_size is None
        assert "certain of one code at every point" in found.card["unavailable"]["log_likelihood"]
        assert found.verdict.amounts["nats_of_x"] is None and found.verdict.kind == "not collapsed"
        assert found.mi_ceiling == pytest.approx(math.log(K))
    assert state.equal(torch.get_rng_state())
    one = certain.clone()
    one[0] = POSTERIOR[0]  # a single row that is not
    assert report(*code_pair("one-hot"), (x, one)).log_likelihood is not None


def test_codes_that_say_nothing_are_collapsed():
    x = draw(200)
    found = report(*code_pair("one-hot"), (x, torch.full((200, K), 1 / K).double()))
    assert found.sites[0].codes.information == pytest.approx([0], abs=1e-9) and found.sites[0].codes.dead == [0]
    assert found.sites[0].codes.perplexity == pytest.approx([K]) and found.active_units == 0
    assert found.verdict.kind == "collapsed"


def test_bernoulli_codes():
    p = torch.tensor([[0.9, 0.5], [0.1, 0.5]], dtype=torch.float64).repeat(10, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full_like(x, 0.5)).to_event(1))
            pyro.sample("x", normal(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(x).to_event(1))

    codes = report(model, guide, p).sites[0].codes
    assert codes.information == pytest.approx([math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1), 0], abs=1e-9)
    assert codes.codes == 2 and codes.dead == [0, 0]


def test_a_density_against_probabilities_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Bernoulli(x.sigmoid()).to_event(1))
            pyro.sample("z1", normal(x))

    with pytest.raises(ValueError, match=r"q\(z2\|x\) and p\(z2\) of one kind, got probabilities of values and a density"):
        report(ladder, guide, X)


def test_counts_as_latents():
    """z ~ Poisson(1), x ~ N(z, 1/2): sums over z are exact, and q(z|x) is a Poisson whose rate follows x."""
    torch.manual_seed(0)
    z = torch.poisson(torch.ones(300, dtype=torch.float64))
    x = z + 0.5 * torch.randn(300, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(torch.ones_like(x)))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Poisson(x.clamp(min=0.3)))

    values = torch.arange(60, dtype=torch.float64)
    joint = dist.Poisson(torch.ones(60)).log_prob(values) + dist.Normal(values, 0.5).log_prob(x[:, None])
    log_q = dist.Poisson(x.clamp(min=0.3)[:, None]).log_prob(values)
    found = report(model, guide, x, posterior_samples=200, importance_samples=400)
    assert found.card["posterior_family"] == "discrete"
    exact_rate = (log_q.exp() * (log_q - dist.Poisson(1.0).log_prob(values))).sum(1).mean().item()
    assert found.rate == pytest.approx(exact_rate, abs=0.02)
    assert found.elbo == pytest.approx((log_q.exp() * (joint - log_q)).sum(1).mean().item(), abs=0.15)
    exact = joint.logsumexp(1).mean().item()
    assert found.log_likelihood == pytest.approx(exact, abs=0.02) and found.verdict.kind == "not collapsed"
    assert log_likelihood(model, guide, x, importance_samples=400).value == pytest.approx(exact, abs=0.02)


def test_the_likelihood_of_codes_and_of_several_sites_by_itself():
    pair, given = code_pair("categorical"), (LEVELS[CODES], POSTERIOR)
    exact = (dist.Normal(LEVELS, 0.5).log_prob(given[0][:, None]) - math.log(K)).logsumexp(1).mean().item()
    assert log_likelihood(*pair, given, importance_samples=500).value == pytest.approx(exact, abs=0.05)

    def chain(x):  # a ~ N(0, 1), b ~ N(a, 1), x ~ N(b, 1)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(pyro.sample("b", dist.Normal(a, 1.0)), 1.0), obs=x)

    def exact_posterior(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x / 3, (2 / 3) ** 0.5))
            pyro.sample("b", dist.Normal((a + x) / 2, 0.5**0.5))

    x = 3**0.5 * draw(30)
    exact = dist.Normal(0.0, 3**0.5).log_prob(x).mean().item()  # every weight is p(x) where q(z|x) is the posterior
    assert log_likelihood(chain, exact_posterior, x, importance_samples=2).value == pytest.approx(exact, abs=1e-6)


def test_what_is_still_refused():
    x = LEVELS[CODES]
    pair, x = code_pair("categorical"), (x, POSTERIOR)
    with pytest.raises(ValueError, match="collapse_report takes it, without site="):
        report(*pair, x, site="z")
    with pytest.raises(ValueError, match="collapse_report takes it, without site="):
        rate(*pair, x)
    with pytest.raises(ValueError, match="one continuous latent site for components="):
        report(*pair, x, components=4)


def test_the_information_of_codes_lies_between_its_bounds():
    """20 codes and 50 rows: what these rows show is on average 0.01 nats below the truth, and the upper bound above it."""
    codes = torch.eye(20, dtype=torch.float64) * 0.3 + 0.7 / 20
    truth = math.log(20) + (codes[0] * codes[0].log()).sum().item()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(torch.ones(len(x), 20) / 20))
            pyro.sample("x", normal(torch.zeros_like(x)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(codes[x[:, 0].long()]))

    for seed in range(5):
        x = torch.randint(20, (50, 1), generator=torch.Generator().manual_seed(seed)).double()
        found = report(model, guide, x, importance_samples=2, posterior_samples=2)
        assert found.mi_lower.low < truth < found.mi_upper.high
        assert found.mi_lower.low < found.mi_lower.value < found.mi_lower.high
    alone = report(model, guide, torch.arange(20.0).double()[:, None], importance_samples=2)
    assert alone.mi_upper.value > truth


def test_a_code_of_one_row_alone_has_no_upper_bound():
    codes = torch.eye(30, dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(codes[(x[:, 0] * 10).round().long()]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(len(x), 30)))
            pyro.sample("x", normal(0 * z[:, :1] + torch.zeros_like(x)), obs=x)

    x = torch.arange(30.0).double()[:, None] / 10
    found = report(model, guide, x)
    assert found.mi_upper is None and "one row of x alone" in found.card["unavailable"]["mi_upper"]
    assert found.mi_lower.value == pytest.approx(math.log(30))
    codes = torch.full((30, 30), 1e-15, dtype=torch.float64)  # two codes, and 28 that hardly any row uses
    codes[torch.arange(30), torch.arange(30) % 2] = 1
    found = report(model, guide, x)
    assert found.mi_lower.value == pytest.approx(math.log(2))
    assert found.mi_upper.value == pytest.approx(math.log(29 / 14), abs=1e-3)


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_drawn_at_masked_steps_is_never_read(inside):
    """Sequences of 1 to 3 steps, as sites of their own or as one site: the numbers do not depend on the masked steps."""

    def pair(garbage):
        def model(x, length):
            kept = torch.arange(3) < length[:, None]
            with pyro.plate("data", len(x)):
                if inside:
                    z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).mask(kept).to_event(1))
                else:
                    z = torch.stack(
                        [pyro.sample(f"z_{t}", dist.Normal(0 * x[:, t], 1.0).mask(kept[:, t])) for t in range(3)], 1
                    )
                pyro.sample("x", dist.Normal(z, 1.0).mask(kept).to_event(1), obs=x)

        def guide(x, length):
            kept = torch.arange(3) < length[:, None]
            loc = torch.where(kept, x / 2, garbage)
            with pyro.plate("data", len(x)):
                if inside:
                    pyro.sample("z", dist.Normal(loc, 0.7).mask(kept).to_event(1))
                    return
                for t in range(3):
                    pyro.sample(f"z_{t}", dist.Normal(loc[:, t], 0.7).mask(kept[:, t]))

        return model, guide

    x, length = draw(61, 3) * 2, torch.arange(61) % 3 + 1
    if inside:  # a mask inside a continuous site is taken by the monitor alone
        found = [Monitor(*pair(garbage), (x, length))(0).shuffled_latent_loss for garbage in (0.0, 100.0)]
    else:
        found = [report(*pair(garbage), (x, length)).shuffled_latent_loss for garbage in (0.0, 100.0)]
    assert found[0] is not None and found[0] == found[1]


def test_of_one_draw_a_mean_is_not_told_from_its_noise():
    def independent(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", normal(torch.zeros_like(x)))
            b = pyro.sample("b", normal(a))
            pyro.sample("x", normal(0 * b), obs=x)

    one, many = (report(independent, poutine.block(independent, hide=["x"]), X, posterior_samples=n) for n in (1, 20))
    assert [row.active_units for row in one.sites] == [0, None] and one.active_units is None
    assert "a single draw" in one.card["unavailable"]["active_units"]
    assert [row.active_units for row in many.sites] == [0, 0]
    budgeted = report(independent, poutine.block(independent, hide=["x"]), X, posterior_samples=20, budget=0.0)
    assert budgeted.card["posterior_samples"] == 2


def test_the_rate_against_a_prior_of_each_row_bounds_what_is_beyond_that_prior():
    """q(k|x, c) = p(k|c) for c of 8 kinds: no rate, and all of c in the code, but nothing of x that c does not say."""
    kinds = torch.softmax(5 * torch.eye(8, dtype=torch.float64), 1)

    def model(x, c):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(kinds[c]))
            pyro.sample("x", dist.Normal(3.0 * k[:, None], 1.0).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(kinds[c]))

    c = torch.arange(160) % 8
    x = 3.0 * c[:, None] + draw(160, 1)
    found = report(model, guide, (x, c))
    assert found.rate == pytest.approx(0, abs=1e-9) and found.mi_lower.low > 1
    assert found.verdict.kind == "collapsed" and any("of each row" in note for note in found.card["notes"])
    assert found.verdict.startswith("Beyond what p(z) depends on, z says at most 0.000 nats of x")
    record = Monitor(model, guide, (x, c))(0)
    assert record.rate.high < 0.1 and record.state == "collapsed"

    def listening(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(kinds[(x[:, 0] / 3).round().long() % 8]))

    x = 3.0 * ((c + torch.arange(160) // 8) % 8)[:, None]
    found = report(model, listening, (x, c))
    assert found.verdict.kind == "not collapsed" and found.verdict.amounts["information"]["low"] is None
    assert found.verdict.amounts["information"]["high"] > 1 and Monitor(model, listening, (x, c))(0).state == "used"
    one = report(ladder, top_down, X)
    assert not one.card["notes"]


@pytest.mark.parametrize("samples", [3, 5])
def test_an_odd_number_of_draws_gives_the_same_variances(samples):
    found = report(ladder, top_down, X, posterior_samples=samples)
    expected = [value for part in (1 / 9, 4 / 9) for value in (part * X.var(0)).tolist()]
    assert found.active_unit_variances == pytest.approx(expected, rel=0.1)
