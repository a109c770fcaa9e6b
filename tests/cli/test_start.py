"""What starting a command must not import: each costs every run that does not need it."""

import subprocess
import sys

SLOW = ("matplotlib", "sklearn", "scipy", "pandas", "torchvision", "jinja2", "tensorboardX")


def test_training_and_evaluation_start_without_what_only_pages_need():
    code = f"import sys, pyro_skipvae_cli.training as _; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
