"""The import of torchvision: untouched where it works, repaired in the one known case, and no other error hidden."""

import subprocess
import sys

import pytest

BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
REPORT = """
from pyro_skipvae.data.torchvision_shim import load_torchvision
import sys
module = load_torchvision()
import torchvision
assert module is torchvision
"""


def stand_in(folder, meta_registrations, init="from . import extension, _meta_registrations, datasets\n"):
    """A package named torchvision whose import runs the given text where the real one registers shape rules."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(init)
    (package / "extension.py").write_text("")
    (package / "_meta_registrations.py").write_text(meta_registrations)
    (package / "datasets.py").write_text("import torchvision.extension\nassert torchvision.extension.__name__\n")


def run(code, *paths):
    prefix = "import sys\n" + "".join(f"sys.path.insert(0, {str(path)!r})\n" for path in paths)
    return subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True, timeout=120)


def test_a_healthy_package_is_imported_and_nothing_else_happens(tmp_path):
    stand_in(tmp_path, "healthy = True\n")
    done = run(
        REPORT + "assert sys.modules['torchvision._meta_registrations'].healthy\n"
        "assert 'torchvision._autograd_registrations' not in sys.modules\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_known_error_is_repaired_also_after_an_earlier_failed_import(tmp_path):
    stand_in(tmp_path, BROKEN)
    earlier = "try:\n    import torchvision\nexcept RuntimeError:\n    pass\nelse:\n    raise SystemExit('healthy')\n"
    done = run(earlier + REPORT + "assert torchvision.extension.__name__ == 'torchvision.extension'\n", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", ["RuntimeError('operator other::nms does not exist')", "ImportError('no such file')"])
def test_another_error_is_raised_as_it_is_and_no_empty_module_is_left(tmp_path, error):
    stand_in(tmp_path, f"raise {error}\n")
    done = run(
        "import atexit\natexit.register(lambda: print('torchvision._autograd_registrations' in sys.modules))\n" + REPORT,
        tmp_path,
    )
    assert done.returncode == 1 and error.split("'")[1] in done.stderr
    assert done.stdout == "False\n"


def test_the_real_torchvision_is_usable_in_a_fresh_process(tmp_path):
    done = run(
        REPORT
        + f"""
import torch
from torchvision import datasets, transforms, utils
image, label = datasets.FakeData(size=1, image_size=(3, 8, 8), transform=transforms.ToTensor())[0]
utils.save_image(utils.make_grid(image[None]), {str(tmp_path / "grid.png")!r})
assert image.shape == (3, 8, 8) and torchvision.extension and torchvision._internally_replaced_utils
"""
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "grid.png").stat().st_size > 0
