"""Pre-train the backbone of model A or B to classify images: ``python3 -m p3.pretrain --model B``.

The images are those of problem 2's ``mini`` at 64x64 pixels, with their labels. So the models start
from features for edges and textures, without any published weights. In each class, one image
in ten is held out to measure the accuracy.
"""

from __future__ import annotations

import argparse
import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core import augment, devices, images
from core.randomness import generator, seed_of, steps_per_epoch
from p3.model import OF_MODEL, FCN32s, build
from p3.recipes import PRETRAIN, PretrainRecipe
from prediction.tables import classes_of, read_labelled
from training import cache, flags, labelled, loop, optim, preview, processes
from training.provenance import digest
from training.recipes import choose_recipe
from training.run import Run

HOLD_OUT = 10  # one image in so many of each class


class Classifier(nn.Module):
    """The backbone of ``network`` (FCN32s or DeepLabv3), global average pooling, a linear layer.

    VGG16 is trained with BatchNorm after each convolution (torchvision's ``vgg16_bn``), because it
    learns slowly without. ``weights`` folds it into the convolutions: they compute the same.
    """

    def __init__(self, network: Any, classes: int) -> None:
        super().__init__()
        self.name = network.BACKBONE
        self.backbone = network.get_submodule(self.name)
        if isinstance(network, FCN32s):
            self.backbone = normalised(self.backbone)
        self.head = nn.Linear(network.CHANNELS, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float -> logits (N, classes)."""
        maps = self.backbone(images)
        maps = maps["out"] if isinstance(maps, dict) else maps
        return self.head(maps.mean((2, 3)))

    def weights(self) -> dict[str, Tensor]:
        """The backbone's weights under their names in the whole network."""
        backbone = self.backbone
        if isinstance(backbone, nn.Sequential):
            backbone = folded(backbone)
        return {f"{self.name}.{key}": part for key, part in backbone.state_dict().items()}


def normalised(layers: nn.Sequential) -> nn.Sequential:
    """Return the same layers, with BatchNorm after each convolution."""
    result = []
    for layer in layers:
        result.append(layer)
        if isinstance(layer, nn.Conv2d):
            result.append(nn.BatchNorm2d(layer.out_channels))
    return nn.Sequential(*result)


def folded(layers: nn.Sequential) -> nn.Sequential:
    """Return layers without BatchNorm that compute what ``layers`` compute in evaluation mode."""
    layers = copy.deepcopy(layers).eval()
    result: list[Any] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            result[-1] = fuse_conv_bn_eval(result[-1], layer)
        else:
            result.append(layer)
    return nn.Sequential(*result)


def arguments() -> tuple[argparse.Namespace, PretrainRecipe]:
    parser = flags.command_line(
        __doc__, data="hw1_data/p2_data/mini", run="runs/p3_pretrain_MODEL_RECIPE"
    )
    parser.set_defaults(recipe="best")
    parser.add_argument(
        "--model", choices=["A", "B"], default="B", help="A: VGG16, B: MobileNetV3 (%(default)s)"
    )
    labelled.labels_flag(parser)
    args = parser.parse_args()
    recipes = {name: models[args.model] for name, models in PRETRAIN.items()}
    return args, choose_recipe(parser, args, recipes, f"p3_pretrain_{args.model}")


def main() -> None:
    args, recipe = arguments()
    device = processes.choose(args.device)

    decode = functools.partial(images.read_square, size=recipe.size)
    names, paths = read_labelled(args.labels or args.data / "labels.csv", args.data / "train")
    classes = classes_of(names)
    numbers = [classes.index(name) for name in names]
    kind = f"p3-{recipe.size}"
    train_set, val_set = labelled.load(paths, numbers, decode, kind, HOLD_OUT, args)
    pixels, labels = train_set
    if args.preview:
        return preview.labelled(args, recipe, pixels, labels, classes, augmented)
    digests = {"train": digest(pixels, labels), "val": digest(*val_set)}
    pixels, labels = cache.resident(pixels, device, args.data_memory), labels.to(device)
    steps = steps_per_epoch(len(pixels), recipe.batch_size)

    torch.manual_seed(seed_of(args.seed, "weights"))
    architecture = OF_MODEL[recipe.model]
    network = devices.prepare(Classifier(build(architecture), len(classes)), device)
    average = copy.deepcopy(network) if recipe.average else network
    trained = processes.wrap(network, device)
    optimizer = loop.make_optimizer(network, recipe)
    scaler = loop.loss_scaler(device, recipe.bf16)
    run = Run(
        flags.run_folder(args, f"p3_pretrain_{args.model}", recipe),
        recipe=recipe,
        data=digests,
        model=loop.checkpoint_fields("p3", f"{architecture}_backbone", (), recipe.size, recipe),
        state=loop.state(network=network, average=average, optimizer=optimizer, scaler=scaler),
        device=device,
        watch="accuracy",
        **flags.run_options(args),
    )

    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(pixels), recipe.batch_size):
            loop.set_learning_rate(optimizer, recipe, run.total_steps, steps)
            batch = cache.gather(pixels, index, device)
            inputs = augmented(batch, recipe, generator(*run.keys()))
            with devices.autocast(device, recipe.bf16):
                out = trained(inputs)
            loss = nn.functional.cross_entropy(out.float(), labels[index.to(device)])
            decay = optim.warmed_up(recipe.average, run.total_steps)
            loop.step(loss, network, optimizer, scaler, average=average, decay=decay)
            run.step(loss=loss)
        run.begin_evaluation()
        result = loop.accuracy(average, *val_set, recipe, device)
        run.end_epoch(average.weights(), lr=optimizer.param_groups[0]["lr"], accuracy=result)


def augmented(images: Tensor, recipe: PretrainRecipe, rng: torch.Generator) -> Tensor:
    """(N, 3, H, W) uint8 -> the network's float32 input, with random draws for each image."""
    images = augment.to_float(augment.random_flip(images, rng))
    images = augment.random_resized_crop(images, recipe.size, rng, scale=recipe.crop_area)
    images = augment.random_jitter(images, recipe.jitter, rng)
    return augment.normalise(images, recipe.mean, recipe.std)


if __name__ == "__main__":
    processes.entry(main)
