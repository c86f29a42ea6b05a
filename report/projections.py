"""The network's features in two dimensions, by PCA and by t-SNE, and how far apart the classes
are in such a picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from prediction.tables import wilson

NEIGHBOURS = 10
PERPLEXITY = 30.0
SEED = 0


@dataclasses.dataclass(frozen=True)
class Projection:
    """``xy``:

    (N, 2) float32. ``numbers``: what the method says of itself, and how separated the classes are
    in ``xy``.
    """

    xy: np.ndarray
    numbers: dict[str, float]


def pca(features: np.ndarray, labels: np.ndarray) -> Projection:
    """The two directions of the largest variance of ``features`` (N, D); explained 1, 2: their
    shares of all variance.
    """
    method = PCA(2, svd_solver="arpack", random_state=SEED)
    xy = method.fit_transform(features.astype(np.float64))
    explained = {
        f"explained {k + 1}": share for k, share in enumerate(method.explained_variance_ratio_)
    }
    return Projection(xy.astype(np.float32), explained | separation(xy, labels))


def tsne(features: np.ndarray, labels: np.ndarray) -> Projection:
    """van der Maaten and Hinton 2008, "Visualizing Data using t-SNE", started from PCA's
    picture.

    divergence: what it makes small, the Kullback-Leibler divergence of the picture's neighbourhoods
    from those of ``features`` (N, D). The perplexity is ``PERPLEXITY``, or a third of the images
    where there are few.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    method = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=SEED)
    with threadpool_limits(
        1
    ):  # threads add up in any order, and t-SNE makes another picture of another rounding
        xy = method.fit_transform(features)
    numbers = {"perplexity": perplexity, "seed": SEED, "divergence": method.kl_divergence_}
    return Projection(xy.astype(np.float32), numbers | separation(xy, labels))


def separation(points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """neighbours: see ``neighbour_accuracy``; silhouette: -1 (classes mixed) to 1 (far apart),
    Rousseeuw 1987, section 2.
    """
    return {
        "neighbours": neighbour_accuracy(points, labels),
        "silhouette": silhouette_score(points, labels),
    }


def neighbour_accuracy(
    points: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS
) -> float:
    """Share of the ``points`` (N, D) whose label most of their nearest others have, by Euclidean
    distance.

    Of labels with as many votes the one with the nearest voter counts. ``labels``: (N,) int.
    """
    neighbours = min(neighbours, len(points) - 1)
    nearest = (
        NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)
    )  # leaves out itself
    voters = labels[nearest]
    votes = (voters[:, :, None] == voters[:, None, :]).sum(2)
    chosen = np.take_along_axis(voters, votes.argmax(1)[:, None], 1)[:, 0]
    return float((chosen == labels).mean())


def finding(pca: list[float], tsne: list[float], full: list[float], count: int) -> dict[str, float]:
    """How far figures of ``neighbour_accuracy``, a stage of training each, bear out the original
    report's finding.

    It says that PCA separates little at any stage and t-SNE more and more. little: at how many
    ``stages`` PCA's picture has less than half of what the ``full`` features have; rises: at how
    many of ``steps`` between stages t-SNE's picture gains more than chance; ahead: at how many
    stages it is ahead of PCA's by more than chance. More than chance: the 95 % intervals (Wilson),
    of ``count`` images, do not overlap.
    """

    def clearly_above(high: float, low: float) -> bool:
        return wilson(high * count, count)[0] > wilson(low * count, count)[1]

    return {
        "stages": len(full),
        "little": sum(
            in_picture < in_full / 2 for in_picture, in_full in zip(pca, full, strict=True)
        ),
        "steps": len(tsne) - 1,
        "rises": sum(
            clearly_above(later, earlier) for earlier, later in zip(tsne, tsne[1:], strict=False)
        ),
        "ahead": sum(
            clearly_above(by_tsne, by_pca) for by_pca, by_tsne in zip(pca, tsne, strict=True)
        ),
    }


def palette(count: int) -> list[str]:
    """``count`` colours ``#rrggbb``, each as far as can be from those before it, visible on
    white and on near-black.

    Distances are of OKLab (Ottosson 2020, "A perceptual color space for image processing"), in
    which they are as large as they look.
    """
    levels = np.linspace(0, 1, 18)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = oklab(rgb)
    fit = (lab[:, 0] > 0.42) & (lab[:, 0] < 0.86)
    rgb, lab = rgb[fit], lab[fit]
    chosen = [int(np.hypot(lab[:, 1], lab[:, 2]).argmax())]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return ["#" + "".join(f"{round(255 * value):02x}" for value in rgb[k]) for k in chosen]


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 to OKLab's lightness, green-red and blue-yellow, both (..., 3);

    Ottosson 2020, the matrices for sRGB.
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ cones.T) @ axes.T
