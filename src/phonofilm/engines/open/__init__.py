"""Open-weight models through the same door: any video pipeline of `diffusers`, with sound where it has it.

Needs the extra: pip install "phonofilm[open]". Nothing of diffusers is imported before a film is to be made.
"""

from phonofilm.engines.open.engine import OpenEngine
from phonofilm.engines.open.families import FAMILIES, Family, Way

__all__ = ["FAMILIES", "Family", "OpenEngine", "Way"]
