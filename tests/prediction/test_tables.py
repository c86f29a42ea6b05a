"""Label files as strangers write them, and their scores."""

import os

import numpy as np
import pytest
from conftest import refused
from hypothesis import example, given
from hypothesis import strategies as st

from core.cli import InputError
from p1 import score as p1_score
from p2 import score as p2_score
from prediction.tables import locate, paired_bootstrap, read_rows, wilson, write_rows


def rows_of(tmp_path, content, columns=("id", "filename")):
    path = tmp_path / "images.csv"
    path.write_bytes(content)
    return read_rows(path, columns)


@pytest.mark.parametrize(
    "content",
    [
        b"id,filename,label\n0,a.jpg,None\n1,b.jpg,None\n",
        b"\xef\xbb\xbfid,filename,label\r\n0,a.jpg,\r\n1,b.jpg,\r\n",
        b"id, filename, label\n0, a.jpg, None\n1, b.jpg, None\n\n",
        b"id,filename\n0,a.jpg\n1,b.jpg",
        b"id,filename,label\n0,a.jpg\n1,b.jpg\n",
        b'filename,"id"\n"a.jpg",0\n"b.jpg",1\n',
    ],
)
def test_csv_files_of_all_manners_are_read(tmp_path, content):
    rows = rows_of(tmp_path, content)
    assert [(row["id"], row["filename"]) for row in rows] == [("0", "a.jpg"), ("1", "b.jpg")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"id,name\n0,a.jpg\n", "line 1: no column 'filename' (found: id, name)"),
        (b"id,filename,filename\n0,a.jpg,b.jpg\n", "more than one column 'filename'"),
        (b"id,filename\n", "has a header but no rows"),
        (b"id,filename\n0,a.jpg\n1\n", "line 3: 1 cells, but the header has 2"),
        (b"id,filename\n0,a.jpg,x\n", "line 2: 3 cells, but the header has 2"),
        (b"\xff\xfe\x00i\x00d", "is not UTF-8 text"),
        (b"id,filename,label\n0,a.jpg,None\n1,b.jpg,caf\xe9\n", "line 3 is not UTF-8 text"),
        (
            b'id,filename,label\n0,a.jpg,None\n1,"b.jpg,None\n2,c.jpg,None\n',
            "line 3 is not a csv row (unexpected end of data)",
        ),
        (b'id,filename,label\n0,"a.jpg,None\n1,"b.jpg",None\n', "line 2 is not a csv row"),
    ],
)
def test_what_cannot_be_read_is_named_by_line(tmp_path, content, says):
    with pytest.raises(InputError, match=r"images\.csv") as error:
        rows_of(tmp_path, content)
    assert says in str(error.value)


def test_a_name_that_no_file_can_have_is_missing_like_any_other(tmp_path):
    (tmp_path / "a.jpg").touch()
    rows = [{"filename": "a.jpg"}, {"filename": "b" * 300}]
    with pytest.raises(InputError, match=f"lists images that are not in .*: {'b' * 300}$"):
        locate(tmp_path / "images.csv", tmp_path, rows)
    assert locate(tmp_path / "images.csv", tmp_path, rows[:1]) == [tmp_path / "a.jpg"]


def test_an_image_named_twice_in_other_words_is_found(tmp_path):
    (tmp_path / "a.jpg").touch()
    rows = [{"filename": "a.jpg"}, {"filename": "./a.jpg"}]
    with pytest.raises(InputError, match=r"lists a\.jpg more than once"):
        locate(tmp_path / "images.csv", tmp_path, rows)


def test_a_missing_image_is_named_as_the_csv_names_it(tmp_path):
    rows = [{"filename": "deep/a.jpg"}, {"filename": ""}]
    with pytest.raises(InputError, match=r": deep/a\.jpg, an image without a name$"):
        locate(tmp_path / "images.csv", tmp_path, rows)


def test_a_file_name_keeps_its_bytes_that_are_not_utf_8(tmp_path, call):
    name, path = os.fsdecode(b"7_caf\xe9.png"), tmp_path / "out.csv"
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / name).touch()
    write_rows(path, ("filename", "label"), [(name, "7")])
    assert path.read_bytes() == b"filename,label\n7_caf\xe9.png,7\n"
    found = locate(path, tmp_path / "val", read_rows(path, ("filename", "label")))
    assert found == [tmp_path / "val" / name]
    assert call(p1_score.main, path, tmp_path / "val")[1].startswith("accuracy: 1.0000 (1 of 1;")


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(names=st.lists(NAME.filter(lambda name: name == name.strip()), min_size=1, max_size=9))
@example(names=["a\rb.png", "c\nd.png", "e\r\nf.png", '"', "=1+1", "#"])
def test_a_csv_gives_back_every_name_that_was_written_to_it(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.csv"
    write_rows(path, ("filename", "label"), [(name, "1") for name in names])
    assert [row["filename"] for row in read_rows(path, ("filename", "label"))] == names


def test_rows_are_written_to_the_byte(tmp_path):
    rows = [("0_450.png", "0"), ('odd, "name".png', "3")]
    write_rows(tmp_path / "out.csv", ("filename", "label"), rows)
    text = b'filename,label\n0_450.png,0\n"odd, ""name"".png",3\n'
    assert (tmp_path / "out.csv").read_bytes() == text


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(count - right, count) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_ends_are_where_the_observed_lies_just_in_the_95_percent(counts):
    right, count = counts
    for end in wilson(right, count):
        reach = 1.959964**2 * end * (1 - end) / count
        assert (right / count - end) ** 2 == pytest.approx(reach, abs=1e-9)


def answers(both, first, second, neither):
    """Two settings' answers, of which so many are right in both, in one, in neither."""
    return (
        np.repeat([True, True, False, False], [both, first, second, neither]),
        np.repeat([True, False, True, False], [both, first, second, neither]),
    )


def test_the_paired_bootstrap_is_that_of_resampled_images():
    first, second = answers(90, 60, 30, 244)
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(first), (20_000, len(first)))
    drawn = first[chosen].mean(1) - second[chosen].mean(1)
    difference, low, high = paired_bootstrap(first, second)
    assert difference == pytest.approx(first.mean() - second.mean())
    assert (low, high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.003)
    assert paired_bootstrap(first, second) == (difference, low, high)  # the seed is fixed
    assert paired_bootstrap(second, first)[0] == -difference


def test_the_paired_interval_knows_that_the_images_are_the_same():
    _, low, high = paired_bootstrap(*answers(200, 12, 0, 212))  # the second is never right alone
    assert low > 0
    apart = [wilson(right, 424) for right in (212, 200)]
    assert apart[0][0] < apart[1][1]  # though the two accuracies' own intervals overlap widely
    _, low, high = paired_bootstrap(*answers(100, 60, 56, 208))
    assert low < 0 < high
    assert paired_bootstrap(*answers(7, 0, 0, 3)) == (0.0, 0.0, 0.0)
    assert paired_bootstrap(*answers(0, 5, 0, 0)) == (1.0, 1.0, 1.0)


def test_the_paired_bootstrap_refuses_other_images():
    with pytest.raises(ValueError, match="not the same images"):
        paired_bootstrap(np.ones(3, bool), np.ones(4, bool))


def test_p1_score_reads_labels_from_a_csv_or_from_file_names(tmp_path, call):
    (tmp_path / "val").mkdir()
    for name in ("3_1.png", "10_2.png", "0_7.png"):
        (tmp_path / "val" / name).touch()
    (tmp_path / "out.csv").write_text("filename,label\n10_2.png,10\n0_7.png,1\n3_1.png,3\n")
    (tmp_path / "truth.csv").write_text("filename,label\n0_7.png,0\n3_1.png,3\n10_2.png,10\n")
    line = "accuracy: 0.6667 (2 of 3; 95 % interval 0.208 to 0.939)\n"
    for truth in ("val", "truth.csv"):
        assert call(p1_score.main, tmp_path / "out.csv", tmp_path / truth) == (0, line, "")


def test_p2_score_joins_on_the_name_and_refuses_missing_and_extra_rows(tmp_path, call):
    out, truth = tmp_path / "out.csv", tmp_path / "truth.csv"
    out.write_text("id,filename,label\n0,a.jpg,Couch\n1,b.jpg,Pen\n")
    truth.write_text("id,filename,label\n0,b.jpg,Pen\n1,a.jpg,Couch\n")
    line = "accuracy: 1.0000 (2 of 2; 95 % interval 0.342 to 1.000)\n"
    assert call(p2_score.main, out, truth) == (0, line, "")
    for labels, says in (
        ("0,b.jpg,Pen\n", "unexpected prediction for a.jpg; nothing was scored"),
        ("0,b.jpg,Pen\n1,c.jpg,Pen\n", "no prediction for c.jpg; unexpected prediction for a.jpg"),
        ("0,b.jpg,Pen\n1,b.jpg,Pen\n", "b.jpg more than once"),
    ):
        truth.write_text(f"id,filename,label\n{labels}")
        refused(call(p2_score.main, out, truth), says)
