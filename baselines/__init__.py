"""Reference models from timm, fitted to small images by declared changes; needs nothing of the rest of this project."""

from .timm_models import create

__all__ = ["create"]
