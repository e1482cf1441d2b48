"""The findings page as text: its numbers, its order, its map; and that nothing of the machine is in it."""

import re

import numpy as np
import pytest
from conftest import ROOT
from findings import crack, region, row, written
from reports import EVIL, decoded

from crackcam import sizes
from crackcam.data import images
from crackcam.errors import UserError
from crackcam.render.report import finding_cards, findings, findings_content, flight, quantities, site_map

pytestmark = pytest.mark.slow

BOX = (10, 20, 60, 16)


@pytest.fixture
def rows(tmp_path):
    """Three photographs with findings, one without, and an unreadable file; 0.5 mm per pixel."""
    return [
        row(tmp_path, "sound.jpg", mm_per_pixel=0.5, capture=("2026-05-01T10:30:00", -33.86, 151.21, None)),
        row(tmp_path, "fine.jpg", [region(1, BOX, crack(200.0), 0.5, "below 1 mm")], mm_per_pixel=0.5),
        row(
            tmp_path,
            "wide.jpg",
            [
                region(1, BOX, crack(61.0, 3.0, place=[40, 28]), 0.5, "1 to 2 mm"),
                region(2, (100, 70, 30, 30), crack(40.0, 8.0, place=[115, 85]), 0.5, "from 2 mm"),
            ],
            mm_per_pixel=0.5,
            capture=("2026-05-01T10:11:12", -33.8601, 151.21, 85.4),
        ),
        row(tmp_path, "middle.jpg", [region(1, BOX, crack(61.0, 4.0), 0.5, "from 2 mm")], mm_per_pixel=0.5),
        {"image": "broken.jpg", "file": str(tmp_path / "flight/broken.jpg"), "true": None, "error": "truncated"},
    ]


def tiles(html):
    found = re.findall(r"<div><dt>([^<]*)</dt><dd><b>([^<]*)</b> <span>(?:<a [^>]*>)?([^<]*)(?:</a>)?</span>", html)
    return {name: (value, remark) for name, value, remark in found}


def names(html):
    return re.findall(r"<h3>([^<]*)</h3>", html)


def lines(html):
    """Of each region: the texts of its cells, without verdict and picture."""
    found = []
    for line in re.findall(r"<tr id=\S+ data-region.*?</tr>", html, re.DOTALL):
        cells = re.findall(r'<t[hd](?! class="(?:detail|judge))[^>]*>(.*?)</t[hd]>', line, re.DOTALL)
        found.append([re.sub(r"<[^>]*>", "", cell).strip() for cell in cells])
    return found


def test_key_figures_and_order(rows, tmp_path):
    html = written(tmp_path, rows, **{"width-limits": [1, 2]}).read_text()
    assert tiles(html) == {
        "photographs": ("4", "1 more not readable"),
        "with findings": ("3", "75.0 %"),
        "regions": ("4", "one crack may be several, 1 too narrow to measure"),
        "widest region": ("4.00 mm", "95th percentile, region 2 of wide.jpg"),
        "length of the regions": ("181 mm", "along their centre lines, 362 px"),
    }
    assert names(html) == ["wide.jpg", "middle.jpg", "fine.jpg"]
    assert re.findall(r'id="other-1".*?<span>(.*?)</span>', html) == ["sound.jpg"]
    classes = re.search(r"Regions by width.*?</table>", html, re.DOTALL)[0]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', classes) == [
        ("below 1 mm", "1", "100 mm"),
        ("1 to 2 mm", "1", "30.5 mm"),
        ("from 2 mm", "2", "50.5 mm"),
        ("not classified", "0", "-"),
    ]
    assert "broken.jpg</th><td>truncated" in html


def widest(html):
    """Of each line of the table of the widest regions: where it leads, and its texts."""
    table = re.search(r'<table aria-labelledby="widest">.*?</table>', html, re.DOTALL)
    found = []
    for line in re.findall(r"<tr><th scope=\"row\">.*?</tr>", table[0] if table else ""):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)
        found.append([re.search(r'href="([^"]*)"', line)[1], *(re.sub(r"<[^>]*>", "", cell) for cell in cells)])
    return found


def test_the_widest_regions_of_all_photographs(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "PAGE", 1)
    monkeypatch.setattr(flight, "WIDEST", 3)
    rows[3]["regions"][0]["crack"]["length"] = 60.0  # as wide as another region, and shorter
    rows[2]["regions"][0] = region(1, BOX, crack(61.0, 4.0), 0.5, "from 2 mm")
    html = written(tmp_path, rows, **{"width-limits": [1, 2]}).read_text()
    assert "The 3 widest of 4 regions" in html
    assert widest(html) == [
        ["#image-1-region-2", "wide.jpg, region 2", "4.00 mm 8.0 px", "20.0 mm 40.0 px", "from 2 mm"],
        ["#image-1-region-1", "wide.jpg, region 1", "2.00 mm 4.0 px", "30.5 mm 61.0 px", "from 2 mm"],
        ["report-2.html#image-2-region-1", "middle.jpg, region 1", "2.00 mm 4.0 px", "30.5 mm 60.0 px", "from 2 mm"],
    ]
    assert '<a href="#image-1">95th percentile, region 2 of wide.jpg</a>' in html
    assert '<tr id="image-1-region-2"' in html
    assert '<tr id="image-2-region-1"' in (tmp_path / "report-2.html").read_text()
    assert widest((tmp_path / "report-2.html").read_text()) == []


def test_few_regions_are_remembered_and_without_outlines(tmp_path):
    found = [region(i, BOX, crack(61.0, float(i))) for i in range(1, 100)]
    pair = [row(tmp_path, "a.jpg", found), row(tmp_path, "b.jpg", found)]
    read = flight.Flight.read(iter(pair))
    assert len(read.heap) == flight.WIDEST
    assert [(each.photograph, each.region["number"]) for each in read.widest][:4] == [
        ("a.jpg", 99),
        ("b.jpg", 99),
        ("a.jpg", 98),
        ("b.jpg", 98),
    ]
    assert not any("polygons" in each.region for each in read.heap)
    read.close()


def test_regions_of_one_photograph_are_not_listed_twice(tmp_path):
    found = [region(1, BOX, crack(61.0, 3.0)), region(2, (100, 70, 30, 30), crack(40.0, 8.0))]
    assert widest(written(tmp_path, [row(tmp_path, "a.jpg", found), row(tmp_path, "b.jpg")]).read_text()) == []
    html = written(tmp_path, [row(tmp_path, "a.jpg", found), row(tmp_path, "b.jpg", found[:1])]).read_text()
    assert [line[1:3] for line in widest(html)] == [
        ["a.jpg, region 2", "8.0 px"],
        ["a.jpg, region 1", "3.0 px"],
        ["b.jpg, region 1", "3.0 px"],
    ]
    assert "All regions, the widest first" in html


def test_the_probability_stands_on_each_card(tmp_path):
    found = [row(tmp_path, f"{name}.jpg", [region(1, BOX, crack(61.0, 3.0))]) for name in "abc"]
    found[1] |= {"predicted": "Negative", "probabilities": {"Negative": 0.75, "Positive": 0.25}}
    found[2]["probabilities"] = {}  # not among the --top-k
    html = written(tmp_path, found).read_text()
    assert html.count('<p class="remark">probability of Positive: 87.5 %</p>') == 1
    assert html.count('<p class="remark">probability of Positive: 25.0 %, predicted: Negative</p>') == 1
    assert html.count("probability of Positive") == 2
    assert (
        "The 12 largest regions of a photograph and the widest ones are shown at their widest place, the 60 largest have a line"
        in html
    )


def test_a_line_of_each_region(rows, tmp_path):
    html = written(tmp_path, rows, **{"width-limits": [1, 2]}).read_text()
    assert lines(html) == [
        ["1", "30.5 mm 61.0 px", "0.75 mm 1.5 px", "1.50 mm 3.0 px", "1.88 mm 3.8 px", "30°", "1 to 2 mm"],
        ["2", "20.0 mm 40.0 px", "2.00 mm 4.0 px", "4.00 mm 8.0 px", "5.00 mm 10.0 px", "30°", "from 2 mm"],
        ["1", "30.5 mm 61.0 px", "1.00 mm 2.0 px", "2.00 mm 4.0 px", "2.50 mm 5.0 px", "30°", "from 2 mm"],
        ["1", "100 mm 200 px", "below 1.00 mm 2 px", "30°", "below 1 mm"],
    ]
    place = "1 May 2026, 10:11 · 33.860100° S, 151.210000° E, 85 m above sea level · 160 x 120 px · 1 px = 0.5 mm"
    assert place in html


def test_without_a_scale_sizes_are_in_pixels(tmp_path):
    sizes = crack(61.0, None, measured=0)
    found = [region(1, BOX, crack(61.0, 3.0)), region(2, (100, 70, 30, 30), sizes), region(3, (90, 5, 9, 20))]
    html = written(tmp_path, [row(tmp_path, "a.jpg", found)]).read_text()
    assert tiles(html)["widest region"][0] == "3.0 px"
    assert tiles(html)["regions"] == ("3", "one crack may be several, 2 without a measured width")
    assert [line[1:-1] for line in lines(html)[1:]] == [["61.0 px", "not measurable"], ["20.0 px", "not measured"]]
    assert "Width class" not in html
    assert "not known: sizes are in pixels" in html
    assert 'id="map"' not in html


def test_worst_first_by_mm_then_pixels_then_length(tmp_path):
    def one(name, length, p95, scale):
        return row(tmp_path, name, [region(1, BOX, crack(length, p95), scale)], mm_per_pixel=scale)

    rows = [
        one("long", 90.0, None, None),
        one("px", 9.0, 60.0, None),
        one("mm", 5.0, 4.0, 0.1),
        one("short", 8.0, 0, 0),
    ]
    rows.append(one("more mm", 5.0, 3.0, 0.5))
    assert names(written(tmp_path, rows).read_text()) == ["more mm", "mm", "px", "long", "short"]


def test_nothing_of_the_machine_is_in_the_page(rows, tmp_path):
    html = written(tmp_path, rows).read_text()
    for part in (str(tmp_path), "/home", "/srv", "ann/"):
        assert part not in html
    assert "python xai.py --image flight --all --style mask --report report.html" in html
    assert "resnet18, model.safetensors, SHA-256" in html
    assert "<h1>Findings: flight</h1>" in html


def test_text_is_escaped(tmp_path):
    found = region(1, BOX, crack(61.0, 3.0))
    rows = [row(tmp_path, 'a"&<b>.jpg', [found]), row(tmp_path, "<i>'.jpg", [])]
    html = written(tmp_path, rows, title=EVIL, method=EVIL, command=EVIL).read_text()
    assert html.count("<script") == 2  # verdicts of an earlier run and our own
    assert "<b>." not in html
    assert "<i>" not in html
    assert "<h1>&lt;script&gt;" in html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not re.search(r"\son\w+=|\sstyle=|https?://", html)


def test_an_earlier_verdict_is_chosen_already(tmp_path):
    found = [region(1, BOX, crack(61.0, 9.0)), region(3, (100, 70, 30, 30), crack(40.0, 3.0), verdict="accept")]
    html = written(tmp_path, [row(tmp_path, "no.jpg"), row(tmp_path, "a.jpg", found)]).read_text()
    assert names(html) == ["a.jpg"]
    assert tiles(html)["regions"] == ("2", "one crack may be several")
    assert tiles(html)["with findings"] == ("1", "50.0 %")
    assert re.findall(r'name="verdict-1-(\d)" value="(\w*)" checked', html) == [("1", ""), ("3", "accept")]


def test_no_findings_and_no_photographs(tmp_path):
    html = written(tmp_path, [row(tmp_path, "a.jpg")]).read_text()
    assert tiles(html) == {
        "photographs": ("1", "all readable"),
        "with findings": ("0", "0.0 %"),
        "regions": ("0", ""),
    }
    assert 'id="controls"' not in html
    assert "No findings" in written(tmp_path, []).read_text()


def test_pages_and_links_between_them(tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "PAGE", 2)
    monkeypatch.setattr(findings, "OTHERS_PAGE", 1)
    places = [(None, 47.0 + i / 1000, 8.0, None) for i in range(5)]
    rows = [row(tmp_path, f"{i}.jpg", [region(1, BOX, crack(61.0, 9.0 - i))], capture=places[i]) for i in range(3)]
    rows += [row(tmp_path, f"{i}.jpg", capture=places[i]) for i in (3, 4)]
    pages = [written(tmp_path, rows), tmp_path / "report-2.html", tmp_path / "report-3.html"]
    texts = [page.read_text() for page in pages]
    assert [names(text) for text in texts] == [["0.jpg", "1.jpg"], ["2.jpg"], []]
    links = re.findall(r'<a href="([^"]*)" class="level', texts[0])
    assert sorted(links) == [
        "#image-1",
        "#image-2",
        "report-2.html#image-3",
        "report-2.html#other-1",
        "report-3.html#other-2",
    ]
    for link in links:
        page, _, anchor = link.partition("#")
        assert f'id="{anchor}"' in (tmp_path / (page or "report.html")).read_text()
    runs = [re.search(r'data-run="(\w+)"', text)[1] for text in texts[:2]]
    assert runs[0] == runs[1]


def test_a_photograph_that_is_gone(tmp_path):
    rows = [row(tmp_path, "a.jpg", [region(1, BOX)])]
    (tmp_path / "flight/a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.jpg was readable when the run started"):
        written(tmp_path, rows)
    assert not (tmp_path / "report.html").exists()


def test_few_photographs_are_in_memory_at_a_time(tmp_path, monkeypatch):
    """Of 12 photographs never more than the few that are read ahead wait for their card."""
    read, waiting = [], []
    read_image, make_card = images.read_image, finding_cards.make_card

    def card(*of):
        waiting.append(len(read) - len(waiting))
        return make_card(*of)

    monkeypatch.setattr(images, "read_image", lambda path: (read.append(path), read_image(path))[1])
    monkeypatch.setattr(finding_cards, "make_card", card)
    written(tmp_path, (row(tmp_path, f"{i}.jpg", [region(1, BOX)]) for i in range(12)))
    assert len(waiting) == 12
    assert max(waiting) <= 4


def test_outlines_lie_on_the_shown_photograph(tmp_path):
    """2400 px wide, shown at 1200: half of each coordinate."""
    found = row(tmp_path, "a.jpg", [region(1, (1000, 800, 400, 200))], size=(2400, 1800))
    html = written(tmp_path, [found]).read_text()
    assert '<svg class="outlines" viewBox="0 0 1200 900"' in html
    assert html.count('d="M500 400 700 400 700 500 500 500Z"') == 2
    photo = decoded(re.search(r'class="photo" src="([^"]*)"', html)[1])
    assert photo.size == (1200, 900)


def test_a_detail_shows_the_widest_place(tmp_path):
    """A black square at (2000, 1500) of a grey photograph; at the border the detail is moved inside."""
    pixels = np.full((1800, 2400, 3), 200, np.uint8)
    pixels[1490:1510, 1990:2010] = 0
    found = region(1, (900, 900, 1200, 640), crack(999.0, 6.0, place=[2000, 1500]))
    corner = region(2, (2380, 1780, 20, 20), crack(20.0, 6.0, place=[2399, 1799]))
    summary = flight.summarize({"image": "a", "file": "a", "overlay": "", "regions": [found, corner]}, 0)
    card = finding_cards.make_card(summary, {"regions": [found, corner]}, finding_cards.Decoded(pixels), metric=False)
    detail, moved = (np.asarray(decoded(line.detail).convert("L")) for line in card.lines)
    assert detail.shape == moved.shape == (160, 160)
    dark = np.argwhere(detail < 100)
    assert dark.mean(axis=0).tolist() == pytest.approx([79.5, 79.5], abs=1)
    assert (moved > 150).all()


@pytest.mark.parametrize("place", [20, finding_cards.LISTED + 3])
def test_the_widest_region_has_a_line_and_a_picture(tmp_path, place):
    """Regions come largest first, and the widest may be a small one."""
    found = [region(i + 1, (2 * i, 2 * i, 6, 6), crack(9.0, 3.0)) for i in range(finding_cards.LISTED + 5)]
    found[place - 1]["crack"] = crack(9.0, 5.0)
    html = written(tmp_path, [row(tmp_path, "a.jpg", found, size=(200, 200))]).read_text()
    shown = [int(number) for number in re.findall(r'alt="region (\d+) at its widest place"', html)]
    assert shown == [*range(1, finding_cards.DETAILS + 1), place]
    assert len(lines(html)) == html.count("<circle") == finding_cards.LISTED + (place > finding_cards.LISTED)
    assert html.count('<path class="line"') == len(found)


def test_the_widest_of_all_have_lines_and_pictures(tmp_path):
    small = [region(i + 1, (2 * i, 2 * i, 6, 6), crack(9.0, 3.0)) for i in range(finding_cards.LISTED + 5)]
    for number in (20, 30, finding_cards.LISTED + 3):
        small[number - 1]["crack"] = crack(9.0, 5.0)
    one, other = (row(tmp_path, f"{name}.jpg", small, size=(200, 200)) for name in "ab")
    html = written(tmp_path, [one, other]).read_text()
    shown = [int(number) for number in re.findall(r'alt="region (\d+) at its widest place"', html)]
    assert {20, 30, finding_cards.LISTED + 3} <= {*shown}
    assert len(widest(html)) == flight.WIDEST
    for link, *_ in widest(html):
        assert f'<tr id="{link[1:]}"' in html


@pytest.mark.parametrize(("ground", "line"), [(30, 12), (200, 12)])
def test_a_detail_in_shadow_is_brightened(ground, line):
    pixels = np.full((300, 300, 3), ground, np.uint8)
    pixels[:, 148:152] = line
    found = region(1, (140, 100, 20, 100), crack(100.0, 4.0, place=[150, 150]))
    summary = flight.summarize({"image": "a", "file": "a", "overlay": "", "regions": [found]}, 0)
    card = finding_cards.make_card(summary, {"regions": [found]}, finding_cards.Decoded(pixels), metric=False)
    detail = np.asarray(decoded(card.lines[0].detail).convert("L")).astype(float)
    factor = min(5.0, 160 / ground) if ground < 96 else 1
    assert detail[:, :60].mean() == pytest.approx(factor * ground, abs=6)
    assert detail[:, 79:81].mean() == pytest.approx(factor * line, abs=20)


def test_numbers_of_regions_do_not_cover_each_other():
    boxes = [(500, 400, 10, 10)] * 6 + [(0, 0, 50, 50), (1990, 1490, 10, 10)]
    found = [region(i, box) for i, box in enumerate(boxes)]
    places = np.array(finding_cards.place_labels(found, (2000, 1500))) * (2000, 1500)
    apart = np.abs(places[:, None] - places[None]).max(axis=2) + 1000 * np.eye(len(boxes))
    step = finding_cards.LABEL * 2000
    assert apart.min() >= step - 1
    assert (places >= step / 2 - 1).all()
    assert (places <= np.array((2000, 1500)) - step / 2 + 1).all()


@pytest.mark.parametrize("turned", [False, True])
def test_numbers_stand_beside_a_crack_and_not_on_it(turned):
    """One crack along the image, in five regions."""
    found = [region(i, (300 * i, 600 + 40 * i, 250, 16)) for i in range(1, 6)]
    for each in found if turned else ():
        each["polygons"] = [np.reshape(each["polygons"], (-1, 2))[:, ::-1].ravel().tolist()]
    size = (1500, 2000) if turned else (2000, 1500)
    places = np.array(finding_cards.place_labels(found, size)) * size
    radius = finding_cards.LABEL * size[0] / 2
    for own, (x, y) in zip(found, places[:, ::-1] if turned else places, strict=True):
        assert abs(y - own["box"][1] - 8) > radius  # beside it: the crack goes on at both ends
        for each in found:
            left, top, width, height = each["box"]
            across, down = max(left - x, x - left - width, 0), max(top - y, y - top - height, 0)
            assert np.hypot(across, down) >= radius


def test_many_regions_are_outlined_and_the_first_ones_listed(tmp_path):
    found = [region(i + 1, (2 * i, 2 * i, 6, 6)) for i in range(finding_cards.LISTED + 5)]
    html = written(tmp_path, [row(tmp_path, "a.jpg", found, size=(200, 200))]).read_text()
    assert html.count('<path class="line"') == len(found)
    assert len(lines(html)) == html.count("<circle") == finding_cards.LISTED
    assert "5 smaller regions are outlined without a number" in html


# -- the map


def photograph(position=None, width=(None, None), regions=1):
    capture = dict(zip(("latitude", "longitude"), position or (None, None), strict=True))
    return flight.Photograph("a", "a", "", capture, regions, width, None, (None, 0.0), 0)


def test_metres_of_the_map():
    """0.001 degrees of latitude are 111.2 m; of longitude at 60 degrees north half of that."""
    found = [photograph((60.0, 10.0)), photograph((60.001, 10.0)), photograph((60.0, 10.002)), photograph()]
    drawn = site_map.draw_map(found)
    (x0, y0), (x1, y1), (x2, y2) = ((dot.x, dot.y) for dot in drawn.dots)
    assert x1 == x0
    assert y2 == y0
    assert y1 < y0
    assert x2 > x0
    assert (x2 - x0) / (y0 - y1) == pytest.approx(1.0, abs=0.01)
    metres = float(drawn.bar_text.removesuffix(" m"))
    assert drawn.bar / metres == pytest.approx((y0 - y1) / 111.2, rel=0.01)
    assert drawn.missing == 1


def test_a_map_without_a_fix_and_with_one_place():
    assert site_map.draw_map([photograph(), photograph()]) is None
    drawn = site_map.draw_map([photograph((-33.0, 151.0))] * 3)
    assert {(dot.x, dot.y) for dot in drawn.dots} == {(500.0, 150.0)}
    assert drawn.bar_text == "2 m"


def test_colors_of_the_map_follow_the_classes():
    place = (47.0, 8.0)
    found = [photograph(place, (mm, mm * 10)) for mm in (0.1, 0.3, 0.35, 0.2)]
    found += [photograph(place, regions=0), photograph(place)]
    drawn = site_map.draw_map(found, [0.2, 0.3], metric=True)
    assert {dot.photograph: dot.level for dot in drawn.dots} == {0: 1, 1: 3, 2: 3, 3: 2, 4: -1, 5: 0}
    assert drawn.legend == [
        (-1, "no findings"),
        (0, "width not known"),
        (1, "below 0.2 mm"),
        (2, "0.2 to 0.3 mm"),
        (3, "from 0.3 mm"),
    ]
    assert [dot.level for dot in drawn.dots] == sorted(dot.level for dot in drawn.dots)


# -- words


@pytest.mark.parametrize(
    ("time", "text"),
    [("2026-05-01T10:11:12", "1 May 2026, 10:11"), (None, ""), ("yesterday", "yesterday")],
)
def test_times(time, text):
    assert quantities.time_text(time) == text


def test_first_and_last_time():
    same_day = ["2026-05-01T10:58:00", "2026-05-01T10:11:12"]
    assert quantities.times_text(same_day) == "1 May 2026, 10:11 to 10:58"
    assert quantities.times_text([*same_day, "2026-05-02T09:00:00"]) == "1 May 2026, 10:11 to 2 May 2026, 09:00"
    assert quantities.times_text(same_day[:1]) == "1 May 2026, 10:58"


def test_how_accurate_widths_are_stands_on_the_page(rows, tmp_path):
    """The figures are those of the documentation, in millimetres too where a scale is known; technical facts are folded."""
    page = (ROOT / "docs/how-to/measure-regions.md").read_text()
    assert re.search(rf"^\| all \| {sizes.TYPICAL_ERROR} px \| 0.4 px \| 0.8 px \| 99 % \|$", page, re.MULTILINE)
    assert "2 to 30 px wide" in page
    html = written(tmp_path, rows).read_text()
    half = "half of the mean widths were off by at most 0.4 px (here 0.2 mm), 99 % by at most 2 px or 30 %"
    assert f"<dd>of 500 drawn cracks 2 to 30 px wide, {half}</dd>" in html
    shown, folded = html[: html.index("<details>")], html[html.index("<details>") : html.index("</details>")]
    for names_of, part in ((("taken", "scale", "narrowest width"), shown), (("model", "command", "device"), folded)):
        assert all(f"<dt>{name}</dt>" in part for name in names_of)
    assert html.count("class Positive, named as the folder of the network&#39;s training images") <= 1
    assert "class Positive, named as the folder of the network" in html
    found = [region(1, BOX, crack(61.0, 3.0))]
    assert "at most 0.4 px, 99 %" in written(tmp_path, [row(tmp_path, "a.jpg", found)]).read_text()


def test_places():
    below = {"latitude": 51.5, "longitude": -0.1278, "altitude": -3.4}
    assert quantities.place_text(below) == "51.500000° N, 0.127800° W, 3 m below sea level"
    assert quantities.place_text({"latitude": None, "longitude": None}) == ""


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("xai.py --image '/a b/c d' x/1.jpg,x/2.jpg", "xai.py --image 'c d' 1.jpg,2.jpg"),
        (r"xai.py --image 'C:\Users\ann\flight'", "xai.py --image flight"),
        ("xai.py --width-limits 0.2,0.3 --title 'Bridge 12'", "xai.py --width-limits 0.2,0.3 --title 'Bridge 12'"),
    ],
)
def test_commands_without_folders(command, shown):
    assert findings_content.without_folders(command) == shown


def test_what_a_width_limit_needs_and_what_an_earlier_review_rejected(tmp_path):
    """A limit of 0.3 mm means nothing where 2 px are 0.92 mm; and a rejection leaves a trace."""
    found = [row(tmp_path, "a.jpg", [region(1, BOX, crack(61.0, 20.0))])]
    found[0]["mm_per_pixel"] = 0.46
    document = {"width-limits": [0.3, 1.0], "distance": 2.0, "sensor-width": 13.2, "findings": {"rejected": 3}}
    html = written(tmp_path, found, **document).read_text()
    assert "0.92 mm (2 px); the limit of 0.3 mm is 0.652 px: fly closer, to 32.6 % of the distance (0.652 m)" in html
    assert '<th scope="row">below 0.3 mm</th><td>not measurable below 0.92 mm</td>' in html
    assert '<th scope="row">0.3 to 1 mm</th><td>0, measurable from 0.92 mm</td>' in html
    assert "0.46 mm per pixel (camera 2 m from the surface, sensor 13.2 mm wide)" in html
    assert tiles(html)["regions"] == ("1", "one crack may be several, 3 more rejected in review")


@pytest.mark.parametrize(("sensor_width", "used"), [(13.2, 8.8), (36.0, 24)])
def test_the_focal_length_is_the_one_that_the_scale_was_computed_with(tmp_path, sensor_width, used):
    found = row(tmp_path, "a.jpg", [region(1, BOX, crack(61.0, 20.0))], mm_per_pixel=0.5)
    found["capture"] = {**found["capture"], "focal_length_mm": 8.8, "focal_length_35mm": 24}
    html = written(tmp_path, [found], **{"distance": 2.0, "sensor-width": sensor_width}).read_text()
    assert f"sensor {sensor_width:g} mm wide, focal length {used} mm)" in html
