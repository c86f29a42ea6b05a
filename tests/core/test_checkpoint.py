"""One file a model: what goes round, and every way in which a file can be wrong."""

import dataclasses
import json
import pickle
import zipfile

import pytest
import torch
from conftest import same, snapshot
from torch import nn

from core import checkpoint
from core.checkpoint import Checkpoint
from core.cli import InputError

NAMES = [field.name for field in dataclasses.fields(Checkpoint)]
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
NEWER = ("test_scales", "rotate_test")  # older files do without these


def network(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    made[1].running_var.fill_(1e6)  # outside float16
    return made


def checkpoint_of(weights, **changes):
    given = Checkpoint(
        problem="p1",
        architecture="tiny",
        classes=("0", "1"),
        input_size=3,
        mean=(0.5, 0.25, 0.1),
        std=(1.0, 0.3, 0.7),
        flip_test=True,
        recipe={"lr": 0.1, "jitter": [0.5, 0.5]},
        scores={"accuracy": 0.75},
        made={"seed": 0, "commit": "abc", "data": {"train": "00ff"}},
        weights=weights,
    )
    return dataclasses.replace(given, **changes)


@pytest.fixture
def path(tmp_path):
    """A file that holds a checkpoint."""
    checkpoint.save(tmp_path / "model.pt", checkpoint_of(network().state_dict()))
    return tmp_path / "model.pt"


# --- what goes round ---


def test_all_fields_come_back_in_plain_data_for_anyones_torch(path):
    loaded, given = checkpoint.load(path, "p1"), checkpoint_of({})
    assert dataclasses.replace(loaded, weights={}) == given  # a list would not equal a tuple
    content = torch.load(path, weights_only=True)
    assert content.keys() == {*NAMES, "format"} and content["classes"] == ["0", "1"]


def test_matrices_come_back_as_float16_and_vectors_and_counters_exactly(path):
    weights = checkpoint.load(path, "p1").weights
    for name, value in network().state_dict().items():
        dtype = torch.float16 if value.ndim >= 2 else value.dtype
        assert weights[name].dtype == dtype and torch.equal(weights[name], value.to(dtype)), name


def test_a_network_loaded_from_it_computes_the_same_to_float16(path):
    other, images = network(seed=1), torch.rand(2, 3, 3, 3)
    checkpoint.load_weights(other, checkpoint.load(path, "p1").weights, str(path))
    assert all(value.dtype != torch.float16 for value in other.state_dict().values())
    torch.testing.assert_close(other.eval()(images), network().eval()(images), atol=2e-3, rtol=2e-3)


def test_saving_leaves_the_model_as_it_is(tmp_path):
    model = network()
    checkpoint.save(tmp_path / "model.pt", checkpoint_of(model.state_dict()))
    same(model.state_dict(), network().state_dict())


def test_a_view_does_not_drag_its_whole_storage_into_the_file(tmp_path):
    path, vector = tmp_path / "view.pt", torch.zeros(1_000_000)[:10]
    checkpoint.save(path, checkpoint_of({"vector": vector, "matrix": torch.zeros(4, 9)[:, ::3]}))
    assert path.stat().st_size < 10_000
    assert checkpoint.load(path, "p1").weights["matrix"].shape == (4, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_a_weight_that_is_not_finite_in_its_format_is_refused_and_the_old_file_kept(path, value):
    before, model = snapshot(path.parent), network()
    model[3].weight.data[0, 0] = value
    with pytest.raises(InputError, match="3.weight is not finite"):
        checkpoint.save(path, checkpoint_of(model.state_dict()))
    assert snapshot(path.parent) == before


# --- what is refused ---


class Dangerous:
    """Its unpickling would make a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return open, (str(self.proof), "w")


def refused(path, problem="p1"):
    """The message of the refusal, which names the file, in one line."""
    with pytest.raises(InputError) as error:
        checkpoint.load(path, problem)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


def changed(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_a_file_cut_short_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 22, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "truncated or damaged" in refused(path), length


@pytest.mark.parametrize("bits", [1, 0xFF])
def test_a_changed_byte_anywhere_is_noticed_or_changes_nothing(path, bits):
    whole, sound = path.read_bytes(), checkpoint.load(path, "p1")
    for at in range(bits % 11, len(whole), 29):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
        try:
            read = checkpoint.load(path, "p1")  # it was a byte of the zip's padding
        except InputError as error:
            assert str(path) in str(error), at
        else:
            same(dataclasses.asdict(read), dataclasses.asdict(sound))


def test_torchs_older_format_is_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(checkpoint.read(tmp_path / "old.pth")["a"], torch.arange(3))


def test_a_file_that_may_not_be_opened_is_refused(path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", forbidden)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is a text file\n" * 50,
        b"\x80\x02",
        b"<!DOCTYPE html><html>not found</html>",
        bytes(5000),
        b"PK\x03\x04",
    ],
)
def test_a_file_of_something_else_is_refused(path, content):
    path.write_bytes(content)
    assert "truncated or damaged" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", content)
    refused(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "hw1_download.sh" in refused(tmp_path / "nothing.pt")
    assert f"is a folder; give the file in it, such as {tmp_path}/last.pt" in refused(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PK"])
def test_a_file_that_ships_is_brought_back_by_git(tmp_path, monkeypatch, content):
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    listed = {"checkpoints": [{"name": "p1_c.pt"}], "pretrained": [{"name": "vgg.pth"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(listed, indent=2))
    for name in ("p1_c.pt", "mine.pt") if content is not None else ():
        (tmp_path / name).write_bytes(content)
    assert "git checkout -- checkpoints" in refused(tmp_path / "p1_c.pt")
    for other in (tmp_path / "mine.pt", tmp_path / "elsewhere" / "p1_c.pt"):
        assert "git" not in refused(other).replace(str(tmp_path), "")
    download = "download it with: bash hw1_download.sh pretrained vgg.pth"
    assert download in refused(tmp_path / "pretrained" / "vgg.pth")


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))],
    ids=["torch", "pickle"],
)
@pytest.mark.parametrize(
    "wrap",
    [lambda thing: thing, lambda thing: {"format": 1, "weights": thing}],
    ids=["bare", "inside"],
)
def test_a_pickle_of_an_arbitrary_object_is_refused_and_nothing_of_it_is_run(tmp_path, write, wrap):
    write(wrap(Dangerous(tmp_path / "proof")), tmp_path / "foreign.pt")
    refused(tmp_path / "foreign.pt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (network(), "more than plain weights"),
        (network().state_dict(), "not a checkpoint of this project"),
        ({"weights": {}}, "not a checkpoint of this project"),
        ({"format": 1}, "not a checkpoint of this project"),
        ([1, 2], "contains a list, not named weights"),
        (torch.zeros(3), "contains a Tensor, not named weights"),
        (None, "contains a NoneType, not named weights"),
    ],
)
def test_what_torch_saved_of_something_else_is_refused(path, content, says):
    torch.save(content, path)
    assert says in refused(path)


def test_another_problems_checkpoint_is_refused(path):
    assert "is a checkpoint of p1, not of p3" in refused(path, "p3")


@pytest.mark.parametrize("name", ["format", *NAMES])
def test_a_checkpoint_that_lacks_a_field_is_refused_unless_it_is_a_newer_one(path, name):
    changed(path, lambda content: content.pop(name))
    if name in NEWER:
        assert getattr(checkpoint.load(path, "p1"), name) == getattr(checkpoint_of({}), name)
    else:
        refused(path)


def test_a_checkpoint_of_another_version_or_with_an_unknown_field_is_refused(path):
    changed(path, lambda content: content.update(colour="blue"))
    assert "not a complete checkpoint (unknown field colour)" in refused(path)
    changed(path, lambda content: content.update(format=2))
    assert "the format of another version" in refused(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("format", [torch.ones(2), "1", None, [1]]),
        ("problem", [1, None, torch.ones(2)]),
        ("architecture", [["tiny"], 3, None]),
        ("classes", [[0, 1], "01", None, {"0": 1}]),
        ("input_size", ["3", 0, -1, 3.0, True]),
        ("mean", [[0.5, 0.5], [0.5, 0.5, float("nan")], ["a", "b", "c"], 0.5, torch.ones(3), None]),
        ("std", [[1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [1.0, float("inf"), 1.0], [1.0, 1.0]]),
        ("flip_test", [1, "yes", None]),
        ("test_scales", [[], [0.0], 1.0, ["1"], [float("nan")]]),
        ("rotate_test", [1, "no", None]),
        ("recipe", [[], None, {1: 2}]),
        ("scores", [0.5, {None: 1}]),
        ("made", ["here", {(1, 2): 3}]),
        ("weights", [3, [], "w", {1: torch.ones(1)}, {"a": 1.0}, {"a": [torch.ones(1)]}]),
        ("weights", [{"a": torch.tensor([[0, value]])} for value in NOT_FINITE]),
        ("weights", [{"a": torch.tensor([[0, value]]).half()} for value in NOT_FINITE]),
    ],
)
def test_a_field_that_cannot_be_what_training_wrote_is_named(path, name, values):
    for value in values:
        changed(path, lambda content, value=value: content.update({name: value}))
        assert name in refused(path), value


class Large:
    """Its unpickling makes 3 GiB out of a few bytes."""

    def __init__(self, make):
        self.make = make

    def __reduce__(self):
        return self.make, (3 * 2**30,)


@pytest.mark.parametrize("make", [bytearray, torch.Tensor])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "older"])
def test_a_small_file_that_asks_for_gigabytes_is_refused_unread(path, make, new, monkeypatch):
    content = torch.load(path, weights_only=True) | {"made": {"large": Large(make)}}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    monkeypatch.setattr(torch, "load", None)  # it would obey
    assert "more than plain weights" in refused(path)


def test_a_small_file_of_compressed_or_stretched_zeros_is_refused(path):
    changed(path, lambda content: content["weights"].update(a=torch.zeros(1).expand(2**40)))
    assert "weights is not a dict of finite tensors" in refused(path)
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    assert "more than plain weights" in refused(path)


@pytest.mark.parametrize(
    "content", [{"a": 1}, {1: torch.ones(1)}, {"a": torch.ones(1), "b": {"c": torch.ones(1)}}]
)
def test_weights_to_start_from_are_tensors_by_name(path, content):
    torch.save(content, path)
    with pytest.raises(InputError, match=str(path)):
        checkpoint.read_weights(path)
    torch.save({"a": torch.ones(1)}, path)
    assert checkpoint.read_weights(path) == {"a": torch.ones(1)}
    checkpoint.save(path, checkpoint_of({"b": torch.ones(2)}))
    assert checkpoint.read_weights(path).keys() == {"b"}


# --- into a network ---


@pytest.mark.parametrize(
    ("left_out", "put_in", "says"),
    [
        (["1.running_mean"], {}, "missing: 1.running_mean"),
        ([], {"extra": (1,)}, "unexpected: extra"),
        ([], {"3.bias": (7,)}, "mis-shaped: 3.bias is (7,) instead of (2,)"),
        ([], {"3.weight": (2, 1)}, "mis-shaped: 3.weight is (2, 1) instead of (2, 4)"),
        ([], {"1.num_batches_tracked": (1,)}, "mis-shaped: 1.num_batches_tracked"),
        (
            network().state_dict(),
            {},
            "missing: 0.bias, 0.weight, 1.bias, 1.num_batches_tracked, 1.running_mean and 4 more",
        ),
        (
            ["0.bias"],
            {"extra": (1,), "3.bias": (7,)},
            "missing: 0.bias; unexpected: extra; mis-shaped: 3.bias is",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_at_all_changes(left_out, put_in, says):
    model, weights = network(), network(seed=1).state_dict()
    for name in left_out:
        del weights[name]
    weights |= {name: torch.zeros(shape) for name, shape in put_in.items()}
    with pytest.raises(InputError) as error:
        checkpoint.load_weights(model, weights, "some.pt")
    assert says in str(error.value) and str(error.value).startswith("some.pt does not fit")
    same(model.state_dict(), network().state_dict())


def test_weights_that_fit_are_loaded_to_the_last_one():
    model, weights = network(), network(seed=1).state_dict()
    checkpoint.load_weights(model, weights, "some.pt")
    same(model.state_dict(), weights)
