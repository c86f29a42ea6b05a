"""The drawing of all networks follows the models, and its counts the formulas."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import MobileNetV2

from p1.model import build, mobilenet_v2
from p2.model import Classifier
from p3.model import ARCHITECTURES, DeepLabv3, DeepLabv3Plus, FCN32s
from report import network
from report.problem3 import on_the_map

SMALL, LARGE = (3, 32, 32), (3, 512, 512)


def words_of(figure):
    return " | ".join(text.get_text() for text in figure.axes[0].texts)


def multiply_adds(model, shape):
    """By the formula: a convolution's weights are used once a position of its output.

    Of a transposed one, once a position of its input.
    """
    total = 0

    def count(module, inputs, output):
        nonlocal total
        image = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        positions = image.shape[2:].numel() if image.ndim == 4 else 1
        total += positions * module.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.empty(1, *shape))
    return total


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: mobilenet_v2(50), SMALL),
        (lambda: build("efficientnet_lite0_64", 50), SMALL),
        (lambda: Classifier(65), (3, 128, 128)),
        *((make, LARGE) for make in ARCHITECTURES.values()),
    ],
)
def test_nothing_is_left_out_of_the_sums(make, shape):
    whole = network.totals(network.stages(make, shape))
    with FakeTensorMode(), torch.no_grad():
        model = make()
        assert whole["parameters"] == sum(p.numel() for p in model.parameters())
        assert whole["multiply_adds"] == multiply_adds(model, shape)


def test_mobilenet_v2_is_drawn_as_published():
    narrow = network.stages(lambda: MobileNetV2(num_classes=7, width_mult=0.5), (3, 64, 64))
    assert [stage.channels for stage in narrow] == [3, 16, 8, 16, 16, 32, 48, 80, 160, 1280, 7]
    assert [stage.repeats for stage in narrow[2:9]] == [1, 2, 3, 4, 3, 3, 1]
    assert [stage.expansion for stage in narrow[2:9]] == [1, 6, 6, 6, 6, 6, 6]
    assert narrow[-1].what == "mean, linear"
    assert network.totals(narrow)["stride"] == 32


def test_fcn_is_drawn_as_published():
    stages = network.stages(FCN32s, LARGE)
    blocks = [(stage.repeats, stage.channels, stage.height) for stage in stages[1:6]]
    assert blocks == [(2, 64, 256), (2, 128, 128), (3, 256, 64), (3, 512, 32), (3, 512, 16)]
    drawn = words_of(network.drawing(stages))
    assert "3 × conv 3×3, max pool 2×2" in drawn and "134 M" in drawn
    assert "transposed conv 64×64, stride 32" in drawn and "cut to the image" in drawn


@pytest.mark.parametrize(
    ("make", "dilations"), [(DeepLabv3, (1, 12, 24, 36, 1)), (DeepLabv3Plus, (1, 1, 6, 12, 18))]
)
def test_the_pyramids_branches_read_the_same_map_and_are_read_together(make, dilations):
    stages = network.stages(make, LARGE)
    joined = next(stage for stage in stages if len(stage.reads) == 5)
    branches = [stages[k] for k in joined.reads]
    assert tuple(stage.dilation for stage in branches) == dilations
    assert len({stage.reads for stage in branches}) == 1
    assert [stage.what for stage in branches].count("mean, conv 1×1") == 1
    assert (stages[-1].channels, stages[-1].height, stages[-1].width) == (7, 512, 512)


def test_what_skips_a_part_is_said_to_read_the_earlier_map():
    stages = network.stages(DeepLabv3Plus, LARGE)
    (skip,) = [
        k for k, stage in enumerate(stages) if k - 1 not in stage.reads and stage.height == 128
    ]
    assert stages[stages[skip].reads[0]].shape == "24 × 128×128"
    (joined,) = [stage for stage in stages if stage.reads == (skip - 1, skip)]
    assert joined.title == "2 × separable 3×3"
    assert "reads 24 × 128×128" in words_of(network.drawing(stages))


def test_a_changed_dilation_shows_in_the_drawing():
    def changed():
        model = DeepLabv3()
        conv = model.network.classifier[0].convs[1][0]
        conv.dilation = conv.padding = (6, 6)
        return model

    before = words_of(network.drawing(network.stages(DeepLabv3, LARGE)))
    assert all(f"dilation {rate} |" in before for rate in (12, 24, 36))
    after = words_of(network.drawing(network.stages(changed, LARGE)))
    assert "dilation 6 |" in after and "dilation 12 |" not in after and "dilation 24 |" in after


def test_a_changed_width_shows_in_the_drawing_and_in_the_count():
    narrow, wide = (network.stages(lambda n=n: FCN32s(n), LARGE) for n in (5, 7))
    assert "5 × 512×512" in words_of(network.drawing(narrow))
    assert "7 × 512×512" in words_of(network.drawing(wide))
    fewer = 2 * (4096 + 1) + (7 * 7 - 5 * 5) * 64 * 64  # score and upscore
    counts = [network.totals(stages)["parameters"] for stages in (narrow, wide)]
    assert counts[1] - counts[0] == fewer


def test_a_changed_stride_shows_in_the_drawing():
    def changed():
        model = mobilenet_v2(50)
        model.features[4].conv[1][0].stride = (1, 1)
        return model

    before = network.stages(lambda: mobilenet_v2(50), SMALL)
    assert before[4].height == 16 and "48 × 16×16, stride 2" in words_of(network.drawing(before))
    after = network.stages(changed, SMALL)
    assert (after[4].height, after[5].height) == (32, 16)
    assert after[4].multiply_adds > 2 * before[4].multiply_adds
    assert "48 × 16×16" not in words_of(network.drawing(after))


def test_an_image_that_the_network_enlarges_is_said_to_be_enlarged():
    stages = network.stages(lambda: build("efficientnet_lite0_64", 50), SMALL)
    assert stages[1].what == "enlarged to 64×64, conv 3×3" and stages[1].height == 32
    assert [stage.what for stage in stages].count("mean, linear") == 1


def test_a_block_from_the_inside():
    stages = network.stages(lambda: mobilenet_v2(50).features[5], (48, 16, 16), merge=False)
    assert [stage.what for stage in stages[1:]] == ["conv 1×1", "depthwise 3×3", "conv 1×1"]
    assert [stage.channels for stage in stages] == [48, 288, 288, 48]
    assert "shortcut" in words_of(network.drawing(stages, shortcut=True))
    assert "shortcut" not in words_of(network.drawing(stages))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, ""),
        (7, "7"),
        (1392, "1.39 k"),
        (89_650, "89.7 k"),
        (4_405_426, "4.41 M"),
        (111e9, "111 G"),
    ],
)
def test_short(number, text):
    assert network.short(number) == text


@pytest.mark.parametrize(("dilation", "side"), [(1, 5), (12, 32), (24, 32), (36, 32), (12, 16)])
def test_the_taps_on_the_map_are_those_of_a_convolution(dilation, side):
    ones, taps = torch.ones(1, 1, side, side), torch.ones(1, 1, 3, 3)
    counted = nn.functional.conv2d(ones, taps, padding=dilation, dilation=dilation).mean().item()
    assert on_the_map(dilation, side) == pytest.approx(counted)
