#!/usr/bin/env python3
"""Makes docs/page.webp: the front's page while the demo model generates.
.venv-serving/bin/python scripts/page_screenshot.py docs/page.webp     (needs scripts/setup.sh browser)
"""

import io
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/front"), str(ROOT / "tests/serving")]
import front as fronts  # noqa: E402
import page as pages  # noqa: E402
import server as serving  # noqa: E402
from PIL import Image  # noqa: E402

BEFORE = (
    ("a large red star on a blue background", 7),
    ("two small yellow circles on a green background", 3),
    ("a purple heart on a pink background", 5),
    ("a white ring on an orange background", 2),
)


def use(page) -> bytes:
    """Generates a few images and pictures the next ones on their way."""
    assert fronts.wait_until(lambda: "bls" in page.text("#server"))
    for prompt, seed in BEFORE:
        page.generate(prompt=prompt, seed=seed, steps=12)
    page.fill(prompt="a small green triangle above a large yellow square", n=4, seed=21, steps=40)
    page.press_generate()
    assert fronts.wait_until(lambda: page.pixels(".picture.preview:last-child img") > 0)
    return page.browser.get_screenshot_as_png()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        repository = fronts.repository(path / "models", ROOT / "demo/shapes")
        with serving.Server(repository, path / "server.txt") as server:
            with fronts.Front(server, path / "front.txt") as front:
                browser = pages.start_browser(path)
                try:
                    page = pages.Page(browser, front.url)
                    page.set_screen(1280, 800)
                    picture = use(page)
                finally:
                    browser.quit()
    Image.open(io.BytesIO(picture)).convert("RGB").save(sys.argv[1], quality=90, method=6)


if __name__ == "__main__":
    main()
