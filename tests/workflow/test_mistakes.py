"""Every mistake of tests/support/mistakes.py gets a short, actionable message, as shown in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.mistakes import (
    MOST_LINES,
    Outcome,
    prepare,
    table,
    table_in_page,
    tried,
    tried_in_workflow,
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder: Path = tmp_path_factory.mktemp("mistakes")
    prepare(folder)
    return [*tried(folder), *tried_in_workflow(folder)]


def test_each_message_is_short(outcomes: list[Outcome]) -> None:
    assert len(outcomes) >= 60
    for outcome in outcomes:
        text = "\n".join(outcome.lines)
        assert 1 <= len(outcome.lines) <= MOST_LINES, outcome
        assert not any(word in text for word in ("Traceback", "schema", "Error(", "site-packages")), outcome
        # 1 is Snakemake's status for a configuration that cannot be used; 3 is a file that cannot be used.
        expected = {1} if outcome.typed.startswith("snakemake") else {2, 3}
        assert outcome.status in expected, outcome


def test_the_table_of_the_documentation_is_current(outcomes: list[Outcome]) -> None:
    assert table_in_page().splitlines() == table(outcomes).splitlines(), (
        "cd tests && python -m support.mistakes --write"
    )
