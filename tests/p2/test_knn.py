"""The kNN probe against the paper's weighted vote, on features that separate the classes or not."""

import math

import pytest
import torch
from torch import nn

from p2 import knn
from p2.recipes import PRETRAIN


@pytest.mark.parametrize("neighbours", [1, 7, 31])  # more than there are images
def test_knn_is_the_papers_weighted_vote(neighbours):
    known, asked = torch.randn(30, 5), torch.randn(12, 5)
    asked *= torch.logspace(-2, 1, 12)[:, None]  # lengths do not count
    labels = torch.randint(4, (30,))
    expected = []
    for feature in asked:
        cosines = nn.functional.cosine_similarity(feature[None], known).tolist()
        near = sorted(zip(cosines, labels.tolist(), strict=True))[-neighbours:]
        votes = [
            sum(math.exp(cosine / 0.07) for cosine, label in near if label == k) for k in range(4)
        ]
        expected.append(votes.index(max(votes)))
    assert knn.classify(known, labels, asked, neighbours=neighbours).tolist() == expected


def test_the_probe_scores_a_backbone_that_sees_the_class_and_one_that_has_collapsed():
    labels = torch.arange(3).repeat(10)
    images = torch.zeros(30, 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(30), labels] = 200  # the class is the colour
    probe = knn.Probe(images, labels, images[:9], labels[:9])
    sees = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))
    before = sees[2].running_mean.clone()
    cpu, recipe = torch.device("cpu"), PRETRAIN["original"]
    assert knn.accuracy(sees, probe, recipe, cpu) == 1.0
    assert torch.equal(before, sees[2].running_mean)
    black = knn.Probe(torch.zeros_like(images), labels, torch.zeros_like(images[:9]), labels[:9])
    assert knn.accuracy(nn.Flatten(), black, recipe, cpu) == pytest.approx(1 / 3)
