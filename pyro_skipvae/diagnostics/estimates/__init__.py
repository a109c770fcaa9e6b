"""Each estimate of the report, from draws of a pair."""
