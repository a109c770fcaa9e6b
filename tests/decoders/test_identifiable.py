"""The identifiable decoder: gradients of convex functions, z found again from p(x|z), and mistakes."""

import pytest
import torch
from command_line import skipvae
from torch.func import jacrev, vmap

from pyro_skipvae.decoders import ConvexGradient, IdentifiableMLPDecoder


def test_a_map_is_the_gradient_of_its_convex_function(float64):
    torch.manual_seed(0)
    brenier, h = ConvexGradient(4, 6), 3 * torch.randn(50, 4)
    with torch.no_grad():
        brenier.raw_slopes.normal_()
        brenier.raw_diagonal.normal_()

    def phi(h):
        u = brenier.hidden(h)
        slopes, diagonal = (torch.nn.functional.softplus(raw) for raw in (brenier.raw_slopes, brenier.raw_diagonal))
        return (slopes * (torch.nn.functional.softplus(u) - u / 2)).sum() + (diagonal * h.square()).sum() / 2

    torch.testing.assert_close(brenier(h), vmap(torch.func.grad(phi))(h))
    J = vmap(jacrev(brenier))(h)
    torch.testing.assert_close(J, J.mT)
    assert torch.linalg.eigvalsh(J).min() > 0


def test_z_is_found_again_from_the_logits(float64):
    """By Newton's method from 0: the whole z, though the decoder was drawn at random and is far from linear."""
    torch.manual_seed(0)
    decoder, z = IdentifiableMLPDecoder(2, (2, 3), width=8), torch.randn(20, 2)
    logits = lambda z: decoder(z).base_dist.logits.reshape(6)  # noqa: E731
    target, found = vmap(logits)(z), torch.zeros(20, 2)
    with torch.no_grad():
        for _ in range(50):
            residual = (target - vmap(logits)(found))[..., None]
            found = found + torch.linalg.lstsq(vmap(jacrev(logits))(found), residual).solution[..., 0]
    torch.testing.assert_close(found, z)
    assert torch.linalg.matrix_rank(vmap(jacrev(logits))(z)).eq(2).all()


def test_no_column_turns_round_where_an_entry_passes_through_0(float64):
    torch.manual_seed(0)
    decoder, z, found = IdentifiableMLPDecoder(2, (2, 3), width=8), torch.randn(20, 2), []
    for entry in (1e-9, -1e-9):
        with torch.no_grad():
            decoder.basis[0, 0] = entry
        found.append(decoder(z).base_dist.logits)
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="expected skip='none' for a decoder that is to stay injective, got 'all'"):
        IdentifiableMLPDecoder(2, (2, 3), skip="all")
    with pytest.raises(ValueError, match="expected at most 6 dimensions of z"):
        IdentifiableMLPDecoder(7, (2, 3))
    flags = ("--decoder", "identifiable-mlp", "--print-config")
    done = skipvae("train", *flags, "--model", "skip-vae", cwd=tmp_path)
    assert done.returncode == 2 and "expected --skip none (--model vae)" in done.stderr, done.stderr
    done = skipvae("train", *flags[:2], "--latent-dim", 65, "--epochs", 0, "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and "at most the 64 values of an item" in done.stderr, done.stderr
    assert 'model = "vae"' in skipvae("train", *flags, cwd=tmp_path).stdout
