"""Makes the pictures of a report: python docs/screenshot.py RUN reads RUN/report.html.

docs/report.png is its top; with --samples ROW docs/samples.png is the samples that this row changed most.

It needs Playwright (the extra ``dev``) and Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent


def main() -> None:
    """Photographs the top of the report, verdict, table and chart, or the samples of a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", metavar="ROW", help='a row by name, as in "static on openvino"')
    given = parser.parse_args()
    report = given.run.resolve() / "report.html"
    picture = FOLDER / ("samples.png" if given.samples else "report.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(report.as_uri())
        page.wait_for_selector("#tradeoff .main-svg")
        if given.samples:
            row = page.locator("details.changes").filter(has=page.get_by_text(given.samples, exact=True))
            row.locator("summary").click()
            page.evaluate("Promise.all([...document.images].map(one => one.decode()))")
            row.screenshot(path=picture)
        else:
            bottom = page.locator("#tradeoff").evaluate("chart => chart.getBoundingClientRect().bottom")
            whole = {"x": 0.0, "y": 0.0, "width": 1280.0, "height": bottom}
            page.screenshot(path=picture, full_page=True, clip=whole)
        browser.close()
    print(f"{picture}: {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
