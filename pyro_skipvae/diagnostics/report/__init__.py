"""The report, its card, its table and its verdict."""
