"""Train, evaluate, report: `python train.py experiment=demo`. The same as `atr train`.

The experiment itself is `train` in `src/atr/experiment.py`, where an installed wheel finds it, too.
"""

from atr.experiment import train
from atr.launch import launch

__all__ = ["train"]

if __name__ == "__main__":
    launch()
