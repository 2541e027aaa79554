"""Each rule of the protocol is needed: without it, the simulation finds a broken promise soon."""

from __future__ import annotations

import pytest

from tests.fakes.missing_rules import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule.name}-{rule.seeds}-seeds" for rule in RULES])
def test_the_simulation_notices_that_a_rule_is_missing(rule: Rule) -> None:
    assert rule.caught() is not None, f"{rule.seeds} seeds without it broke no promise"
