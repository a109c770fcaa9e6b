"""torchvision beside a torch build that its compiled operators do not match; the one place that knows about it.

torchvision's wheels on the package registry are linked against CUDA builds of torch. Beside a CPU build the compiled
library cannot be loaded, and `import torchvision` then raises "operator torchvision::nms does not exist", because one
of its modules registers shape rules for operators that are absent. `torchvision.datasets`, `.transforms` and `.utils`
need none of these operators.
"""

import importlib
import logging
import sys
import types

_REGISTRATIONS = ("torchvision._meta_registrations", "torchvision._autograd_registrations")


def load_torchvision() -> types.ModuleType:
    """Return the module torchvision, imported without its compiled operators where they do not match this torch.

    Where torchvision imports normally nothing else is executed. Afterwards `import torchvision` works anywhere in the
    process, and a detection operator fails with torchvision's own message. Raises whatever the import raises for any
    other reason.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    return _without_operators()


def _without_operators() -> types.ModuleType:
    # The failed import leaves submodules behind that the next one would not bind as attributes of the package.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in _REGISTRATIONS:
        sys.modules[name] = types.ModuleType(name)
    torchvision = importlib.import_module("torchvision")
    logging.getLogger(__name__).info(
        "torchvision's compiled operators do not match this torch build; only its Python parts are used. "
        "To have both, install torch and torchvision from the same index."
    )
    return torchvision
