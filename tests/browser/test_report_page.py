"""The page of --report in a real browser: controls, keyboard, themes, widths, print, accessibility."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reports import EVIL, peak, row, written

from crackcam.classifier import Classifier
from crackcam.data import pixels
from crackcam.data.splits import plan_splits
from crackcam.models import checkpoint
from crackcam.models.pretrained import WeightsOrigin
from crackcam.runtime import Runtime
from crackcam.training import report_data
from crackcam.training.evaluate import evaluate_classes
from crackcam.training.history import Epoch
from crackcam.training.trainer import TrainResult


@pytest.fixture
def page_file(tmp_path):
    """Three images under two maps each: cat 0.9, cat 0.6, and a dog taken for a cat."""
    rows = [
        row(
            "sure.jpg",
            "cat",
            "cat",
            0.9,
            maps={"gradcam": {"max": 1.0, "width": 2.5}, "eigencam": {"max": 1.0, "width": 1}},
        ),
        row(
            "wrong.jpg",
            "cat",
            "dog",
            0.8,
            maps={"gradcam": {"max": 1.0, "width": 1.5}, "eigencam": {"max": 1.0, "width": 2}},
        ),
        row(
            "unsure10.jpg",
            "cat",
            "cat",
            0.6,
            maps={"gradcam": {"max": 1.0, "width": 3.5}, "eigencam": {"max": 1.0, "width": 3}},
        ),
    ]
    maps = {
        "gradcam": [peak(1, 1, 8), peak(2, 20, 8), peak(9, 3, 8)],
        "eigencam": [peak(9, 20, 8), peak(2, 2, 8), peak(9, 9, 8)],
    }
    mask = np.zeros((30, 40), bool)
    mask[5:20, 5:9] = True
    return written(tmp_path, rows, maps, masks=[mask] * 3)


def seen(page):
    """The first image, as it is painted."""
    image = Image.open(io.BytesIO(page.locator(".card .stage").first.screenshot())).convert("RGB")
    return np.asarray(image).astype(int)


def changed(before, after):
    return float(np.abs(before - after).mean())


def shown(page):
    return page.locator(".card:visible h3").all_text_contents()


def test_slider_and_switches(opened, page_file):
    page = opened(page_file, viewport={"width": 1200, "height": 2000})
    heat = page.locator(".card .heatmap").first
    slider = page.get_by_label("Opacity of the heatmap", exact=True)
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "0.75"
    before = seen(page)
    slider.focus()
    page.keyboard.press("Home")
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "0"
    assert page.locator("#controls output").text_content() == "0 %"
    assert changed(before, seen(page)) > 1
    slider.fill("75")
    assert changed(before, seen(page)) < 0.1
    visible = page.locator(".card .heatmap:visible")
    assert {i.get_attribute("data-method") for i in visible.all()} == {"gradcam"}
    page.get_by_role("radio", name="eigencam").check()
    assert {i.get_attribute("data-method") for i in visible.all()} == {"eigencam"}
    assert changed(before, seen(page)) > 1
    assert page.locator(".card .numbers:visible").all_text_contents() == ["width2", "width3", "width1"]
    assert page.locator(".legend:visible b").all_text_contents() == ["eigencam"]
    outlined = seen(page)
    page.get_by_label("Mask").uncheck()
    assert changed(outlined, seen(page)) > 0.3


def test_sorting_and_filters(opened, page_file):
    page = opened(page_file)
    assert shown(page) == ["wrong.jpg", "unsure10.jpg", "sure.jpg"]
    for order, names in {
        "most confident first": ["sure.jpg", "wrong.jpg", "unsure10.jpg"],
        "least confident first": ["unsure10.jpg", "wrong.jpg", "sure.jpg"],
        "file name": ["sure.jpg", "unsure10.jpg", "wrong.jpg"],
        "largest width": ["unsure10.jpg", "sure.jpg", "wrong.jpg"],
    }.items():
        page.get_by_label("Sort").select_option(order)
        assert shown(page) == names
    page.get_by_role("radio", name="eigencam").check()  # sorted by the widths that are shown
    assert shown(page) == ["unsure10.jpg", "wrong.jpg", "sure.jpg"]
    page.get_by_label("Result").select_option("incorrect")
    assert shown(page) == ["wrong.jpg"]
    assert page.locator("#count").text_content() == "1 shown"
    page.get_by_label("Result").select_option("correct")
    assert shown(page) == ["unsure10.jpg", "sure.jpg"]
    page.get_by_label("Class").select_option("dog")
    assert shown(page) == []
    assert page.locator("#none").is_visible()
    page.get_by_label("Result").select_option("all")
    assert shown(page) == ["wrong.jpg"]


def test_enlarged_by_keyboard(opened, page_file):
    from playwright.sync_api import expect

    page = opened(page_file)
    page.locator(".card .stage").first.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog")
    assert large.locator("h2").text_content() == "data/wrong.jpg"
    assert large.locator("figcaption").all_text_contents() == ["image", "gradcam", "eigencam"]
    assert large.locator(".heatmap:visible").count() == 2
    page.keyboard.press("ArrowRight")
    assert large.locator("h2").text_content() == "data/unsure10.jpg"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert large.locator("h2").text_content() == "data/sure.jpg"
    page.keyboard.press("Escape")
    assert not large.is_visible()
    # The browser tells of a closed dialog a little later.
    expect(page.locator(".card").nth(2).locator(".stage")).to_be_focused()


def test_markup_in_names_stays_text(opened, tmp_path):
    name = "<b>.jpg"
    rows = [row(name, EVIL, "cat", 0.9, maps={"gradcam": {"max": 1.0, EVIL: 1.0}})] * 2
    page = opened(written(tmp_path, rows, {"gradcam": [peak(0, 0)] * 2}))
    assert shown(page) == [name, name]
    page.get_by_label("Class").select_option(EVIL)
    assert page.locator(".card .verdict").first.text_content() == f"✗ cat, true class: {EVIL}"
    page.locator(".card .stage").first.click()
    assert page.get_by_role("dialog").locator("h2").text_content() == f"data/{name}"
    assert page.locator("script").count() == 2


def test_light_and_dark(opened, page_file):
    def ground(page):
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    dark, light = (opened(page_file, color_scheme=scheme) for scheme in ("dark", "light"))
    assert ground(dark) != ground(light)
    dark.get_by_role("button", name="Toggle theme").click()
    assert ground(dark) == ground(light)
    # Another process of Chromium keeps what the page stored, and learns of it a little later.
    for _ in range(10):
        dark.wait_for_timeout(500)
        dark.reload()
        if ground(dark) == ground(light):
            break
    assert ground(dark) == ground(light)  # kept


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_every_width_is_usable(opened, page_file, width):
    page = opened(page_file, viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card .stage").first.click()
    assert page.get_by_role("dialog").evaluate("d => d.scrollWidth <= d.clientWidth && d.offsetWidth <= innerWidth")


def test_print_shows_every_image_on_a4(opened, page_file, tmp_path):
    page = opened(page_file, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible()
    pdf = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert {tuple(round(float(side) / 72 * 25.4) for side in box) for box in boxes} == {(210, 297)}
    assert len(re.findall(rb"/Subtype /Image", pdf)) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barriers(opened, page_file, trained_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    for path in (page_file, trained_page):
        page = opened(path, color_scheme=scheme)
        for enlarged in (False, True):
            if enlarged:
                page.locator(".card .stage").first.click()
            found = Axe().run(page).response["violations"]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.fixture(scope="module")
def trained_page(trained, tmp_path_factory):
    """A report of a training that is not run again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.root)
        return report_of_training(tmp_path_factory.mktemp("report") / "training.html")


def report_of_training(page):
    path = Path("weights/model.safetensors")
    model, card = checkpoint.load(path, torch.device("cpu"))
    plan = plan_splits(Path("data"), 0.15, 0)
    splits = pixels.load_splits(plan, card.preprocessing, 2)
    classifier = Classifier.of(model, card, Runtime(), path)
    found = evaluate_classes(classifier, splits["test"], 8, 1.0)
    with Path("outputs/training.csv").open() as file:
        log = [{k: json.loads(v.lower()) if v else None for k, v in r.items()} for r in csv.DictReader(file)]
    result = TrainResult(
        history=[Epoch(**epoch) for epoch in log],
        metrics={**card.metrics, "test": found.metrics},
        split="test",
        confusion=found.confusion,
        reliability=found.reliability,
        report=found.text,
        probabilities=found.probabilities,
        checkpoint=path,
        exported=None,
        classifier=classifier,
        origin=WeightsOrigin("random", card.pretrained),
        splits=splits,
    )
    report_data.write(page, result)
    return page


def test_figures_of_a_training_are_seen(opened, trained_page):
    page = opened(trained_page)
    figures = page.get_by_role(
        "img", name=re.compile("epochs: validation ends|confusion matrix|accuracy by confidence")
    )
    assert figures.count() == 4
    counts = [int(text) for text in figures.nth(3).locator("text").all_text_contents() if text.isdigit()]
    assert sum(counts) == 12
    assert page.locator(".card").count() == 12 - counts[0] - counts[3]


def test_figures_follow_the_theme(opened, trained_page):
    """Their ink is the page's own, light on dark and dark on light; nothing of them is cut."""

    def look(page):
        svg = page.locator(".chart svg").first
        color = svg.locator("text").first.evaluate("t => getComputedStyle(t).fill")
        return color, np.asarray(Image.open(io.BytesIO(svg.screenshot())).convert("L")).mean()

    pages = [opened(trained_page, color_scheme=scheme) for scheme in ("light", "dark")]
    (light, bright), (dark, dim) = map(look, pages)
    assert light != dark
    assert bright > 200
    assert dim < 60
    pages[1].get_by_role("button", name="Toggle theme").click()
    assert look(pages[1])[0] == light


@pytest.mark.parametrize("width", [360, 1400])
def test_figures_are_legible_at_every_width(opened, trained_page, width):
    page = opened(trained_page, viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = page.locator(".chart text").evaluate_all("all => all.map(t => t.getBoundingClientRect().height)")
    assert min(heights) > 7
    inside = """all => all.every(t => {
      const text = t.getBoundingClientRect(), card = t.closest(".chart").getBoundingClientRect();
      return text.left >= card.left && text.right <= card.right && text.top >= card.top && text.bottom <= card.bottom;
    })"""
    assert page.locator(".chart text").evaluate_all(inside)
