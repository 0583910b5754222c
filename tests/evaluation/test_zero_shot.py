"""Zero-shot classification by hand."""

import pytest
import torch

from atr.evaluation.zero_shot import zero_shot
from atr.pipeline.text import label_text


def test_accuracy_top5_confusion_and_recall():
    labels = ["a", "b", "c"]
    audio = torch.eye(3)[[0, 0, 1, 2]]
    result = zero_shot(audio, torch.eye(3), torch.tensor([0, 1, 1, 2]), labels)
    assert result.accuracy == pytest.approx(3 / 4) and result.top5 == 1.0 and result.chance == pytest.approx(1 / 3)
    assert result.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert result.per_label == {"a": 1.0, "b": 0.5, "c": 1.0}


def test_a_label_without_clips_has_no_recall():
    result = zero_shot(torch.eye(2)[[0]], torch.eye(2), torch.tensor([0]), ["a", "b"])
    assert result.per_label == {"a": 1.0}


def test_top5_counts_the_five_nearest_only():
    audio = torch.nn.functional.normalize(torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), dim=1)
    labels = list("abcdef")
    assert zero_shot(audio, torch.eye(6), torch.tensor([4]), labels).top5 == 1.0
    assert zero_shot(audio, torch.eye(6), torch.tensor([5]), labels).top5 == 0.0


def test_underscores_become_blanks():
    assert label_text("dog_bark") == "dog bark"
