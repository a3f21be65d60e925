"""A headless Chromium, driven by Selenium, for tests of the front end on machines that have both."""

import shutil
import time

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def needs_browser():
    """Returns a mark that skips a test, with the reason, if there is no browser."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return pytest.mark.skip(reason="the front end is tested with selenium: pip install selenium")
    missing = CHROMIUM is None or DRIVER is None
    return pytest.mark.skipif(missing, reason="needs Chromium: apt-get install chromium chromium-driver")


def open_browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1160,860"
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


class Page:
    """The board in a browser, as a person sees and clicks it."""

    def __init__(self, driver):
        self.driver = driver

    def root(self):
        return self.driver.find_element("css selector", ".tzp")

    def data(self, name):
        return self.root().get_attribute(f"data-{name}")

    def wait(self, is_so, seconds=240):
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, f"waited for nothing: {self.root().text}"
            time.sleep(0.05)

    def ready(self):
        """Waits until the page shows a game, and no answer is on its way."""
        self.wait(lambda: len(self.driver.find_elements("css selector", ".tzp[data-moves]")) > 0)
        self.wait(lambda: not self.data("busy") and not self.data("waiting"))

    def moves(self):
        return int(self.data("moves"))

    def square(self, name):
        script = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        self.driver.execute_script(script, self.driver.find_element("css selector", f"[data-square='{name}']"))

    def clickable(self):
        return [node.get_attribute("data-square") for node in self.driver.find_elements("css selector", ".hit.can")]

    def press(self, name):
        self.driver.find_element("css selector", f"[data-do='{name}']").click()

    def text(self, selector):
        return self.driver.find_element("css selector", selector).text

    def errors(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
