"""What the model learns from besides the playhouse: folders of captioned clips, and latents kept on disk."""

from phonofilm.data.cache import LatentCache, Shard
from phonofilm.data.folder import Captioned, Folder

__all__ = ["Captioned", "Folder", "LatentCache", "Shard"]
