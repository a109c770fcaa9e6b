"""A Pyro model and guide as the estimates see them: sites, plates, rows, draws."""
