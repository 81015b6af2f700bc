"""Files that people see and hear: write them, read them back, and lay them out on a contact sheet."""

from phonofilm.media.formats import Limits
from phonofilm.media.reading import read, read_audio, read_mask
from phonofilm.media.sheet import contact_sheet
from phonofilm.media.sinks import check_ending
from phonofilm.media.writing import Writer, write

__all__ = ["Limits", "Writer", "check_ending", "contact_sheet", "read", "read_audio", "read_mask", "write"]
