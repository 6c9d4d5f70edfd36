"""What pyproject.toml cannot say: a wheel has images/ inside the orchestrator (orchestrator/base/paths.py)."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

IMAGES = Path("images")
LOCAL = {"__pycache__", "wheels"}
"""Folders that builds and commands leave there."""


class BuildWithImages(build_py):
    """Builds the packages, and copies the stacks into them; an editable installation is a checkout and has them."""

    def run(self) -> None:
        """Build."""
        super().run()
        for path in [] if self.editable_mode else sorted(IMAGES.rglob("*")):
            # The scripts beside the stacks are those of the repository: its locks, its compose services.
            if (
                path.is_file()
                and not LOCAL.intersection(path.parts)
                and (path.parent != IMAGES or path.suffix != ".py")
            ):
                target = Path(self.build_lib, "orchestrator", path)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(path), str(target), preserve_mode=False)


setup(cmdclass={"build_py": BuildWithImages})
