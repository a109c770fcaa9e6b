"""A conditional VAE as a robot's policy: q(z | actions, observation), p(actions | z, observation), and its report.

    python examples/elsewhere/robot_policy.py [--smoke]

The demonstrations have two styles, around an obstacle to the left or to the right; the observation does not tell which.
"""

import sys

import torch
from torch import nn

from pyro_skipvae import as_pair, collapse_report

torch.manual_seed(0)
N, STEPS = 2000, 8
observation = torch.randn(N, 4)
side = torch.randint(0, 2, (N, 1)) * 2.0 - 1
way = torch.linspace(0, 1, STEPS)
actions = observation[:, :1] * way + side * (torch.pi * way).sin() + 0.1 * torch.randn(N, STEPS)
encoder = nn.Sequential(nn.Linear(STEPS + 4, 64), nn.ReLU(), nn.Linear(64, 4))
decoder = nn.Sequential(nn.Linear(2 + 4, 64), nn.ReLU(), nn.Linear(64, STEPS))


def encode(actions, observation):
    loc, log_variance = encoder(torch.cat([actions, observation], -1)).chunk(2, -1)
    return loc, (log_variance / 2).exp()


def decode(z, observation):
    return torch.distributions.Normal(decoder(torch.cat([z, observation], -1)), 0.1)


optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
for _ in range(1 if "--smoke" in sys.argv else 60):
    for a, o in zip(actions.split(100), observation.split(100), strict=True):
        loc, scale = encode(a, o)
        rate = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum()
        loss = (rate - decode(loc + scale * torch.randn_like(scale), o).log_prob(a).sum()) / len(a)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

model, guide = as_pair(encode, decode)
print(collapse_report(model, guide, (actions[:500], observation[:500])))
