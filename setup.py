"""The repository root is the package ``fieldloop``; only the prefix needs code, the rest is in pyproject.toml."""

from setuptools import find_packages, setup

ROOMS = ["dft_inputs*", "model*", "active_learning*", "workflows*"]

setup(script_name="setup.py", packages=["fieldloop", *(f"fieldloop.{name}" for name in find_packages(include=ROOMS))])
