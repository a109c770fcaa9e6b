"""Distributions that Pyro and torch lack."""
