"""Budgets and learning rates: whichever limit is reached first ends the training, and alpha and rate follow it."""

import math

import pytest

from harmonet.training.schedule import Position, Schedule

PLAN = {"epochs": 4, "per_epoch": 10, "learning_rate": 1.0}


def at(steps=0, seconds=0.0):
    return Position(epoch=steps // 10, step=steps % 10, steps=steps, seconds=seconds)


@pytest.mark.parametrize(
    ("limits", "position", "done"),
    [
        ({}, at(10), 0.25),
        ({}, at(40), 1.0),
        ({}, at(50), 1.0),
        ({"steps": 20}, at(10), 0.5),
        ({"steps": 15}, at(15), 1.0),
        ({"steps": 400}, at(10), 0.25),
        ({"minutes": 2.0}, at(10, 60), 0.5),
        ({"minutes": 2.0}, at(30, 60), 0.75),
        ({"minutes": 2.0}, at(10, 120), 1.0),
        ({"minutes": 2.0, "steps": 10}, at(9, 6), 0.9),
    ],
)
def test_the_limit_that_is_nearest_says_how_much_is_done(limits, position, done):
    schedule = Schedule(**PLAN, **limits)
    assert schedule.done(position) == pytest.approx(done)
    assert schedule.over(position, 0) == (done == 1)


@pytest.mark.parametrize("limits", [{}, {"steps": 20}, {"minutes": 1.0}])
def test_a_cosine_rises_over_its_warm_up_and_falls_to_nothing_at_the_end_of_any_budget(limits):
    schedule = Schedule(**PLAN, **limits, shape="cosine", warm_up=0.2)
    by_time = "minutes" in limits
    total = schedule.total

    def rate(share):
        position = at(0, 60 * share) if by_time else at(round(share * total))
        return schedule.rate(position)

    assert 0 < rate(0) < rate(0.1) < rate(0.2)
    assert rate(0.2) == pytest.approx(1)
    assert rate(0.6) == pytest.approx(0.5)
    assert rate(1) == pytest.approx(0)


def test_the_papers_rate_falls_by_sqrt_2_every_15_epochs_of_any_length():
    schedule = Schedule(epochs=50, per_epoch=7)
    rates = [schedule.rate(Position(epoch=epoch)) for epoch in range(50)]
    assert rates[0] == rates[14] == 1e-4
    assert [rates[epoch] for epoch in (15, 30, 45)] == pytest.approx([1e-4 / math.sqrt(2) ** n for n in (1, 2, 3)])


@pytest.mark.parametrize(("patience", "since_best", "over"), [(0, 99, False), (3, 2, False), (3, 3, True)])
def test_patience_ends_a_training_that_gains_nothing(patience, since_best, over):
    assert Schedule(**PLAN, patience=patience).over(at(10), since_best) is over
