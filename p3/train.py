"""Train problem 3's networks: ``python3 -m p3.train --model B --recipe original``."""

from __future__ import annotations

import argparse
import copy
import math

import torch
from torch import Tensor, nn

from core import augment, checkpoint, devices, progress
from core.cli import InputError, say
from core.randomness import generator, seed_of, steps_per_epoch
from core.views import logits
from p3 import data
from p3.model import OF_MODEL, build, load_pretrained
from p3.recipes import RECIPES, Recipe
from training import cache, flags, loop, optim, preview, processes
from training.provenance import digest, initial_weights
from training.recipes import choose_recipe
from training.run import Run


def arguments() -> tuple[argparse.Namespace, Recipe]:
    parser = flags.command_line(__doc__, data="hw1_data/p3_data", run="runs/p3_MODEL_RECIPE")
    parser.add_argument(
        "--model",
        choices=list(OF_MODEL),
        default="B",
        help="A: FCN32s, B: DeepLabv3, C: DeepLabv3+ (%(default)s)",
    )
    parser.add_argument(
        "--pretrained",
        help="initial weights; A, B: a state dict file of torchvision, or a checkpoint of "
        "p3.pretrain; C: imagenet; all: a checkpoint of the same model; none: random weights (as "
        "the recipe says)",
    )
    flags.tune_flag(parser)
    args = parser.parse_args()
    recipes = {name: models[args.model] for name, models in RECIPES.items() if args.model in models}
    return args, choose_recipe(parser, args, recipes, f"p3_{args.model}")


def main() -> None:
    args, recipe = arguments()
    device = processes.choose(args.device)
    architecture = OF_MODEL[args.model]
    source = None if args.preview else flags.initial_weights(args, recipe, architecture)
    initial = checkpoint.read_weights(source) if source else None

    pairs, _ = data.load(args.data / "train", args.data_memory)
    if args.tune:
        no_classes = torch.zeros(len(pairs)).long()
        (pairs, _), (val_pairs, _) = loop.split_for_tune(pairs, no_classes, args.seed)
    else:
        val_pairs, _ = data.load(args.data / "validation", args.data_memory)
    check(args, recipe, pairs)
    if args.preview:
        return show(args, recipe, pairs)
    digests = {"train": digest(pairs), "val": digest(val_pairs)}
    pairs = cache.resident(pairs, device, args.data_memory)
    steps = steps_per_epoch(len(pairs), recipe.batch_size)
    torch.manual_seed(seed_of(args.seed, "weights"))
    network = build(architecture, drop_path=recipe.drop_path)
    if initial is not None:
        say(load_pretrained(network, initial, str(source)))
        del initial  # half a gigabyte in model A
    network = devices.prepare(network, device)
    average = copy.deepcopy(network) if recipe.average else network
    trained = processes.wrap(network, device)
    optimizer = loop.make_optimizer(network, recipe)
    plateau = optim.plateau(optimizer, recipe.schedule)
    scaler = loop.loss_scaler(device, recipe.bf16)
    run = Run(
        flags.run_folder(args, f"p3_{args.model}", recipe),
        recipe=recipe,
        data={**digests, "pretrained_file": digest(source) if source else None},
        notes=initial_weights(args.pretrained, source),
        model=loop.checkpoint_fields("p3", architecture, data.CLASSES, None, recipe),
        state=loop.state(
            network=network, average=average, optimizer=optimizer, plateau=plateau, scaler=scaler
        ),
        device=device,
        watch="mean_iou",
        **flags.run_options(args),
    )

    def inputs_of(index: Tensor, rng: torch.Generator) -> Tensor:
        return augmented(cache.gather(pairs, index, device), recipe, rng)[0]

    weights = class_weights(pairs, recipe).to(device)
    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(pairs), recipe.batch_size) if recipe.lr else ():
            loop.set_learning_rate(optimizer, recipe, run.total_steps, steps)
            batch = cache.gather(pairs, index, device)
            images, truth = augmented(batch, recipe, generator(*run.keys()))
            with devices.autocast(device, recipe.bf16):
                out = trained(images)
            loss = cross_entropy(out.float(), truth, weights)
            if recipe.jaccard:
                loss = loss + recipe.jaccard * soft_jaccard(out.float(), truth)
            decay = optim.warmed_up(recipe.average, run.total_steps)
            loop.step(loss, network, optimizer, scaler, average=average, decay=decay)
            run.step(loss=loss)
        run.begin_evaluation()
        lr = optimizer.param_groups[-1]["lr"]  # the last group is not part of the backbone
        if plateau and recipe.lr:  # without steps there is no loss
            plateau.step(run.mean("loss"))
        if recipe.statistics:
            loop.measure_statistics(
                average, inputs_of, len(pairs), recipe, device, run.seed, run.epoch
            )
        score, ious = evaluate(average, val_pairs, recipe, device)
        names = data.CLASSES[: data.UNKNOWN]
        per_class = {
            f"iou_{name}": iou for name, iou in zip(names, ious, strict=True) if not math.isnan(iou)
        }
        run.end_epoch(average.state_dict(), lr=lr, mean_iou=score, **per_class)


def check(args: argparse.Namespace, recipe: Recipe, pairs: Tensor) -> None:
    """Raise InputError if the recipe cannot train on ``pairs``, (N, 4, H, W) uint8."""
    if args.model != "A":  # DeepLabv3 and DeepLabv3+ have a BatchNorm after their global pooling
        processes.check_batch(len(pairs), recipe.batch_size)
    if recipe.crop_area[1] and not recipe.crop:
        raise InputError("with crop=0, images are not cropped: add --set crop_area=0,0")
    is_cropped = recipe.crop and not recipe.crop_area[1]  # before it is turned
    if recipe.symmetry == "square" and not is_cropped and pairs.shape[2] != pairs.shape[3]:
        raise InputError(
            f"recipe {recipe.name} turns whole images, which must be square: add "
            "--set symmetry=flip"
        )
    if is_cropped and recipe.crop > min(pairs.shape[2:]):
        size = "x".join(map(str, pairs.shape[:1:-1]))
        raise InputError(
            f"recipe {recipe.name} crops {recipe.crop}x{recipe.crop} pixels, but the images in "
            f"{args.data} are {size}; add --set crop={min(pairs.shape[2:])}"
        )


def class_weights(pairs: Tensor, recipe: Recipe) -> Tensor:
    """The weight of a pixel in the loss, for each class: (7,) float32; 0: the pixel is ignored.

    The share of a class among the pixels of ``pairs``, (N, 4, H, W) uint8, to the power of
    -``recipe.balance``, scaled so that a pixel counts 1 on average. With 0, every pixel counts the
    same; with 1, every class that occurs has the same total weight, however rare it is.
    """
    counts = data.count_pixels(pairs) if recipe.balance else torch.ones(len(data.CLASSES))
    if recipe.ignore_unknown:
        counts[data.UNKNOWN] = 0
    shares = counts.float() / counts.sum().clamp(min=1)
    weights = torch.where(shares > 0, shares**-recipe.balance, 0)
    return weights / (shares * weights).sum().clamp(min=1e-9)


def cross_entropy(out: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the cross entropy over all pixels; 0 if none counts.

    ``out``: logits (N, classes, H, W). ``truth``: (N, H, W) int64. ``weights``: see
    ``class_weights``. The processes' shares of a batch differ in total weight, so the mean of their
    means would be wrong. Instead each one scales its sum so that the mean over the processes is the
    mean over the whole batch.
    """
    weight = processes.total(weights[truth].sum()).clamp(min=1e-9)
    return (
        nn.functional.cross_entropy(out, truth, weights, reduction="sum")
        * processes.world_size()
        / weight
    )


def soft_jaccard(out: Tensor, truth: Tensor) -> Tensor:
    """1 - the mean IoU of the softmax probabilities, over the classes that occur.

    Rahman & Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks", section 3.
    The sums run over all pixels of the batch together. Pixels of the class unknown do not count.
    NOTE: with several processes, each one takes its own share of the batch.
    ``out``: logits (N, classes, H, W). ``truth``: (N, H, W) int64. Returns a scalar.
    """
    probabilities = out.softmax(1)[:, : data.UNKNOWN] * (truth != data.UNKNOWN)[:, None]
    is_class = nn.functional.one_hot(truth, len(data.CLASSES)).movedim(-1, 1)[:, : data.UNKNOWN]
    both = (probabilities * is_class).sum((0, 2, 3))
    of_class = is_class.sum((0, 2, 3))
    ious = both / (probabilities.sum((0, 2, 3)) + of_class - both).clamp(min=1)
    occurs = of_class > 0
    return 1 - (ious * occurs).sum() / occurs.sum().clamp(min=1)


def augmented(pairs: Tensor, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 4, H, W) uint8 -> augmented inputs (N, 3, h, w) float32 and classes (N, h, w) int64."""
    if recipe.crop and not recipe.crop_area[1]:
        pairs = augment.random_crop(pairs, recipe.crop, rng)
    pairs = (
        augment.random_symmetry(pairs, rng)
        if recipe.symmetry == "square"
        else augment.random_flip(pairs, rng)
    )
    images, truth = data.split(pairs)
    images = augment.to_float(images)
    if recipe.crop_area[1]:
        box = augment.random_box(images, rng, recipe.crop_area)
        images = augment.resized_crop(images, *box, recipe.crop)
        truth = augment.resized_crop_nearest(truth[:, None], *box, recipe.crop)[:, 0]
    if any(recipe.jitter):
        images = augment.random_jitter(images, recipe.jitter, rng)
    return augment.normalise(images, recipe.mean, recipe.std), truth


@torch.no_grad()
def evaluate(
    network: nn.Module, pairs: Tensor, recipe: Recipe, device: torch.device
) -> tuple[float, list[float]]:
    """Mean IoU, and the IoU of each class but unknown, over pairs (N, 4, H, W) uint8."""
    network.eval()
    counts = torch.zeros(len(data.CLASSES), len(data.CLASSES), dtype=torch.int64)
    for batch in progress.over(processes.local_share(pairs.split(4)), "validation"):
        images, truth = data.split(batch.to(device))
        with devices.autocast(device, recipe.bf16):
            inputs = augment.normalise(augment.to_float(images), recipe.mean, recipe.std)
            out = logits(network, inputs, recipe.flip_test, recipe.test_scales, recipe.rotate_test)
            predicted = out.argmax(1)
        counts += data.confusion(truth, predicted).cpu()
    return data.mean_iou(processes.total(counts))


def show(args: argparse.Namespace, recipe: Recipe, pairs: Tensor) -> None:
    """Write ``--preview``'s picture of pairs (N, 4, H, W) uint8: each image above its mask."""
    index, keys = loop.first_batch(len(pairs), recipe.batch_size, args.seed)
    images, truth = augmented(pairs[index], recipe, generator(*keys))
    masks = torch.from_numpy(data.colours_of(truth.numpy())).permute(0, 3, 1, 2)
    shown = preview.pictures(images, recipe.mean, recipe.std)
    preview.write(args, torch.cat([shown, masks], 2))


if __name__ == "__main__":
    processes.entry(main)
