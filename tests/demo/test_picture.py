from demo import picture
from report import charts
from report.overview import ROWS


def test_the_readmes_picture_has_scenes_masks_and_every_row():
    drawn = picture.picture(picture.ROOT / "results")
    light, dark = (charts.standalone(drawn, dark=dark) for dark in (False, True))
    assert light.count("<image") == 2 * len(picture.SCENES)
    for what in ROWS.values():
        assert what in light
    assert light != dark and charts.DARK["--ink"] in dark
    pixels, mask = picture.pairs()[:2]
    assert pixels.shape == mask.shape == (picture.SIDE, picture.SIDE, 3)
    assert set(mask.reshape(-1, 3).max(1)) <= {0, 255}
