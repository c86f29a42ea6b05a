"""The report: each number stands in a log, what is missing is said, a browser shows it."""

import importlib
import json
import re
import shlex
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import ROOT, write_run
from pages import cells, flat, paragraphs, recorded, table

from core.cli import entry
from demo.draw import Parameters, draw_all
from p1 import train as p1
from p3 import train as p3
from report import __main__ as report
from report import html, original, overview
from report import runs as runlog
from report.measures import Measures, Site
from report.page import Drawing, Gap, Layers, Points, Table

TINY = Parameters(
    p1_train=2, p1_val=2, p2_unlabelled=2, p2_train=1, p2_val=1, p3_train=4, p3_val=3, size=64
)
NUMBER = re.compile(r"\d[\d,]*\.\d+")
ORIGINAL = {  # figures of the original report and of others, which have no log here
    *(f"{score.value:.4f}" for score in original.SCORES.values()),
    *map(str, (*original.MASK_STAGES, *original.PUBLISHED.values())),
}
ORIGINAL |= {  # differences of problem 2's, in points
    f"{100 * abs(original.SCORES[one].value - original.SCORES[other].value):.1f}"
    for one in original.SCORES
    for other in original.SCORES
    if one[:2] == other[:2] == "p2"
}
NAMES = {"1.4"}  # of MobileNetV2 x1.4


def run(main, *arguments):
    """The exit status of a program's ``main``."""
    before = sys.argv
    sys.argv = ["program", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            entry(main)
    finally:
        sys.argv = before
    return stop.value.code or 0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(runs, drawn data, output) of a report on two tiny trainings and committed logs."""
    folder = tmp_path_factory.mktemp("report")
    data, runs, out = folder / "data", folder / "runs", folder / "out"
    draw_all(data, TINY)
    shared = ("--epochs", "3", "--device", "cpu")
    assert (
        run(
            p1.main,
            "--data",
            data / "p1_data",
            "--batch-size",
            "50",
            "--run",
            runs / "p1_A_hour",
            "--recipe",
            "hour",
            *shared,
        )
        == 0
    )
    assert (
        run(
            p3.main,
            "--data",
            data / "p3_data",
            "--batch-size",
            "4",
            "--run",
            runs / "p3_B_report",
            *shared,
        )
        == 0
    )
    for logs in (ROOT / "results").glob("p2_*"):
        shutil.copytree(logs, runs / logs.name)
    images = [
        path.name.split("_")[0] for path in sorted((data / "p3_data/validation").glob("*_sat.jpg"))
    ][:2]
    flags = (runs, "--out", out, "--data", data, "--device", "cpu", "--images", *images)
    assert run(report.main, *flags) == 0
    return runs, data, out, images


class Reader(HTMLParser):
    """A page's figures with their numbers, and the text outside of numbers, code and drawings."""

    SILENT = ("data", "code", "svg", "style", "script")

    def __init__(self, text):
        super().__init__()
        self.open, self.values, self.figures, self.loose, self.sources = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [
            attributes[name] for name in ("src", "href", "xlink:href") if name in attributes
        ]
        if tag == "figure":
            self.figures.append({"values": [], "text": ""})
        if tag == "data":
            self.values.append([attributes["data-from"], float(attributes["value"]), ""])
            if "figure" in self.open:
                self.figures[-1]["values"].append(self.values[-1])
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, text):
        if "data" in self.open:
            self.values[-1][2] += text
        elif not any(tag in self.SILENT for tag in self.open):
            self.loose.append(text)
        if "figure" in self.open and "svg" not in self.open:
            self.figures[-1]["text"] += text


@pytest.fixture(scope="module")
def page(built):
    return Reader((built[2] / "report.html").read_text())


def test_every_number_stands_in_a_log_or_among_the_measures(built, page):
    runs, _, out, _ = built
    assert len(page.values) > 50
    for source, value, text in page.values:
        assert recorded(source, runs, out) == pytest.approx(value, nan_ok=True), source
        shown = float(re.sub(r"[,+%\s]", "", text).replace("\N{MINUS SIGN}", "-"))
        digits = len(text.rstrip("% ").partition(".")[2])
        assert min(abs(shown - value), abs(shown - 100 * value)) <= 0.5000001 * 10**-digits, (
            text,
            source,
        )


def test_no_fraction_stands_in_the_text_untraced(built, page):
    recorded = " ".join(path.read_text() for path in built[0].glob("*/run.json"))
    for text in page.loose:
        for number in NUMBER.findall(text):
            assert number in ORIGINAL | NAMES or number in recorded, f"{number} in {text!r}"


def test_a_figure_names_the_runs_that_its_numbers_come_from(page):
    assert len(page.figures) > 10
    for figure in page.figures:
        for source, _, _ in figure["values"]:
            if source.split("#")[0].endswith("log.jsonl"):
                assert source.split("/")[0] in figure["text"], (source, figure["text"][:200])


def test_every_curve_is_a_column_of_a_log(built):
    runs, data, out, images = built
    site = Site(
        runlog.read_all(runs),
        data,
        tuple(images),
        Measures(out),
        report.devices.choose("cpu"),
    )
    curves = 0
    for block in flat(report.build(site)):
        if not isinstance(block, Drawing) or not block.runs:
            continue
        logged = {value for run in block.runs for line in run.history for value in line.values()}
        for axes in block.figure.axes:
            for line in axes.get_lines():
                drawn = np.asarray(line.get_ydata(), dtype=float)
                if len(drawn) > 2:
                    curves += 1
                    assert set(drawn) <= logged, block.alt
    assert curves >= 4


def test_every_figure_says_what_it_shows_and_every_run_how_it_was_made(built, page):
    text = (built[2] / "report.html").read_text()
    assert 'alt=""' not in re.sub(r"<img hidden[^>]*>", "", text) and 'aria-label=""' not in text
    for path in built[0].glob("*/run.json"):
        about = json.loads(path.read_text())
        assert html.escape(about["command"]) in text and about["commit"] in text


def test_the_page_needs_no_other_file(page):
    assert page.sources
    assert all(source.startswith(("#", "data:")) for source in page.sources)


def test_markdown_has_the_same_numbers_and_all_its_figures(built, page):
    out = built[2]
    text = (out / "report.md").read_text()
    named = re.findall(r"\]\(([^)]+)\)", text)
    assert named and {out / name for name in named} == set((out / "figures").iterdir())
    plain = text.replace("\\", "")
    assert all(shown.strip() in plain for _, _, shown in page.values)


def test_a_second_time_measures_nothing_again(built, capfd):
    runs, data, out, images = built
    before = (out / "report.html").read_text()
    mine = [
        out / "figures" / "holiday.png",
        out / "arrays" / "mine.npz",
    ]  # somebody's own files stay
    for path in mine:
        path.write_bytes(b"mine")
    (out / "figures" / "99.png").write_bytes(b"of an older, longer report")
    flags = (runs, "--out", out, "--data", data, "--device", "cpu", "--images", *images)
    assert run(report.main, *flags) == 0
    assert "measured" not in capfd.readouterr().out
    assert (out / "report.html").read_text() == before
    assert (
        all(path.read_bytes() == b"mine" for path in mine)
        and not (out / "figures" / "99.png").exists()
    )
    for path in mine:
        path.unlink()


def test_logs_alone_make_a_report_with_stated_gaps(tmp_path):
    blocks = list(
        flat(
            report.build(
                Site(
                    runlog.read_all(ROOT / "results"),
                    tmp_path / "no data",
                    ("0013",),
                    Measures(tmp_path),
                    report.devices.choose("cpu"),
                )
            )
        )
    )
    gaps = [block for block in blocks if isinstance(block, Gap)]
    assert len(gaps) >= 3 and all(re.match(r"(python3|bash) ", gap.command) for gap in gaps)
    assert not [block for block in blocks if isinstance(block, Points | Layers)]
    assert [block for block in blocks if isinstance(block, Table)]


def test_the_committed_runs_make_a_page_without_weights_or_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "results", "results")
    assert run(report.main, "results", "--data", "none", "--device", "cpu") == 0
    page = (tmp_path / "runs" / "report_results" / "report.html").read_text()
    opening = page[page.index("At a glance") : page.index("<table")]
    for what in (*overview.ROWS.values(), "best published", "original report", "here"):
        assert html.escape(what) in opening  # the chart of all scores comes first
    assert "0.7220" in page and "Missing:" in page


def glance(runs, out):
    """The first table's rows, by what they are, and the text below it."""
    site = Site(runlog.read_all(runs), out, (), Measures(out), report.devices.choose("cpu"))
    blocks = overview.opening(site)
    return cells(table(blocks)), "".join(paragraphs(blocks))


def test_no_run_is_a_row_with_a_command_that_makes_it_when_typed(tmp_path, monkeypatch):
    rows, rules = glance(tmp_path, tmp_path)
    assert len(rows) == 11 and not rules
    for figure, _, _, commands in rows.values():
        assert figure == "not run yet"
        made = set()
        for command in commands.split(" && "):
            python, _, module, *flags = shlex.split(command)
            monkeypatch.setattr(sys, "argv", [module, *flags])
            args, recipe = importlib.import_module(module).arguments()
            needed = getattr(args, "pretrained", None) or getattr(args, "backbone", None)
            assert python == "python3" and (needed in (None, "imagenet") or str(needed) in made)
            name = {
                "p1.pretrain": "p1_pretrain",
                "p2.supervise": "p2_supervised",
                "p3.pretrain": "p3_pretrain_B",
            }.get(module, "p2_byol")
            made = {f"runs/{name}_{recipe.name}/last.pt"}
        if module == "p2.train":
            assert (needed is None) == (args.setting == "A")


def test_the_first_table_marks_what_is_contaminated_or_unfinished_and_says_how_it_chose(tmp_path):
    def run_of(name, accuracy, pretrained, epochs):
        fields = {"recipe": {"epochs": epochs}, "data": {"pretrained": pretrained}}
        write_run(tmp_path / name, [{"accuracy": accuracy}], **fields)

    model = overview.ROWS["p1_B"]
    run_of("p1_B_report", 0.9, "cifar100_x.pt", epochs=3)
    rows, rules = glance(tmp_path, tmp_path)
    assert rows[model][0] == "accuracy 0.9000, contaminated, unfinished: epoch 1 of 3" and not rules
    run_of("p1_B_long", 0.7, "mine.pt", epochs=3)
    assert glance(tmp_path, tmp_path)[0][model][0] == "accuracy 0.7000, unfinished: epoch 1 of 3"
    run_of("p1_B_hour", 0.6, "mine.pt", epochs=1)
    rows, rules = glance(tmp_path, tmp_path)
    assert rows[model][0] == "accuracy 0.6000" and rules.endswith(
        "slightly optimistic. Chosen here: p1_B_hour."
    )


def test_nothing_to_report_on_is_one_line(tmp_path, capfd):
    assert run(report.main, tmp_path, "--out", tmp_path / "out") == 2
    assert run(report.main, tmp_path / "none", "--out", tmp_path / "out") == 2
    errors = capfd.readouterr().err.splitlines()
    assert (
        len(errors) == 2
        and "no run with a finished epoch" in errors[0]
        and "no folder" in errors[1]
    )
    assert not (tmp_path / "out").exists()


# --- in a browser ---

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
browser_test = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def opened(browser, out, **options):
    """(the page, its complaints) opened from the disk without a network."""
    context = browser.new_context(offline=True, **options)
    tab = context.new_page()
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:")) or complaints.append(request.url)
        ),
    )
    tab.goto((out / "report.html").resolve().as_uri())
    return tab, complaints


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_complaint_and_fits_the_screen(built, browser, width, scheme):
    tab, complaints = opened(
        browser, built[2], viewport={"width": width, "height": 844}, color_scheme=scheme
    )
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", colour)[0]) < 128) == (scheme == "dark")
    tab.click("#theme")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != colour
    assert not complaints
    tab.context.close()


@browser_test
def test_a_point_shows_its_image_and_label_under_pointer_and_keys(built, browser):
    tab, complaints = opened(browser, built[2], viewport={"width": 1280, "height": 844})
    box = tab.locator(".points").first
    tip, canvas = box.locator(".tip"), box.locator("> canvas")
    data = json.loads(tab.locator(f"#{box.get_attribute('data-points')}").text_content())
    canvas.scroll_into_view_if_needed()
    assert tip.is_hidden()
    frame, k = (
        canvas.bounding_box(),
        int(np.argmax(data["x"])),
    )  # the rightmost point: nothing lies nearer to itself
    place = [
        frame[side] / 840 * (16 + data[axis][k] / 10000 * 808)
        for side, axis in (("width", "x"), ("height", "y"))
    ]
    tab.mouse.move(frame["x"] + place[0], frame["y"] + place[1])
    assert tip.is_visible() and tip.inner_text().strip() == data["classes"][data["labels"][k]]
    drawn = tip.locator("canvas").evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    assert len(set(drawn)) > 10  # an image, not a blank
    tab.mouse.move(frame["x"] - 40, frame["y"])
    assert tip.is_hidden()
    canvas.focus()
    tab.keyboard.press("ArrowRight")
    assert tip.is_visible() and tip.inner_text().strip() == data["classes"][data["labels"][0]]
    tab.keyboard.press("Escape")
    assert tip.is_hidden() and not complaints
    tab.context.close()


@browser_test
def test_the_slider_uncovers_one_layer_after_another(built, browser):
    tab, complaints = opened(browser, built[2], viewport={"width": 390, "height": 844})
    figure = tab.locator(".layers").first
    slider, steps = figure.locator("input"), figure.locator("button")
    count = steps.count()
    assert count >= 4

    def covered():  # how much of each layer's width is to be seen over the one before it
        clips = figure.locator("img").evaluate_all("all => all.map(one => one.style.clipPath)")
        return [100 - float(re.search(r"inset\(0(?:px|%)? ([\d.]+)", clip)[1]) for clip in clips]

    assert covered() == [100, *[0] * (count - 1)]
    slider.evaluate("s => { s.value = 1.5; s.dispatchEvent(new Event('input')); }")
    assert covered() == [100, 100, 50, *[0] * (count - 3)]
    steps.nth(count - 1).click()
    assert covered() == [100] * count and float(slider.input_value()) == count - 1
    assert steps.nth(count - 1).get_attribute("aria-pressed") == "true"
    slider.focus()
    tab.keyboard.press("Home")
    assert covered() == [100, *[0] * (count - 1)] and not complaints
    tab.context.close()
