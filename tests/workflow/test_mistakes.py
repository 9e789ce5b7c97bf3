"""Every mistake of tests/support/mistakes.py gets a short, actionable message, as shown in the documentation."""

from __future__ import annotations

from pathlib import Path

from support.mistakes import (
    MOST_LINES,
    prepare,
    table,
    table_in_page,
    tried,
    tried_in_workflow,
)


def test_each_message_is_short_and_documented(tmp_path: Path) -> None:
    prepare(tmp_path)
    outcomes = [*tried(tmp_path), *tried_in_workflow(tmp_path)]
    assert len(outcomes) >= 60
    for outcome in outcomes:
        text = "\n".join(outcome.lines)
        assert 1 <= len(outcome.lines) <= MOST_LINES, outcome
        assert not any(word in text for word in ("Traceback", "schema", "Error(", "site-packages")), outcome
        # 1 is Snakemake's status for a configuration that cannot be used; 3 is a file that cannot be used.
        expected = {1} if outcome.typed.startswith("snakemake") else {2, 3}
        assert outcome.status in expected, outcome
    assert table_in_page().splitlines() == table(outcomes).splitlines(), (
        "the table is out of date: cd tests && python -m support.mistakes --write"
    )
