"""Runs of a table on the machines of a Ray cluster, of which one is lost; a comparison of them."""

import json

import pytest
from command_line import skipvae

from pyro_skipvae.reproduction.tables import Planned, is_finished
from pyro_skipvae.runs.folder import Run
from pyro_skipvae_cli.pool import Pool

FLAGS = {
    **{"dataset": "digits", "decoder": "mlp", "layers": 1, "width": 8, "latent_dim": 2},
    **{"limit_train": 100, "limit_eval": 50, "batch_size": 20},
}


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"], ids=["none", "one that is gone"])
def test_without_a_cluster_one_sentence_says_how_to_start_one(address, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    told = skipvae("reproduce", "theorem1", "--train", "--seeds", 1, "--epochs", 1, "--executor", "ray", cwd=tmp_path)
    assert told.returncode == 2 and told.stderr.splitlines()[-1].startswith("Error: expected ")
    assert "pip install ray" in told.stderr or "`ray start --head`" in told.stderr


HELD = """
import pathlib, sys, time

if "pyro_skipvae_cli" in sys.orig_argv and "train" in sys.orig_argv:
    from pyro_skipvae.runs.folder import Run

    log, gate = Run.log, pathlib.Path(__file__).with_name("open")

    def held(self, **metrics):
        log(self, **metrics)
        while metrics["epoch"] == 2 and not gate.exists():
            time.sleep(0.05)

    Run.log = held
"""


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """Runs wait after their second epoch until this file is there: a run may take less time than another one to start."""
    folder = tmp_path / "at the start of python"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HELD)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # not 15, at which they starve beside other tests
    return folder / "open"


@pytest.fixture
def cluster(gate):
    """Two nodes beside a head that has no room for runs."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def test_runs_are_trained_on_a_cluster_and_go_on_where_a_machine_is_lost(cluster, gate, tmp_path, capfd):
    cluster, nodes = cluster
    planned = [Planned("row", arm, {**FLAGS, "skip": arm, "epochs": 15}, 0) for arm in ("all", "none")]
    how = {"minutes": None, "device": "cpu", "budget": 1.0, "force": False, "executor": "ray"}
    pool, done = Pool(planned, tmp_path, "any", **how), []
    look = pool._look

    def losing(process, bar):
        if not gate.exists() and all(len(Run(path).metrics()) == 2 for _, path, *_ in pool.running.values()):
            cluster.remove_node(nodes[0], allow_graceful=False)
            gate.touch()
        yield from look(process, bar)

    pool._look = losing
    for run, path in pool.finished():
        done.append(path)
        assert is_finished(path) and [line["epoch"] for line in Run(path).metrics()] == list(range(1, 16)), run
    said = capfd.readouterr().err
    assert len(done) == 2 and not pool.failed and said.count("it goes on elsewhere") == 1, said
    again = [path for _, path in Pool(planned, tmp_path, "any", **how).finished()]
    assert sorted(again) == sorted(done) and "Found: " in capfd.readouterr().err  # nothing is trained twice
    said = [skipvae("compare", *done, "--json", *more, cwd=tmp_path) for more in ((), ("--executor", "ray"))]
    local, remote = (json.loads(each.stdout) for each in said)
    assert local["differences"] == remote["differences"] and local["points"] == remote["points"] == 50
