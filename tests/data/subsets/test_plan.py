"""What cannot be done is told before anything is computed."""

from __future__ import annotations

import pytest

from neucore_xl.data.subsets.plan import Plan
from neucore_xl.errors import UserError


@pytest.mark.parametrize(
    ("plan", "pictures", "said"),
    [
        (Plan(val=0, test=0), 5, "5 are there, and a subset takes 6; give a folder of more pictures"),
        (Plan(), 40, "which leaves 4 for val, and a subset takes 6"),
        (Plan(val=0.5, test=0.4), 20, "which leaves 2 for train"),
        (Plan(val=0, test=0.01), 500, "which leaves 5 for test1"),
        (Plan(val=0.5, test=0.5), 1000, "leave nothing for train"),
        (Plan(number=2), 1000, "less than one subset for each of train, val, test1"),
        (Plan(number=1, val=0.1, test=0), 1000, "less than one subset for each of train, val;"),
    ],
)
def test_plans_that_cannot_be_done_are_refused_before_work(plan: Plan, pictures: int, said: str):
    with pytest.raises(UserError, match=said):
        plan.check(pictures, f"{pictures} are there")


def test_a_plan_that_can_be_done_passes():
    Plan(val=0, test=0, number=1).check(6, "")
    Plan().check(60, "")
    assert Plan().dealt(60) == {"train": 48, "val": 6, "test1": 6}
    assert Plan(number=3).dealt(3) == {"train": 1, "val": 1, "test1": 1}
