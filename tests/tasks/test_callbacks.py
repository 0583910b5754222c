"""What a log without a terminal says, and that the run ends somewhere."""

import re

import pytest

from atr.errors import UsageError
from atr.experiment import train
from atr.tasks import callbacks


def test_a_log_has_lines_with_loss_speed_and_time_left(tiny, capsys, monkeypatch):
    monkeypatch.setattr(callbacks, "LINE_EVERY", 0.0)
    train(tiny("trainer.max_epochs=2"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 4
    assert all(re.fullmatch(r"step \d/4  loss \d\.\d{3}  \d+ clips/s  \d+ s, \d+ s left", line) for line in lines)


def test_an_endless_run_is_refused(tiny):
    with pytest.raises(UsageError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        train(tiny("trainer.max_epochs=-1"))
