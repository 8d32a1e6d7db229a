"""The status page in a real headless Chromium, and pages of other origins that try to reach the proxy."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.service import Service

SCREENSHOTS = Path(__file__).parent.parent / ".cache" / "screenshots"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Start Chromium; it may load nothing but loopback."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "install chromium: scripts/test does it where it may"
    assert driver, "install chromium-driver: scripts/test does it where it may"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1500"):
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, service: Service) -> webdriver.Chrome:
    """Open the status page and wait until it shows the models."""
    browser.get_log("browser")
    browser.get(service.url)
    wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#models article")) == 2)
    return browser


def wait(browser: webdriver.Chrome, condition: Callable[[], Any], seconds: float = 15) -> Any:
    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(lambda _: condition())


def text_of(browser: webdriver.Chrome, selector: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, selector).text)


def test_it_shows_the_models(page: webdriver.Chrome) -> None:
    assert "2 of 2 models ready" in text_of(page, "#summary")
    articles = [each.text for each in page.find_elements(By.CSS_SELECTOR, "#models article")]
    assert any("all-minilm-l6-v2" in text and "embed" in text and "384" in text for text in articles)
    assert any("tiny-generator" in text and "generate" in text for text in articles)
    assert all("ready" in text for text in articles)


def test_two_texts_are_compared_with_the_keyboard_alone(page: webdriver.Chrome) -> None:
    left = page.find_element(By.ID, "left")
    left.click()
    left.send_keys(Keys.TAB, Keys.NULL)
    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("id") == "compare"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: text_of(page, "#similarity").startswith("cosine"))
    assert 0.5 < float(text_of(page, "#similarity").split()[1]) < 1.0
    assert page.find_element(By.ID, "meter").is_displayed()
    for size, scheme in ((1100, "light"), (1100, "dark"), (390, "light")):
        take_screenshot(page, scheme, size)


def take_screenshot(page: webdriver.Chrome, scheme: str, width: int) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    page.set_window_size(max(width, 500), 1500)
    metrics = {"width": width, "height": 1500, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert page.save_screenshot(str(SCREENSHOTS / f"page-{scheme}-{width}.png"))
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_recent_errors_are_shown_as_text(page: webdriver.Chrome, service: Service) -> None:
    httpx.post(f"{service.url}/v1/embeddings", json={"input": "x", "input_type": "<img src=x onerror=1>"})
    wait(page, lambda: "<img src=x" in text_of(page, "#errors"))
    assert not page.find_elements(By.CSS_SELECTOR, "#errors img")


def test_everything_has_a_name_for_screen_readers(page: webdriver.Chrome) -> None:
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") in ("button", "textbox", "link", "meter", "heading")
        and not node.get("name", {}).get("value")
    ]
    assert not unnamed
    headings = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "heading"]
    assert {"llamafile-mgr", "Models", "Use it", "Recent errors"} <= set(headings)
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


def test_it_asks_nobody_else_and_breaks_no_rule_of_its_own(page: webdriver.Chrome, service: Service) -> None:
    asked = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert asked
    assert all(address.startswith(service.url) for address in asked)
    severe = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe
    script = "const s = document.createElement('script'); s.textContent = 'window.evil = 1'"
    page.execute_script(f"{script}; document.body.append(s)")
    assert page.execute_script("return window.evil") is None


def test_snippets_can_be_copied(page: webdriver.Chrome, service: Service) -> None:
    summaries = page.find_elements(By.CSS_SELECTOR, "#snippets summary")
    assert len(summaries) >= 5
    code = text_of(page, "#snippets details[open] code")
    assert service.url in code
    assert "all-minilm-l6-v2" in code
    page.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    button = page.find_element(By.CSS_SELECTOR, "#snippets details[open] button")
    button.click()
    wait(page, lambda: button.text == "Copied")


ATTACK = """<!doctype html><title>waiting</title><script>
const target = new URLSearchParams(location.search).get("target");
const tries = [
  fetch(target + "/v1/embeddings", {method: "POST", body: '{"input": "stolen"}'}),
  fetch(target + "/v1/embeddings", {method: "POST", mode: "no-cors", body: '{"input": "stolen"}'})
    .then((reply) => { if (reply.type === "opaque") throw new Error("opaque"); }),
  fetch(target + "/v1/models"),
  fetch(target + "/ui/status.json"),
];
Promise.allSettled(tries).then((all) => {
  document.title = all.map((each) => each.status).join(" ");
});
</script>"""


def test_a_page_of_another_origin_reaches_nothing(
    browser: webdriver.Chrome, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "attack.html").write_text(ATTACK)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    before = embedded(service)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_port}/attack.html?target={service.url}")
        wait(browser, lambda: browser.title != "waiting")
        server.shutdown()
    assert browser.title == "rejected rejected rejected rejected"
    assert embedded(service) == before
    browser.get_log("browser")


def embedded(service: Service) -> str:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return next((line for line in lines if line.startswith("llamafile_texts_total")), "")
