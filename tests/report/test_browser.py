"""The report in a real browser: Debian's Chromium, driven by Playwright."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from zeropoint.measure import layers as layer_files
from zeropoint.measure.changed import ChangedClass, ChangedSample, Media, Outline
from zeropoint.measure.pictures import save_png, save_wav
from zeropoint.report.files import save
from zeropoint.report.html import write

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
HOSTILE = "</script><!--<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, and a container's /dev/shm may be too small for it.
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory, make_row, make_results, make_layers):
    """The address of a report of three rows, one of them failed, and two Programs."""
    failed = replace(make_row("static", "torch"), error=HOSTILE, latency_ms=None, top1=None, loss=None)
    results = make_results(
        make_row("fp32", "torch", 10.0, top1=0.9),
        make_row("static", "openvino", 1.5, top1=0.88),
        make_row("static", "onnxruntime", 9.0, top1=0.89),
        failed,
        model=HOSTILE,
    )
    folder = tmp_path_factory.mktemp("report")
    layer_files.save(make_layers(60, channels=4), folder)
    layer_files.save(make_layers(60, bits="W8A8", channels=4, name=lambda i: f"{HOSTILE}{i}"), folder)
    return written(results, folder)


def written(results, folder):
    """The address of the report of results."""
    save(results, folder)
    write([folder], folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser, report):
    """Opens a page on the report; at the end no error may have shown and no request have left the page."""
    contexts, troubles, requests, addresses = [], [], [], set()

    def open_(after="", wait=".chart .main-svg", address=report, **settings):
        addresses.add(address)
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings)))
        page = contexts[-1].new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.goto(address + after)
        page.wait_for_selector(wait)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []
    assert set(requests) == addresses


def column(page, number):
    return page.locator(f"#rows tbody tr > :nth-child({number})").all_inner_texts()


def test_the_table_sorts_by_mouse_and_by_keyboard(opened):
    page = opened()
    header = page.locator("#rows th", has_text="Latency")
    assert column(page, 2) == ["torch", "openvino", "onnxruntime", "torch"]
    header.get_by_role("button").click()
    # By value, so that 10.0 follows 9.00; what was not measured comes last.
    assert column(page, 2) == ["openvino", "onnxruntime", "torch", "torch"]
    assert column(page, 8)[-1] == "✗"
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").press("Enter")
    assert [text.split()[0].lstrip("*") for text in column(page, 8)] == ["10.0", "9.00", "1.50", "✗"]
    assert header.get_attribute("aria-sort") == "descending"
    page.locator("#rows").get_by_role("button", name="Engine", exact=True).press("Space")
    assert column(page, 2) == ["onnxruntime", "openvino", "torch", "torch"]
    assert page.locator("#rows th[aria-sort]").count() == 1


def test_hovering_over_a_point_tells_what_it_is(opened):
    page = opened()
    page.locator("#tradeoff").scroll_into_view_if_needed()
    page.locator("#tradeoff .scatterlayer .point").first.hover(force=True)
    label = page.locator("#tradeoff .hoverlayer .hovertext")
    label.wait_for()
    assert re.search(r"(fp32|static) on \w+.* ms, .* MB, top-1 [\d.]+%", label.text_content())


def test_a_layer_opens_from_the_table_from_the_chart_and_by_its_address(opened):
    page = opened()
    link = page.locator("#layers-table-1 a[href^='#layer-1-0-']").last
    link.click()
    page.wait_for_selector("dialog[open] .main-svg")
    assert page.locator("dialog .js-plotly-plot").count() == 3
    assert page.locator("#layer-name").text_content() == page.locator("#row-1-60 th").text_content()
    address = page.evaluate("location.hash")
    assert address == "#layer-1-0-60"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    page.wait_for_function("location.hash === ''")

    chart = page.locator("#errors-1")
    chart.scroll_into_view_if_needed()
    page.wait_for_selector("#errors-1 .point")
    page.locator("#errors-1 .trace").nth(1).locator(".point").last.click(force=True)
    page.wait_for_selector("dialog[open] .main-svg")
    assert page.evaluate("location.hash").startswith("#layer-1-")

    again = opened(address, wait="dialog[open] .main-svg")
    assert again.locator("#layer-facts").inner_text().count("\n") >= 5


def test_names_with_html_are_shown_as_they_are(opened):
    page = opened("#layer-1-1-120", wait="dialog[open] .main-svg")
    assert page.locator("#layer-name").text_content() == f"{HOSTILE}59"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("h1").text_content()


def test_the_theme_follows_the_system_and_the_switch(opened):
    page = opened(color_scheme="dark")

    def colours():
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " document.querySelector('#tradeoff .xtitle').style.fill]"
        )

    dark = colours()
    assert page.locator("#theme").inner_text() == "Light"
    page.locator("#theme").click()
    light = colours()
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.reload()
    page.wait_for_selector("#tradeoff .xtitle")
    assert colours() == dark


def test_a_phone_scrolls_only_down(opened):
    page = opened(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#layers-1").scroll_into_view_if_needed()
    page.wait_for_selector("#errors-1 .main-svg")
    assert page.locator("#errors-1 .main-svg").first.bounding_box()["width"] <= 390


def test_print_draws_every_chart_on_white(opened):
    page = opened(color_scheme="dark")
    assert page.locator("#errors-1 .main-svg").count() == 0  # not scrolled to yet
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("[data-chart]:not(:has(.main-svg))").count() == 0
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#theme").is_hidden()


@pytest.fixture
def samples(tmp_path, make_row, make_results):
    """The address of a report of changed samples: long words, boxes, tiny and large pictures, a sound."""
    outlines = (Outline(0.1, 0.2, 0.5, 0.5, "class 1", "float32"), Outline(0, 0, 1, 1, "class 2", "row"))
    media = (
        Media("0-input.png", "input; black is -2.1, white 2.6", outlines),
        Media("0-large.png", "this row"),
        Media("0-input.wav", "input"),
    )
    long = "class 3, " + "a_name_without_a_place_to_break" * 6
    one = ChangedSample(0, long, "class 5 (51.0%)", long, (1, 1), 0.0, 7.5, media)
    classes = (ChangedClass(long, 40, 2, 0.975, 0.925),)
    row = replace(make_row("static"), changed_samples=(one,) * 6, changed_classes=classes)
    folder = tmp_path / "samples"
    save_png(folder / "0-input.png", np.arange(64, dtype=np.uint8).reshape(8, 8))
    save_png(folder / "0-large.png", np.zeros((100, 192, 3), np.uint8))
    save_wav(folder / "0-input.wav", np.zeros(8000, np.int16), 8000)
    return written(make_results(make_row("fp32", "torch", 10.0), row), tmp_path)


@pytest.mark.parametrize(("width", "scheme"), [(500, "dark"), (1280, "light")])
def test_samples_are_seen_at_any_width(opened, samples, width, scheme):
    page = opened(address=samples, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.locator("details.changes .sample").first.is_hidden()
    page.locator("details.changes summary").click()
    page.evaluate("Promise.all([...document.images].map(one => one.decode()))")  # fails for a broken one
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = [one.bounding_box() for one in page.locator("details.changes .sample").all()]
    assert len(boxes) == 6
    for one in page.locator("details.changes :is(.sample *, .samples)").all():
        box = one.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    for places in (
        boxes,
        [one.bounding_box() for one in page.locator(".sample").first.locator("figure").all()],
    ):
        for i, one in enumerate(places):
            for other in places[:i]:
                apart = [
                    one[side] + one[size] <= other[side] + 0.5 or other[side] + other[size] <= one[side] + 0.5
                    for side, size in (("x", "width"), ("y", "height"))
                ]
                assert any(apart)
    image = page.locator(".picture img").first
    assert image.evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
    drawn, over = image.bounding_box(), page.locator(".picture svg").first.bounding_box()
    assert over == pytest.approx(drawn, abs=1)
    dash = page.locator("rect.row").first.evaluate("one => getComputedStyle(one).strokeDasharray")
    assert dash != "none"
    assert (
        page.locator("rect.float32").first.evaluate("one => getComputedStyle(one).strokeDasharray") == "none"
    )
    seconds = page.evaluate(
        """new Promise(done => {
            const audio = document.querySelector("audio");
            audio.addEventListener("loadedmetadata", () => done(audio.duration));
            if (audio.readyState) done(audio.duration);
        })"""
    )
    assert seconds == pytest.approx(1)
