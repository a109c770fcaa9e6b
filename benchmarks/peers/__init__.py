"""The same training by other libraries, which are an extra of the benchmarks alone."""

INSTALL = "pip install --constraint constraints.txt --editable '.[benchmarks]'"
