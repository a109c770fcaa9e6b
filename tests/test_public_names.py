"""The names, arguments and commands that scripts outside of the project rely on."""

import dataclasses
import importlib
import inspect

import pytest
from command_line import skipvae

from pyro_skipvae import load_data
from pyro_skipvae.diagnostics import CollapseReport
from pyro_skipvae.diagnostics.estimates.log_likelihood import ImportanceEstimate
from pyro_skipvae.runs.loaded import LoadedRun

# By position, then by keyword; what stands behind "/" here is only required to exist.
SIGNATURES = {
    "VAE": "prior decoder encoder",
    "VAE.model": "self x / beta",
    "VAE.guide": "self x / beta",
    "collapse_report": "model guide x / importance_samples posterior_samples fit_on site seed budget",
    "svi_step": "model guide objective optim / max_norm",
    "fit": "step batches / epochs beta",
    "load_data": "name / root binarisation download",
    "load_run": "path",
    "as_pair": "encode decode / prior likelihood",
    "data.Data.batches": "self split size / seed",
    "priors.StandardNormal": "latent_dim",
    "priors.MixtureOfNormals": "latent_dim / components",
    "priors.VampPrior": "encoder pseudo_inputs",
    "priors.AR1": "length channels / correlation",
    "priors.committed_rate": "length correlation",
    "encoders.MLPEncoder": "event_shape latent_dim / hidden",
    "encoders.ResNetEncoder": "event_shape latent_dim / layers maps",
    "encoders.LSTMEncoder": "vocabulary_size latent_dim",
    "decoders.MLPDecoder": "latent_dim event_shape / layers width skip",
    "decoders.PixelCNNDecoder": "latent_dim event_shape / layers maps kernel skip",
    "decoders.LSTMDecoder": "vocabulary_size latent_dim / skip",
    "guides.SemiAmortized": "model guide / steps lr momentum gradient",
    "objectives.elbo": "model guide x / beta",
    "objectives.analytic_elbo": "model guide x / beta",
    "objectives.iwae": "particles",
    "diagnostics.rate": "model guide x",
    "diagnostics.mutual_information": "model guide x",
    "diagnostics.active_units": "model guide x",
    "diagnostics.log_likelihood_per_point": "model guide x",
    "diagnostics.predict_collapse": "x sigma beta / latent_dim likelihood",
    "diagnostics.effective_beta": "loss / event_size latent_dim batch_size reconstruction kl weight form sigma",
    "diagnostics.Monitor": "model guide x / every points seed",
    "diagnostics.calibration": "model guide x / simulations draws seed",
    "diagnostics.dimension_losses": "model guide x / replace points site seed",
    "runs.folder.Run.log": "self / metrics",
    "runs.checkpoint.load": "path",
    "runs.checkpoint.save": "path state",
    "runs.checkpoint.digest": "text tensors",
    "reproduction.load_table": "name",
}
REPORT = """elbo rate rate_per_dimension log_likelihood mi_lower mi_upper mi_marginal mi_ceiling saturated aggregate_kl
active_units active_unit_variances shuffled_latent_loss verdict card to_json distortion mi_dieng_2019 mi_he_2019_batch_32
model_mutual_information sites collapse_thresholds""".split()
COMMANDS = "train evaluate sample reconstruct compare datasets reproduce target-rate predict".split()
REPORTING = "train evaluate compare datasets reproduce target-rate".split()
TRAIN = """dataset model decoder layers latent-dim skip prior guide objective epochs batch-size seed device out resume
limit-train limit-eval report-budget json""".split()


def named(path):
    """What an attribute path below the package names."""
    parts = path.split(".")
    for count in range(len(parts), -1, -1):
        try:
            found = importlib.import_module(".".join(["pyro_skipvae", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found


@pytest.mark.parametrize("path", SIGNATURES)
def test_arguments(path):
    arguments = inspect.signature(named(path)).parameters
    first, _, others = SIGNATURES[path].partition("/")
    assert list(arguments)[: len(first.split())] == first.split()
    assert set(others.split()) <= set(arguments)


def test_what_a_report_a_run_and_an_estimate_hold():
    for kind, names in ((CollapseReport, REPORT), (LoadedRun, ["vae", "config", "data"]), (ImportanceEstimate, ["tenth"])):
        held = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        assert set(names) <= held | set(dir(kind)) | set(getattr(kind, "__annotations__", ()))
    assert hasattr(LoadedRun, "__iter__")


def test_report_on():
    command_line = importlib.import_module("pyro_skipvae_cli.training")
    assert list(inspect.signature(command_line.report_on).parameters)[:2] == ["vae", "data"]


def test_data_and_their_batches():
    data = load_data("digits", download="never")
    batches = data.batches("train", 500, seed=0)
    assert data.event_shape == (8, 8) and set(data.labels) == {"train", "valid", "test"}
    assert len(list(batches)) == len(list(batches)) == 3 and set(batches.state_dict()) == {"epoch", "position"}


def test_commands(tmp_path):
    shown = skipvae("--help", cwd=tmp_path).stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    options = skipvae("train", "--help", cwd=tmp_path).stdout
    assert [name for name in TRAIN if f"  --{name} " not in options] == []
    assert all("--json" in skipvae(name, "--help", cwd=tmp_path).stdout for name in REPORTING)
