"""Our model as a pipeline of `diffusers`: a folder that works there without this package."""

from phonofilm.engines.hub.export import export_pipeline

__all__ = ["export_pipeline"]
