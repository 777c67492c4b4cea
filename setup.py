"""Builds the wheel: beside the package it carries conf/, sweeps/ and analysis/, which a checkout has at its root."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class Carrying(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # finds them in the checkout
            return
        for folder in ("conf", "sweeps", "analysis"):
            target = Path(self.build_lib, "bnstudy", "shipped", folder)
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": Carrying})
