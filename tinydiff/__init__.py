"""tinydiff: Stable Diffusion on a phone's CPU, in Python that people can read."""

from tinydiff._version import __version__

__all__ = ["__version__"]
