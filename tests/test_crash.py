"""The short form of scripts/crash_test.py: nothing is lost, finished twice, torn or stuck, whoever is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_test import Chaos


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_lost_finished_twice_torn_or_stuck(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    many = database == "postgresql"
    url = request.getfixturevalue("postgres").database("chaos") if many else None
    report = Chaos(tmp_path, url, jobs=40, kills=6, workers=2 if many else 1, seed=3, verify=3).run()
    assert report.good, f"{report}\n{(tmp_path / 'log').read_text(errors='replace')[-6000:]}"
    assert report.kills_api + report.kills_worker == 6 and report.jobs >= 40 and report.downloads >= 30
