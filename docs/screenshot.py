"""Makes the picture of a report, docs/report.png: python docs/screenshot.py RUN reads RUN/report.html.

It needs Playwright (the extra ``dev``) and Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "report.png"


def main() -> None:
    """Photographs the top of the report: verdict, table and chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    report = parser.parse_args().run.resolve() / "report.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(report.as_uri())
        page.wait_for_selector("#tradeoff .main-svg")
        bottom = page.locator("#tradeoff").evaluate("chart => chart.getBoundingClientRect().bottom")
        page.screenshot(path=PICTURE, full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": bottom})
        browser.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
