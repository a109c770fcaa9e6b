"""What goes to other software and comes from it: ArviZ, AnnData, the hub, trackers, a page to play with."""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from page_text import plain
from small_runs import tiny_run

from pyro_skipvae import VAE, collapse_report, fit, load_data
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder, PixelCNNDecoder
from pyro_skipvae.diagnostics import CollapseReport, to_arviz
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import VonMisesFisherPosterior
from pyro_skipvae.hub import from_pretrained, push_to_hub, save_pretrained
from pyro_skipvae.priors import StandardNormal, UniformSphere
from pyro_skipvae.reports.explorer import explorer_page
from pyro_skipvae.reports.model_pictures import draw_interpolation, draw_traversals
from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae.text.generation import posterior_means
from pyro_skipvae.text.vocabulary import Vocabulary

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


def test_arviz_holds_draws_likelihoods_and_the_report():
    arviz = pytest.importorskip("arviz", exc_type=ImportError)
    found = to_arviz(model, guide, X, draws=7, report=collapse_report(model, guide, X, importance_samples=2))
    assert isinstance(found, arviz.InferenceData) and found.posterior["z"].shape == (1, 7, 30, 3)
    z, log_x = torch.tensor(found.posterior["z"].values), torch.tensor(found.log_likelihood["x"].values)
    torch.testing.assert_close(log_x, dist.Normal(z, 1.0).log_prob(X).sum(-1))
    weights = log_x + torch.tensor((found.sample_stats["log_prior"] - found.sample_stats["log_guide"]).values)
    evidence = dist.Normal(torch.zeros(3).double(), 2**0.5).to_event(1).log_prob(X)
    torch.testing.assert_close(weights, evidence.expand(1, 7, 30))  # the guide is the posterior
    assert CollapseReport.from_json(found.attrs["collapse_report"]).rate > 0


def test_arviz_is_given_what_was_observed_in_any_precision(monkeypatch):
    arviz, sizes = ModuleType("arviz"), []
    arviz.InferenceData, arviz.from_dict = object, dict
    monkeypatch.setitem(sys.modules, "arviz", arviz)

    def conditional(c, y):
        sizes.append(len(y))
        model(y)

    y = X.bfloat16()
    found = to_arviz(conditional, lambda c, y: guide(y), (X[:, :1], y), draws=2, rows=8)
    assert max(sizes) <= 8 and found["dims"]["x"] == ["point", "x_dim_0"]
    torch.testing.assert_close(torch.tensor(found["observed_data"]["x"]), y.float(), rtol=0, atol=0)
    assert found["posterior"]["z"].shape == (1, 2, 30, 3)


def annotated(folder=None):
    anndata = pytest.importorskip("anndata")
    import numpy as np
    import scipy.sparse

    counts = np.random.RandomState(0).poisson(3.0, (40, 6)).astype("float32")
    table = anndata.AnnData(np.log1p(counts), layers={"counts": scipy.sparse.csr_matrix(counts)})
    table.obs["cell_type"] = ["B", "T"] * 20
    if folder:
        table.write_h5ad(folder / "cells.h5ad")
    return counts, table


def test_annotated_counts_are_read_from_a_file(tmp_path):
    counts, _ = annotated(tmp_path)
    data = load_data(str(tmp_path / "cells.h5ad"), binarisation="none")
    assert data.kind == "count" and data.event_shape == (6,) and data.class_names == ("B", "T")
    assert torch.cat([data.train, data.valid, data.test]).sum() == counts.sum() and "the layer 'counts'" in data.how_read
    (tmp_path / "no.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n broken")
    with pytest.raises(ValueError, match="expected an .h5ad file of AnnData, got .*which cannot be read"):
        load_data(str(tmp_path / "no.h5ad"), binarisation="none")


def test_a_report_takes_annotated_counts():
    counts, table = annotated()

    def counted(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson((z.sum(-1, keepdim=True) / 9).exp().expand(-1, 6)).to_event(1), obs=x)

    def encoded(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] / 9, 1.0).to_event(1))

    one, other = (collapse_report(counted, encoded, x, importance_samples=2) for x in (table, torch.tensor(counts)))
    assert one.to_dict() == other.to_dict()


def test_a_saved_model_comes_back(tmp_path):
    files = save_pretrained(tiny_run(), tmp_path / "model")
    assert {"model.safetensors", "config.toml", "README.md"} <= {file.name for file in files}
    vae, config = from_pretrained(tmp_path / "model")
    assert not vae.training and config.latent_dim == 4
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError):
        from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="a folder that is there, or an id of the hub"):
        from_pretrained(tmp_path / "absent" / "model")
    with pytest.raises(ValueError, match="got the run mnist-pair/plain, which comes with the package; load_run reads it"):
        from_pretrained("mnist-pair/plain")
    with pytest.raises(ValueError, match="an id of the hub"):
        push_to_hub(tiny_run(), "not a name/at all")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload and a download ask for, in memory."""

    files: dict[str, bytes] = {}

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/preupload/" in self.path:
            names = [each["path"] for each in json.loads(body)["files"]]
            return self.say({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.say({"commitUrl": f"http://{self.headers['Host']}/me/digits/commit/" + "0" * 40, "commitOid": "0" * 40})
        return self.say({"url": f"http://{self.headers['Host']}/me/digits", "name": "me/digits", "id": "me/digits"})

    def do_GET(self):  # noqa: N802
        if "/resolve/" in self.path and (content := self.files.get(self.path.rpartition("/")[2])) is not None:
            return self.send(content, {"ETag": f'"{hash(content)}"', "X-Repo-Commit": "0" * 40})
        if "/api/models/me/digits" in self.path and "/tree/" in self.path:
            return self.say([{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in self.files.items()])
        if "/api/models/me/digits" in self.path:
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "me/digits", "modelId": "me/digits", "sha": "0" * 40, "siblings": siblings, "tags": []}
            return self.say({**about, "private": False})
        self.send_error(404)

    do_HEAD = do_GET

    def say(self, answer):
        self.send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def send(self, content, headers):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Hub.files = {}
    try:
        push_to_hub(tiny_run(), "me/digits", token="none")
        vae, config = from_pretrained("me/digits", token="none")
        with pytest.raises((PermissionError, ConnectionError), match="me/other at revision v9"):
            from_pretrained("me/other", revision="v9", token="none")
        Hub.files = {}
        with pytest.raises(ValueError, match="expected a private repository, got me/digits, which is public"):
            push_to_hub(tiny_run(), "me/digits", private=True, token="none")
        assert not Hub.files
    finally:
        server.shutdown()
    own, _ = from_pretrained(save_pretrained(tiny_run(), tmp_path / "own")[0].parent)
    assert config.latent_dim == 4 and all(torch.equal(a, b) for a, b in zip(vae.parameters(), own.parameters(), strict=True))


def test_a_callback_is_told_each_epoch():
    told = []

    class Step:
        steps = 0

        def __call__(self, x, beta):
            return 2.0

    epochs = list(fit(Step(), [torch.zeros(3, 1)], epochs=2, callback=told.append))
    assert told == epochs and [epoch.number for epoch in told] == [1, 2]


def test_the_page_to_explore(tmp_path):
    done = skipvae("explore", tiny_run(), "--dimensions", 2, "--steps", 4, "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    told = json.loads(page.split("const page = ")[1].split(";\n")[0])
    assert len(base64.b64decode(told["pixels"])) == 4 * 4 * 64 and [s["label"][:2] for s in told["sliders"]] == ["z "] * 2
    assert "http" not in page and "2 most used, by rate" in plain(page)
    wrong = skipvae("explore", tiny_run(), "--dimensions", 4, "--steps", 99, "--out", "no.html", cwd=tmp_path)
    assert wrong.returncode == 2 and "a grid that a page can hold" in wrong.stderr and not (tmp_path / "no.html").exists()


def explored(decoder, latent_dim, about):
    """The page of an untrained model, and what its script is told."""
    vae = VAE(StandardNormal(latent_dim), decoder, None).eval()
    page = explorer_page(vae, about, name="untrained", dimensions=2, steps=3)
    return plain(page), json.loads(page.split("const page = ")[1].split(";\n")[0])


def test_whatever_moves_z_stays_on_the_sphere_where_the_decoder_was_trained():
    data = load_data("digits").limit(eval=20)
    encoder = MLPEncoder(data.event_shape, 4, hidden=(8,), posterior=VonMisesFisherPosterior)
    vae = VAE(UniformSphere(4), MLPDecoder(4, data.event_shape, layers=1, width=8), encoder).eval()
    seen = []
    vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].reshape(-1, 4)))
    x = data.test[:2].float()
    page = explorer_page(vae, data, name="untrained", data=data, dimensions=2, steps=3)
    assert "that the encoder gives to test item 0; then z is scaled to length 1." in plain(page)
    draw_interpolation(vae, x[:1], x[1:], kind=data.kind)
    draw_traversals(vae, data, dimensions=2)
    assert posterior_means(vae, x).norm(dim=-1).allclose(torch.ones(2))
    z = torch.cat(seen)
    assert len(z) > 9 + 7 + 10 and z.norm(dim=-1).allclose(torch.ones(len(z)))


def test_a_page_to_explore_says_what_a_pixelcnn_and_a_text_decoder_show():
    page, told = explored(PixelCNNDecoder(2, (8, 8), layers=1, maps=2), 2, SimpleNamespace(kind="binary", event_shape=(8, 8)))
    assert told["drawn"] and len(base64.b64decode(told["pixels"])) == 9 * 64 and "not all that changes is due to z" in page
    words = SimpleNamespace(kind="text", event_shape=(5,), vocabulary=Vocabulary("abc"))
    page, told = explored(LSTMDecoder(7, 2, width=4, embedding=4, max_length=5), 2, words)
    assert len(told["texts"]) == 9 and "word by word" in page
