"""`python -m phonofilm`, which is what `torchrun` starts."""

from phonofilm.cli import main

raise SystemExit(main())
