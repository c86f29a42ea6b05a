"""The look at the data: what is counted, what is found out, and with which status it ends."""

import shutil

from conftest import refused
from PIL import Image

import check_data


def rows(out):
    return {
        cells[0]: cells[1:]
        for line in out.splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }


def test_sound_data_are_counted(call, tiny):
    status, out, err = call(check_data.main, tiny)
    assert (status, err) == (0, "")
    table = rows(out)
    assert table["p1_data/train_50"] == ["50", "32x32", "50", "1 to 1", "0", "0"]
    assert table["office/val"][0] == "65" and table["office/val"][2:4] == ["65", "1 to 1"]
    assert table["mini/train"][2:4] == ["-", "-"]
    assert table["p3_data/train"][:2] == ["5", "64x64"]
    assert "p1_data/val_50: 0 of 50 images are also in p1_data/train_50" in out
    shares = next(line for line in out.splitlines() if line.startswith("p3_data/train: urban"))
    assert sum(float(part.split()[-1].rstrip("%")) for part in shares.split(",")) > 99


def test_what_is_double_unreadable_or_in_both_splits_is_named(call, tiny, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(tiny / "p1_data", folder / "p1_data")
    shutil.copytree(tiny / "p3_data", folder / "p3_data")
    train, val = folder / "p1_data/train_50", folder / "p1_data/val_50"
    first = sorted(train.iterdir())[0]
    shutil.copy(first, train / "0_copy.png")
    shutil.copy(first, val / "0_leaked.png")
    (train / "1_broken.png").write_bytes(b"no image")
    (train / "nolabel.png").write_bytes(first.read_bytes())
    mask = next((folder / "p3_data/train").glob("*_mask.png"))
    Image.new("RGB", (9, 9)).save(mask)
    status, out, _ = call(check_data.main, folder)
    assert status == 3
    table = rows(out)
    assert table["p1_data/train_50"][4:] == ["2", "2"] and table["p3_data/train"][5] == "1"
    assert "1_broken.png: cannot be read as an image" in out
    assert "nolabel.png: the file name must begin with a label" in out
    assert f"{mask.name} is 9x9" in out
    assert "1 of 51 images are also in p1_data/train_50: 0_leaked.png" in out


def test_an_image_with_another_mask_is_the_same_image(call, tiny, tmp_path):
    folder = tmp_path / "data" / "p3_data"
    shutil.copytree(tiny / "p3_data", folder)
    image = sorted((folder / "train").glob("*_sat.*"))[0]
    shutil.copy(image, folder / "validation" / f"9999_sat{image.suffix}")
    with Image.open(image) as picture:
        Image.new("RGB", picture.size).save(folder / "validation" / "9999_mask.png")
    _, out, _ = call(check_data.main, tmp_path / "data")
    assert f"images are also in p3_data/train: 9999_sat{image.suffix}" in out


def test_images_of_one_name_in_two_subfolders_keep_their_own_labels(call, tiny, tmp_path):
    folder = tmp_path / "data" / "p2_data" / "office"
    for place, image in zip("ab", (tiny / "p2_data/office/train").iterdir(), strict=False):
        (folder / "train" / place).mkdir(parents=True)
        shutil.copy(image, folder / "train" / place / "1.jpg")
    (folder / "train.csv").write_text("id,filename,label\n0,a/1.jpg,Couch\n1,b/1.jpg,Pen\n")
    assert rows(call(check_data.main, tmp_path / "data")[1])["office/train"][2:4] == ["2", "1 to 1"]


def test_labelled_images_without_their_csv_are_not_left_out(call, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "data")
    (folder / "p2_data/office/train.csv").unlink()
    refused(call(check_data.main, folder), "train.csv")


def test_a_folder_without_the_data_is_one_line(call, tmp_path):
    refused(call(check_data.main, tmp_path), "contains none of p1_data, p2_data, p3_data")
