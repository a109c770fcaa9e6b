"""`train` by two processes, as torchrun starts them: one run, the same as by one process, that survives its kills."""

import signal
import time
from types import SimpleNamespace

import pytest
import torture
from several_processes import environment, free_port

from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.folder import Run
from pyro_skipvae_cli.errors import UserError
from pyro_skipvae_cli.several import check_several

QUICK = (("no_report",),)


def started(folder, *more, hooks=None, size=2, model="mlp"):
    """The processes of a run, or of one that goes on, and what they say."""
    port = free_port()
    about = [(("environment", environment(rank, size, port)), *QUICK, *(hooks or {}).get(rank, ())) for rank in range(size)]
    return [torture.train(folder, model, *more, hooks=each) for each in about], folder.with_suffix(".log")


def ended(folder, *more, **options):
    """(exit codes, what was said)"""
    processes, log = started(folder, *more, **options)
    return [process.end() for process in processes], log.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What two processes leave that nothing interrupted."""
    folder = tmp_path_factory.mktemp("several") / "run"
    codes, said = ended(folder)
    assert codes == [0, 0] and said.count("epoch 6/6") == 1 and "cpu, 2 processes, seed 0" in said, said
    return torture.outcome(folder)


def parts(outcome):
    """The parameters and the metrics of a run."""
    (last, _), metrics = outcome
    return last["vae"], metrics


def test_two_processes_leave_what_one_leaves(whole, tmp_path):
    alone, _ = torture.reference(tmp_path / "run", "mlp", hooks=QUICK)
    for name, tensor in parts(alone)[0].items():
        assert tensor.allclose(parts(whole)[0][name], rtol=0, atol=1e-5), name
    for one, other in zip(parts(alone)[1], parts(whole)[1], strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert alone[0][0]["random"]["torch"].equal(whole[0][0]["random"]["torch"])


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on_exactly(whole, tmp_path):
    codes, said = ended(tmp_path / "run", hooks={1: (("signal_at", 25, signal.SIGTERM),)})
    assert codes == [143, 143] and said.count("Stopped by SIGTERM") == 1
    assert Run(tmp_path / "run").latest()[0]["step"]["steps"] == 25
    assert ended(tmp_path / "run")[0] == [0, 0]
    assert torture.same(torture.outcome(tmp_path / "run"), whole)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_its_name_and_the_run_goes_on_exactly(victim, whole, tmp_path):
    start = time.monotonic()
    codes, said = ended(tmp_path / "run", "--checkpoint-minutes", 0, hooks={victim: (("signal_at", 25, signal.SIGKILL),)})
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 6 and time.monotonic() - start < 60
    assert f"Error: expected 2 processes, but that of rank {victim} (pid " in said and "Traceback" not in said
    assert ended(tmp_path / "run")[0] == [0, 0]
    assert torture.same(torture.outcome(tmp_path / "run"), whole)


def test_one_process_goes_on_with_the_run_of_two(whole, tmp_path):
    assert ended(tmp_path / "run", hooks={0: (("signal_at", 25, signal.SIGTERM),)})[0] == [143, 143]
    assert torture.train(tmp_path / "run", "mlp", hooks=QUICK).end() == 0
    for one, other in zip(parts(torture.outcome(tmp_path / "run"))[1], parts(whole)[1], strict=True):
        assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "advised"),
    [
        ({"objective": "free-bits-per-group(0.5)"}, {"objective": "free-bits-per-dimension(0.5)"}),
        ({"objective": "mmd(10)"}, {}),
        ({"guide": "batch-normalised"}, {"guide": "minimum-rate"}),
        ({"guide": "codebook"}, {"guide": "categorical"}),
    ],
)
def test_what_reads_its_batch_as_a_whole_is_refused_and_what_is_advised_is_taken(given, advised):
    ranks = SimpleNamespace(size=2)
    with pytest.raises(UserError, match="which reads its batch as a whole"):
        check_several(Config.from_flags(given), ranks)
    check_several(Config.from_flags(advised), ranks)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--batch-size", 1), "expected --batch-size of at least 2, the number of processes, got 1"),
        (("--objective", "free-bits-per-group(0.5)"), "use --objective free-bits-per-dimension(0.5), or one process"),
        (("--device", "cuda"), "expected a device that this machine has, got 'cuda'"),
        (("--dataset", "absent.npz"), "absent.npz was not found"),
    ],
)
def test_a_mistake_is_told_once(more, told, tmp_path):
    codes, said = ended(tmp_path / "run", *more)
    assert codes in ([2, 2], [3, 3]) and said.count("Error: ") == 1 and told in said and not (tmp_path / "run").exists()
