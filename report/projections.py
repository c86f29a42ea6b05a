"""Features in two dimensions, by PCA and t-SNE, and how well such a picture separates classes."""

from __future__ import annotations

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


def pca(features: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Project ``features`` (N, D) onto the two directions of largest variance: (N, 2) float64.

    Also returns their shares of the total variance, ``explained 1`` and ``explained 2``.
    """
    method = PCA(2, svd_solver="arpack", random_state=SEED)
    xy = method.fit_transform(features.astype(np.float64))
    first, second = method.explained_variance_ratio_
    return xy, {"explained 1": first, "explained 2": second}


def tsne(features: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Project ``features`` (N, D) by t-SNE, which starts from PCA's projection: (N, 2) float32.

    van der Maaten and Hinton 2008, "Visualizing Data using t-SNE". Also returns the ``seed``, the
    ``perplexity``, which is ``PERPLEXITY``, or a third of the images if there are few, and the
    ``divergence``, which t-SNE minimises: the Kullback-Leibler divergence of the picture's
    neighbourhoods from those of ``features``.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    method = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=SEED)
    # Several threads add up in a random order, and t-SNE turns a different rounding into a
    # different picture.
    with threadpool_limits(1):
        xy = method.fit_transform(features)
    numbers = {"perplexity": perplexity, "seed": SEED, "divergence": method.kl_divergence_}
    return xy.astype(np.float32), numbers


def separation(points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measure how well the classes are separated.

    ``neighbours``: see ``neighbour_accuracy``. ``silhouette``: from -1 (classes are mixed) to 1
    (classes are far apart), Rousseeuw 1987, section 2.
    """
    return {
        "neighbours": neighbour_accuracy(points, labels),
        "silhouette": silhouette_score(points, labels),
    }


def neighbour_accuracy(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of ``points`` (N, D) that get their own label by a vote of their neighbours.

    These are the nearest other points by Euclidean distance. In a tie, the label with the nearest
    voter wins. ``labels``: (N,) int.
    """
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points) - 1)).fit(points)
    # Without an argument, kneighbors does not count a point among its own neighbours.
    nearest = search.kneighbors(return_distance=False)
    voters = labels[nearest]
    votes = (voters[:, :, None] == voters[:, None, :]).sum(2)
    chosen = np.take_along_axis(voters, votes.argmax(1)[:, None], 1)[:, 0]
    return float((chosen == labels).mean())


def finding(pca: list[float], tsne: list[float], full: list[float], count: int) -> dict[str, float]:
    """Check the original report's finding: PCA separates little, t-SNE more and more.

    ``pca``, ``tsne`` and ``full`` hold the ``neighbour_accuracy`` of the two pictures and of all
    features, one number for each of the ``stages`` of training. ``little``: the stages at which
    PCA has less than half the accuracy of all features. ``rises``: the ``steps`` between stages in
    which t-SNE gains more than chance. ``ahead``: the stages at which t-SNE is above PCA by more
    than chance. More than chance: the 95 % intervals (Wilson) of ``count`` images do not overlap.
    """

    def clearly_above(high: float, low: float) -> bool:
        return wilson(high * count, count)[0] > wilson(low * count, count)[1]

    return {
        "stages": len(full),
        "little": sum(ours < theirs / 2 for ours, theirs in zip(pca, full, strict=True)),
        "steps": len(tsne) - 1,
        "rises": sum(map(clearly_above, tsne[1:], tsne)),
        "ahead": sum(map(clearly_above, tsne, pca)),
    }


def palette(count: int) -> list[str]:
    """Choose ``count`` colours ``#rrggbb`` that are visible on white and on near-black.

    Each is as far as possible from those before it. Distances are measured in OKLab (Ottosson 2020,
    "A perceptual color space for image processing"), where they match what people see.
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
    """Convert sRGB in 0..1 to OKLab (lightness, green-red, blue-yellow), both (..., 3).

    The matrices are those for sRGB of Ottosson 2020.
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
