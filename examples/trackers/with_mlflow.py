"""A training whose epochs and report go to mlflow: a callback of one line.

pip install mlflow
python examples/trackers/with_mlflow.py [--smoke]
"""

import sys

import mlflow
from pyro.optim import Adam

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

data = load_data("digits")
vae = VAE(StandardNormal(10), MLPDecoder(10, data.event_shape, layers=2, width=200), MLPEncoder(data.event_shape, 10))
step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3}), max_norm=5.0)
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment("digits")
mlflow.start_run()
mlflow.log_params({"latent_dim": 10, "layers": 2})


def tell(epoch):
    mlflow.log_metrics({"loss": epoch.loss, "beta": epoch.beta}, step=epoch.number)


for epoch in fit(step, data.batches("train", 64, seed=0), epochs=1 if "--smoke" in sys.argv else 50, callback=tell):
    print(f"epoch {epoch.number}: {epoch.loss:.2f} nats")
report = collapse_report(vae.model, vae.guide, data.test, importance_samples=10)
mlflow.log_metrics({"elbo": report.elbo, "rate": report.rate})
mlflow.log_text(report.to_json(), "report.json")
mlflow.end_run()
print(report)
