"""What is asked for: how many subsets, for which splits, by which rule; and whether it can be done at all."""

from __future__ import annotations

from dataclasses import dataclass

from neucore_xl.data.subsets.procedure import MAX_SHARED, PAPER, SIZE, Rule
from neucore_xl.errors import UserError


@dataclass(frozen=True)
class Plan:
    """``number`` of subsets over all splits (None: as many as there are), the shares of pictures and of subsets that go
    to ``val`` and ``test``, and how subsets are chosen."""

    number: int | None = None
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    rule: Rule = PAPER
    max_shared: int = MAX_SHARED

    def dealt(self, count: int) -> dict[str, int]:
        """How many of ``count`` things go to each split that gets any; of few things each gets one at least."""
        shares = {"val": self.val, "test1": self.test}
        parts = {split: max(1, round(count * share)) for split, share in shares.items() if share > 0}
        return {"train": count - sum(parts.values()), **parts}

    def check(self, pictures: int, what: str) -> None:
        """Raises ``UserError`` beginning with ``what`` unless so many pictures and subsets can be dealt to splits."""
        if self.val + self.test >= 1:
            raise UserError(f"--val {self.val} and --test {self.test} leave nothing for train; make them smaller.")
        if pictures < SIZE:
            raise UserError(f"{what}, and a subset takes {SIZE}; give a folder of more pictures.")
        few = {split: count for split, count in self.dealt(pictures).items() if count < SIZE}
        if few:
            split, count = next(iter(few.items()))
            raise UserError(
                f"{what}, which leaves {count} for {split}, and a subset takes {SIZE}; give more pictures, or another "
                "--val and --test (0: no such split)."
            )
        if self.number is not None and min(self.dealt(self.number).values()) < 1:
            raise UserError(
                f"--subsets {self.number} is less than one subset for each of {', '.join(self.dealt(9))}; ask for "
                "more, or pass --val 0 or --test 0."
            )
