"""The findings page in a real browser: filters, verdicts, the map, print, accessibility."""

import csv
import re

import pytest
from findings import crack, region, row, written

NAMES = ["wide.jpg", 'middle, "1".jpg', "grün.jpg"]

COLUMNS = ["image", "region", "x", "y", "width", "height", "verdict"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Widths of 4 and 1.5 mm, of 2 mm, and below 1 mm with one that was not measured; a photograph without findings."""
    folder = tmp_path_factory.mktemp("findings")
    found = [
        [
            region(1, (20, 10, 60, 16), crack(61.0, 3.0, place=[40, 28]), 0.5, "1 to 2 mm"),
            region(2, (100, 70, 30, 30), crack(40.0, 8.0, place=[115, 85]), 0.5, "from 2 mm"),
        ],
        [region(1, (10, 20, 60, 16), crack(61.0, 4.0), 0.5, "from 2 mm")],
        [
            region(1, (10, 20, 100, 16), crack(300.0), 0.5, "below 1 mm"),
            region(2, (10, 70, 30, 16), crack(30.0, measured=0), 0.5),
        ],
    ]
    rows = [
        row(
            folder, name, regions, mm_per_pixel=0.5, capture=(f"2026-05-01T10:1{9 - i}:00", 47.0 + i / 1000, 8.0, 400.0)
        )
        for i, (name, regions) in enumerate(zip(NAMES, found, strict=True))
    ]
    rows.append(row(folder, "sound.jpg", mm_per_pixel=0.5, capture=(None, 47.0, 8.001, None)))
    values = dict(zip(COLUMNS, [NAMES[0], 3, 1, 2, 3, 4, "reject"], strict=True))
    return written(folder, rows, title="Bridge 12", verdicts=[values], **{"width-limits": [1.0, 2.0]})


def shown(page):
    return page.locator(".finding:visible h3").all_text_contents()


def listed(page):
    return page.locator(".finding tbody tr:visible").count()


def verdict(page, name, number, value):
    card = page.locator(".finding", has=page.get_by_role("heading", name=name, exact=True))
    card.locator(f'tr[data-region="{number}"]').get_by_role("radio", name=value).check()


def test_filters_and_order(opened, page_file):
    page = opened(page_file)
    assert shown(page) == NAMES
    assert page.locator("#count").text_content() == "5 regions of 3 photographs"
    for order, names in {
        "longest cracks first": [NAMES[2], NAMES[0], NAMES[1]],
        "most regions first": [NAMES[0], NAMES[2], NAMES[1]],
        "time": NAMES[::-1],
        "file name": [NAMES[2], NAMES[1], NAMES[0]],
        "widest region first": NAMES,
    }.items():
        page.get_by_label("Sort").select_option(order)
        assert shown(page) == names
    page.get_by_label("Width at least").fill("0.99")  # what is below 2 px, 1 mm, may reach it
    assert (shown(page), listed(page)) == (NAMES, 4)
    page.get_by_label("Width at least").fill("1")
    assert (shown(page), listed(page)) == (NAMES[:2], 3)
    page.get_by_label("Width at least").fill("2")
    assert (shown(page), listed(page)) == (NAMES[:2], 2)
    assert page.locator("#count").text_content() == "2 regions of 2 photographs, 1 without a measured width hidden"
    assert page.locator('.outlines [data-region="1"]').first.is_hidden()
    assert page.locator(".map a.off").count() == 1
    page.get_by_label("Width class").select_option("1 to 2 mm")
    assert listed(page) == 0
    assert page.locator("#none").is_visible()
    page.get_by_label("Width at least").fill("")
    assert (shown(page), listed(page)) == (NAMES[:1], 1)
    assert page.locator("#count").text_content() == "1 region of 1 photograph"
    page.get_by_label("Width class").select_option("not classified")
    assert shown(page) == NAMES[2:]


def test_verdicts_survive_a_reload_and_are_downloaded(opened, page_file, tmp_path):
    """With what an earlier round rejected, which is not on the page."""
    page = opened(page_file)
    verdict(page, NAMES[0], 2, "accept")
    verdict(page, NAMES[1], 1, "reject")
    verdict(page, NAMES[2], 1, "reject")
    verdict(page, NAMES[2], 2, "accept")
    page.reload()
    assert page.locator("#judged").text_content() == "2 accepted, 3 rejected"
    verdict(page, NAMES[2], 2, "open")
    page.locator("#controls [name=verdict]").select_option("rejected")
    assert shown(page) == NAMES[1:]
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download verdicts").click()
    assert waiting.value.suggested_filename == "verdicts.csv"
    waiting.value.save_as(tmp_path / "verdicts.csv")
    with (tmp_path / "verdicts.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [
            COLUMNS,
            [NAMES[2], "1", "10", "20", "100", "16", "reject"],
            [NAMES[1], "1", "10", "20", "60", "16", "reject"],
            [NAMES[0], "2", "100", "70", "30", "30", "accept"],
            [NAMES[0], "3", "1", "2", "3", "4", "reject"],
        ]


@pytest.mark.parametrize("width", [360, 1400])
def test_every_width_is_usable_and_outlines_lie_on_the_photograph(opened, page_file, width):
    page = opened(page_file, viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    card = page.locator(".finding").first
    card.scroll_into_view_if_needed()
    photo, outline, label = (card.locator(s).first.bounding_box() for s in (".photo", ".line", ".labels circle"))
    scale = photo["width"] / 160
    assert outline["x"] - photo["x"] == pytest.approx(20 * scale, abs=3)
    assert outline["y"] - photo["y"] == pytest.approx(10 * scale, abs=3)
    assert outline["width"] == pytest.approx(60 * scale, abs=5)
    assert label["width"] == pytest.approx(21, abs=2)  # as large at every width
    page.get_by_label("Outlines").uncheck()
    assert card.locator(".line").first.is_hidden()


def test_the_widest_regions_lead_to_their_photographs(opened, page_file):
    page = opened(page_file, viewport={"width": 360, "height": 800})
    table = page.get_by_role("table", name="All regions, the widest first")
    assert table.get_by_role("link").first.text_content() == "wide.jpg, region 2"
    assert all(cell.bounding_box()["x"] + cell.bounding_box()["width"] <= 360 for cell in table.locator("td").all())
    table.get_by_role("link", name=NAMES[1]).click()
    assert page.evaluate("location.hash") == "#image-2-region-1"
    line = page.locator(":target")
    assert line.get_by_role("rowheader").text_content() == "1"
    assert line.bounding_box()["y"] < 800  # in the window, not below it
    assert page.locator(".card:has(:target)").get_by_role("heading").text_content() == NAMES[1]


def test_on_a_phone_each_region_is_read_without_scrolling(opened, page_file):
    page = opened(page_file, viewport={"width": 360, "height": 800})
    for line in page.locator(".finding tbody tr:visible").all():
        for cell in line.locator("th, td").all():
            box = cell.bounding_box()
            assert box is None or 0 <= box["x"] <= box["x"] + box["width"] <= 360
    assert page.locator(".scroll").evaluate_all("all => all.every(each => each.scrollWidth <= each.clientWidth)")
    assert page.locator(".finding").first.get_by_role("columnheader").count() == 9  # it is a table all the same
    label = "cell => getComputedStyle(cell, '::before').content"
    first = page.locator(".finding tbody tr").first
    assert [first.locator(f".{name}").evaluate(label) for name in ("p95", "length")] == ['"95th perc."', '"length"']


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_no_barriers(opened, page_file, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(page_file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    verdict(page, NAMES[0], 1, "accept")
    verdict(page, NAMES[0], 2, "reject")
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


def test_the_map_leads_to_the_photographs(opened, page_file):
    page = opened(page_file)
    dot = page.get_by_role("link", name="grün.jpg, 2 regions")
    dot.focus()
    assert page.locator("#spot").text_content() == "grün.jpg: 2 regions"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#image-3"
    assert page.locator(".map a").count() == 4


def test_a_table_that_goes_on_names_its_photograph_in_print(opened, tmp_path):
    found = [region(i, (2 * i, 2 * i, 9, 9), crack(9.0, 3.0)) for i in range(1, 60)]
    page = opened(written(tmp_path, [row(tmp_path, "long.jpg", found), row(tmp_path, "short.jpg", found[:2])]))
    head = page.get_by_text("Regions of long.jpg", exact=True)
    assert head.is_hidden()
    page.emulate_media(media="print")
    assert head.is_visible()
    assert (
        head.locator("xpath=ancestor::thead").evaluate("head => getComputedStyle(head).display") == "table-header-group"
    )
    assert page.get_by_text("Regions of short.jpg", exact=True).count() == 0  # it is not broken


def test_print_on_a4(opened, page_file):
    page = opened(page_file, color_scheme="dark")
    verdict(page, NAMES[0], 2, "accept")
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert not page.locator(".finding .switch").first.is_visible()
    shown_text = "tr => getComputedStyle(tr.querySelector('.judge'), '::after').content"
    assert page.locator('.finding tr[data-region="2"]').first.evaluate(shown_text) == '"accepted"'
    pdf = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert {tuple(round(float(side) / 72 * 25.4) for side in box) for box in boxes} == {(210, 297)}
    assert len(boxes) == 2
