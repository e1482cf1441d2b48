"""Make the pictures of the documentation from generated images and the network of make demo: make pictures.

Pages of reports are taken in headless Chromium.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES, OUTPUTS, DEMO = ROOT / "docs/images", ROOT / "outputs", "weights/demo.safetensors"
COMPARED = "gradcam,layercam,fullgrad,shapleycam,ablationcam,refinecam,guidedgradcam"
REPORTED = "gradcam,layercam,eigencam"
FLIGHT = "--report outputs/flight.html --title Pier --distance 2 --sensor-width 13.2 --width-limits 1,2"


def run(command: str) -> None:
    """Run one of the scripts."""
    subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=True)  # noqa: S603


def keep(figure: str, name: str, width: int) -> None:
    """Store a figure of outputs/ among the images, no wider than ``width`` pixels."""
    with Image.open(OUTPUTS / figure) as image:
        small = image.convert("RGB")
        small.thumbnail((width, 10_000), Image.Resampling.LANCZOS)
        small.save(IMAGES / name, quality=85)


def figures() -> None:
    """What the scripts draw."""
    run("inference.py --type Positive")
    keep("inference_Positive.png", "inference_Positive.jpg", 760)
    run("xai.py --type Positive --method layercam")
    keep("xai_Positive_layercam.png", "xai_Positive_layercam.jpg", 760)
    run(f"xai.py --type Positive --method {COMPARED} --num 4 --seed 3 --weights {DEMO}")
    keep("xai_Positive_compared.png", "xai_Positive_compared.jpg", 1180)
    run("xai.py --type Positive --style mask")
    keep("xai_Positive_best.png", "xai_Positive_mask.jpg", 760)
    run(f"xai.py --type Positive --num 1 --anatomy --output outputs/steps.png --weights {DEMO}")
    keep("steps.png", "anatomy.png", 1380)
    run(f"xai.py --type Positive --num 1 --method layercam --style edges --output outputs/edges.png --weights {DEMO}")
    keep("edges.png", "edges.jpg", 760)


def scrolled_to(selector: str) -> Callable[[Page], object]:
    """What brings an element to the top of the window."""
    return lambda page: page.locator(selector).first.evaluate("each => each.scrollIntoView(true)")


def take(browser: Browser, report: str, name: str, size: tuple[int, int], prepare: Callable[[Page], object]) -> None:
    """Take what a window of ``size`` shows of a report."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto((OUTPUTS / report).as_uri())
    prepare(page)
    page.wait_for_timeout(1500)  # photographs are decoded while the page is shown already
    page.screenshot(path=IMAGES / name, type="jpeg", quality=85)
    page.close()


def reports() -> None:
    """What the pages of --report look like."""
    run("examples/inspection_flight.py outputs/flight --count 9")
    run(f"xai.py --image outputs/flight --all --style mask --output outputs/flight.csv {FLIGHT}")
    run(f"xai.py --type Positive --method {REPORTED} --num 60 --masks data/masks --report --weights {DEMO}")
    page = "report.html"
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take(browser, page, "report.jpg", (1180, 960), scrolled_to("#controls"))
        take(browser, page, "report_enlarged.jpg", (1180, 960), lambda p: p.locator(".card .stage").first.click())
        take(browser, "flight.html", "findings.jpg", (1280, 820), scrolled_to("#shown"))
        take(browser, "training.html", "report_training.jpg", (1360, 640), scrolled_to("h2:has-text('Training')"))
        browser.close()


if __name__ == "__main__":
    figures()
    reports()
