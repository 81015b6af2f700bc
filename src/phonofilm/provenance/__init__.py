"""Provenance: sign a finished file after C2PA 2.x, and tell whether a file is signed, altered or unsigned."""

from phonofilm.provenance.identity import Identity
from phonofilm.provenance.signing import Claim, Part, Signed, sidecar, sign
from phonofilm.provenance.verifying import Verdict, verify

__all__ = ["Claim", "Identity", "Part", "Signed", "Verdict", "sidecar", "sign", "verify"]
