from .build import (
    build_beta as build_beta,
)
from .build import (
    build_data as build_data,
)
from .build import (
    build_step as build_step,
)
from .build import (
    build_vae as build_vae,
)
from .build import (
    choose_device as choose_device,
)
from .build import (
    resolve as resolve,
)
from .checkpoint import CheckpointError as CheckpointError
from .config import Config as Config
from .config import ConfigError as ConfigError
from .folder import Run as Run
from .folder import RunError as RunError
from .folder import load_run as load_run
