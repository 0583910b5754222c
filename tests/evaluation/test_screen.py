"""Tables on the screen: numbers, intervals, and what they depend on, in 80 columns."""

import numpy as np

from atr.evaluation.record import POOLED
from atr.evaluation.screen import interval, print_results
from tests.evaluation.made import measured, result

RIGHT = np.array([1.0, 0.0, 1.0, 1.0] * 10)


def test_a_line_a_table_of_folds_and_a_table_of_retrieval(capsys):
    about = {"settings": {"labels": 10, "chance": 0.1}}
    one = result(RIGHT, **about)
    several = result(RIGHT, **about)
    several.rows["fold1"] = [measured("accuracy", RIGHT[:8])]
    numbers = [measured(f"{way}/{name}", RIGHT) for way in ("t2a", "a2t") for name in ("R@1", "mAP@10", "median_rank")]
    counts = {"t2a/queries": 40, "t2a/candidates": 8, "a2t/queries": 8, "a2t/candidates": 40}
    found = result(RIGHT, "retrieval", settings=counts, templates=())
    found.rows[POOLED] = numbers
    found.remarks.append("1 of 41 clips could not be used")
    print_results([one, several, found])
    said = capsys.readouterr().out
    assert f"zero-shot   accuracy {interval(one.rows[POOLED][0])}" in said
    assert "10 labels, chance 0.100, prompt 'The sound of {label}'" in said
    assert "fold1" in said and "40 for 8" in said and "8 for 40" in said and "1 of 41 clips" in said
    assert said.count("0.750 (0.6") >= 6
    tables = [line for line in said.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= 80
