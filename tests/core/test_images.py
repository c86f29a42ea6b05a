"""Images of every mode become (H, W, 3) uint8, and data sets one tensor."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from core import images
from core.cli import InputError
from core.images import BadImage, load, read_rgb, read_square

HEIGHT, WIDTH = 5, 7


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def png_of_16_bits(path, pixels):
    """Write (H, W, C) uint16 as a png, which Pillow cannot: grey, LA, RGB or RGBA."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- one image ---


def three(pixels):
    """(H, W) or (H, W, 2 or more) as RGB: grey in three channels, transparency dropped."""
    pixels = np.atleast_3d(pixels)
    return np.repeat(pixels[..., :1], 3, 2) if pixels.shape[2] < 3 else pixels[..., :3]


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        ("RGB", noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH, 3)),
        ("L", noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH)),
        ("1", noise(HEIGHT, WIDTH) > 127, (noise(HEIGHT, WIDTH) > 127) * np.uint8(255)),
        ("LA", noise(HEIGHT, WIDTH, 2), noise(HEIGHT, WIDTH, 2)),
        ("RGBA", noise(HEIGHT, WIDTH, 4) & 1, noise(HEIGHT, WIDTH, 4) & 1),
    ],
)
def test_every_mode_becomes_rgb_bytes(tmp_path, mode, pixels, expected):
    path = save(tmp_path / "a.png", pixels)
    assert Image.open(path).mode == mode
    read = read_rgb(path)
    assert read.dtype == np.uint8 and read.flags.writeable and np.array_equal(read, three(expected))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("options", [{}, *({"transparency": t} for t in (1, bytes([0, 128, 255])))])
def test_a_palette_is_looked_up_with_and_without_transparency(tmp_path, options):
    palette, pixels = noise(3, 3), noise(HEIGHT, WIDTH) % 3
    image = Image.frombytes("P", (WIDTH, HEIGHT), pixels.tobytes())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "palette.png", **options)
    assert Image.open(tmp_path / "palette.png").mode == "P"
    assert np.array_equal(read_rgb(tmp_path / "palette.png"), palette[pixels])


@pytest.mark.parametrize("rows", [1, 4, HEIGHT])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_become_the_upper_eight_some_rows_at_a_time(
    tmp_path, monkeypatch, channels, rows
):
    monkeypatch.setattr(images, "AT_ONCE", rows * WIDTH)
    pixels = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    pixels[0, :4, 0] = 0, 255, 256, 65535
    read = read_rgb(png_of_16_bits(tmp_path / "deep.png", pixels))
    assert read.dtype == np.uint8 and np.array_equal(read, three((pixels >> 8).astype(np.uint8)))


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_cmyk_becomes_rgb(tmp_path, ink, colour):
    path = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (WIDTH, HEIGHT), ink).save(path, quality=100)
    assert Image.open(path).mode == "CMYK"
    read = read_rgb(path)
    assert read.shape == (HEIGHT, WIDTH, 3) and np.abs(read - np.array(colour)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_a_bad_image_by_name(tmp_path, suffix, share):
    path = save(tmp_path / f"cut.{suffix}", noise(64, 64, 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    why = "cannot be read as an image" + (" .the file is empty" if share == 0 else "")
    with pytest.raises(BadImage, match=f"^{path}: {why}"):
        read_rgb(path)


def test_what_is_no_image_is_a_bad_image_by_name(tmp_path):
    (tmp_path / "text.png").write_text("this is no image\n" * 20)
    (tmp_path / "folder.png").mkdir()
    for name, why in [
        ("none.png", "no such file"),
        ("text.png", "cannot identify"),
        ("folder.png", "cannot be read"),
        ("x" * 256, "cannot be read as an image .File name too long.$"),
    ]:
        with pytest.raises(BadImage, match=f"^{tmp_path}/{name}: .*{why}"):
            read_rgb(tmp_path / name)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 90), (20, 10), (31, 33)])
def test_read_square_equals_torchvisions_resize(tmp_path, height, width):
    path = save(tmp_path / "a.png", noise(height, width, 3))
    theirs = np.array(transforms.Resize((32, 32))(Image.open(path).convert("RGB")))
    ours = read_square(path, 32)
    assert np.array_equal(ours, theirs) and ours.flags.writeable


# --- a data set ---


def folder_of(tmp_path, shapes):
    return [save(tmp_path / f"{i}.png", noise(*shape, 3, seed=i)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("channels", [3, 4])
def test_load_gives_all_images_in_order_in_channels_last_bytes(tmp_path, channels):
    def decode(path):
        return np.dstack([read_rgb(path), np.zeros((6, 9, channels - 3), np.uint8)])

    loaded = load(folder_of(tmp_path, [(6, 9)] * 40), decode)
    assert loaded.shape == (40, channels, 6, 9) and loaded.dtype == torch.uint8
    assert loaded.is_contiguous(memory_format=torch.channels_last)
    for i, image in enumerate(loaded):
        assert torch.equal(image[:3], torch.from_numpy(noise(6, 9, 3, seed=i)).permute(2, 0, 1))


def test_load_names_the_first_image_of_another_size(tmp_path):
    paths = folder_of(tmp_path, [(6, 9), (6, 9), (9, 6), (5, 5)])
    with pytest.raises(InputError, match=r"2\.png is 6x9, but .*0\.png is 9x6"):
        load(paths, read_rgb)


@pytest.mark.parametrize("which", [0, 2])
def test_load_names_the_image_that_cannot_be_read(tmp_path, which):
    paths = folder_of(tmp_path, [(6, 9)] * 4)
    paths[which].write_bytes(b"")
    says = rf"{which}\.png: .*the file is empty.*; every image of a training set"
    with pytest.raises(InputError, match=says):
        load(paths, read_rgb)


# --- hostile files, and writing ---


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "EPS", "WEBP"])
def test_a_format_that_is_not_promised_is_a_bad_image(tmp_path, kind):
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(BadImage, match="cannot identify"):
        read_rgb(tmp_path / "a.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", noise(10, 10, 3))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_rgb(path).shape == (10, 10, 3) and images.size_in_header(path) == (10, 10)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(BadImage, match="10 x 10 pixels; at most 99"):
        read_rgb(path)
    assert images.size_in_header(path) is None


def test_images_of_any_size_that_the_course_may_have_are_allowed():
    assert images.MAX_PIXELS >= 14_000**2 and Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("at_once", [1, 100, 2**20])
def test_a_png_is_what_pillow_reads_from_it(tmp_path, monkeypatch, channels, at_once):
    monkeypatch.setattr(images, "AT_ONCE", at_once)
    indices, colours = noise(33, 21) % 5, noise(5, channels, seed=1)
    with (tmp_path / "a.png").open("wb") as file:
        images.write_png(file, indices, colours)
    image = Image.open(tmp_path / "a.png")
    assert image.mode == ("L" if channels == 1 else "RGB")
    assert np.array_equal(np.asarray(image), np.squeeze(colours[indices]))


def test_files_are_found_by_folder_name_and_pattern(tmp_path):
    for name in ("10.png", "9.png", "a.jpg", "b.txt"):
        (tmp_path / name).touch()
    found = images.find([tmp_path / "a.jpg", tmp_path, tmp_path / "*.png"])
    assert [path.name for path in found] == ["a.jpg", "9.png", "10.png"]
    wrong = {"*.gif": "no image", "b.txt": "is neither", "c": "no folder", "d.png": "no file"}
    for source, said in wrong.items():
        with pytest.raises(InputError, match=said):
            images.find([tmp_path / source])
