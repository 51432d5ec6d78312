"""The page in a real browser, without a window: what a person does and sees."""

import json
import os
import pathlib
import shutil

import front as fronts
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select


def start_browser(downloads):
    """Debian's Chromium; it finds no host but this one and saves files into `downloads`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser")
    for word in (
        "headless=new", "window-size=1280,900", "disable-background-networking",
        "disable-component-update", "disable-dev-shm-usage", "no-first-run",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # it refuses root with one
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = shutil.which("chromedriver")
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


class Page:
    """The page of a front, opened anew in the browser."""

    def __init__(self, browser, url):
        self.browser = browser
        self.url = url
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(url)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def shows(self, selector):
        return self.find(selector).is_displayed()

    def fill(self, **values):
        for name, value in values.items():
            field = self.find(f"#{name}")
            if not field.is_displayed():
                self.find("summary").click()
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(str(value))

    def press(self, *keys):
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def press_generate(self):
        """By keyboard."""
        self.find("#prompt").send_keys(Keys.CONTROL, Keys.ENTER)

    def generate(self, **values):
        """Types, generates, and waits until that is over."""
        self.fill(**values)
        self.press_generate()
        assert fronts.wait_until(lambda: self.shows("#generate"), 60), self.text("#doing")

    def pixels(self, selector):
        """The width of the file that an image shows; 0: none has been shown."""
        return self.browser.execute_script(
            "return document.querySelector(arguments[0])?.naturalWidth ?? 0", selector
        )

    def watch(self):
        """Keeps what is seen from now on, which may be gone before it can be asked for."""
        self.browser.execute_script(
            """
            window.seen = {steps: [], left: [], spoken: [], previews: 0};
            const note = () => {
              const keep = (list, id) => {
                const text = document.getElementById(id).textContent;
                if (text && list.at(-1) !== text) list.push(text);
              };
              keep(seen.steps, "doing");
              keep(seen.left, "left");
              keep(seen.spoken, "spoken");
              const shown = document.querySelector(".preview img");
              if (shown?.naturalWidth > 0) seen.previews = shown.naturalWidth;
            };
            new MutationObserver(() => (note(), setTimeout(note, 20))).observe(document.body,
              {subtree: true, childList: true, characterData: true, attributes: true});
            """
        )

    def seen(self):
        return self.browser.execute_script("return window.seen")

    def asked(self):
        """The addresses that the browser asked since the page was opened."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")
        ]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self):
        """What the browser has to say of the page."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def set_screen(self, width, height, scheme="light"):
        """`scheme`: what the system prefers, light or dark."""
        send = self.browser.execute_cdp_cmd
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        send("Emulation.setDeviceMetricsOverride", screen)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        send("Emulation.setEmulatedMedia", {"features": [feature]})

    def ground(self):
        """The brightness of the page's ground, from 0 to 255."""
        colour = self.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(",")[:3]) / 3


def saved_file(folder, seconds=20):
    """The file that the browser saves there."""

    def complete():
        found = pathlib.Path(folder).iterdir()
        return [path for path in found if path.suffix in (".png", ".webp")]

    assert fronts.wait_until(complete, seconds), list(pathlib.Path(folder).iterdir())
    return complete()[0]
