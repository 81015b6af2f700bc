"""Export: from frames and sound to a file that is labelled, written and signed, in this order."""

from phonofilm.export.export import Exported, export, statement
from phonofilm.export.label import labelled

__all__ = ["Exported", "export", "labelled", "statement"]
