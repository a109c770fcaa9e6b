"""What the package is and needs; tool settings live in pyproject.toml, tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="pyro_skipvae",
    version="0.9.0",
    description="Generative skip models, collapse remedies and honest collapse diagnostics on Pyro",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    keywords=["variational autoencoder", "posterior collapse", "Pyro", "PyTorch", "skip connections"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["pyro_skipvae", "pyro_skipvae.*"]), "pyro_skipvae_cli", "pyro_skipvae.results"],
    package_dir={"pyro_skipvae_cli": "cli", "pyro_skipvae.results": "results"},
    package_data={
        "pyro_skipvae": [
            "py.typed",
            "**/*.pyi",
            "reports/templates/*.j2",
            "reproduction/presets/*.toml",
            "runs/presets/*.toml",
            "runs/trained/**/*",
        ],
        "pyro_skipvae.results": ["*.json", "README.md"],
    },
    install_requires=[
        "pyro-ppl>=1.9.1,<2",
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "click>=8.4",
        "tensorboardX>=2.6",
        "rich>=14.3",
        "scikit-learn>=1.6",
        "scipy>=1.11.1",
        "matplotlib>=3.8",
        "safetensors>=0.4.4",
        "Jinja2>=3.1",
        "lazy_loader>=0.4",
        "markdown-it-py>=3.0",
        "pooch>=1.8",
    ],
    extras_require={
        "ray": ["ray>=2.40"],
        "dev": [
            *("pytest>=8.0", "pytest-xdist>=3.5", "mypy>=1.11", "ruff>=0.6", "hypothesis>=6.100"),
            "vector-quantize-pytorch>=1.20",
        ],
        "docs": ["sphinx>=8.0", "myst-nb>=1.3", "furo>=2024.8"],
        "release": ["build>=1.2", "twine>=6.0", "uv>=0.5"],
        "notebooks": ["jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6.29"],
        "benchmarks": ["pythae>=0.1.2", "numpyro>=0.16", "jax>=0.4.30"],
        "arviz": ["arviz>=0.17,<1"],
        "anndata": ["anndata>=0.10"],
        "vq": ["vector-quantize-pytorch>=1.20"],
        "hub": ["huggingface_hub>=0.30"],
    },
    entry_points={"console_scripts": ["skipvae-pyro = pyro_skipvae_cli:main"]},
)
