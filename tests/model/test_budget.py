from __future__ import annotations

import torch

from bye_audit.model.budget import TokenBudget

GPU = torch.device("cuda")


def test_a_budget_doubles_while_memory_is_left_and_halves_for_good_when_it_was_too_much() -> None:
    share = 0.1
    budget = TokenBudget(GPU, used_share=lambda: share)
    start = budget.tokens
    budget.after_pass(start // 4)
    assert budget.tokens == start, "a pass that did not fill it says nothing"
    budget.after_pass(start)
    assert budget.tokens == 2 * start
    share = 0.7
    budget.after_pass(budget.tokens)
    assert budget.tokens == 2 * start
    budget.after_failure()
    share = 0.1
    budget.after_pass(budget.tokens)
    assert budget.tokens == start


def test_on_a_cpu_and_where_it_was_said_the_budget_stays() -> None:
    for budget in (TokenBudget(torch.device("cpu")), TokenBudget(GPU, 100, lambda: 0.0)):
        before = budget.tokens
        budget.after_pass(before)
        assert budget.tokens == before


def test_a_budget_never_falls_to_nothing() -> None:
    budget = TokenBudget(GPU, 2, lambda: 1.0)
    for _ in range(5):
        budget.after_failure()
    assert budget.tokens == 1
