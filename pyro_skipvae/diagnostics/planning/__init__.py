"""What can be known before training: which directions of the data a latent variable can carry, and what a loss weighs."""
