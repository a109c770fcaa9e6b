"""What setup.py requires, read without running it; as a program, the lowest version that each range allows, one a line.

These are the requirements of every installation, and those of the extra `vq`, which the tests use.
torch and torchvision stay those of constraints.txt.
"""

import ast
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FIXED = ("torch", "torchvision")


def setup_arguments():
    """{argument: value} of the call of `setup`, for those that are plain values."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup")
    wanted = ("version", "install_requires", "extras_require", "python_requires", "classifiers")
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg in wanted}


def pins():
    """{name: version} of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def lowest(text):
    """The lowest version that a requirement allows, as a requirement of its own."""
    requirement = Requirement(text)
    version = next(each.version for each in requirement.specifier if each.operator == ">=")
    return f"{requirement.name}=={pins()[requirement.name] if requirement.name in FIXED else version}"


if __name__ == "__main__":
    arguments = setup_arguments()
    print(*map(lowest, [*arguments["install_requires"], *arguments["extras_require"]["vq"]]), sep="\n")
