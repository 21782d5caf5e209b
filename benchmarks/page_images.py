"""Take the screenshots for docs/guides/page.md from a running job.

python -m benchmarks.page_images http://127.0.0.1:8080/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from tools.browser import chromium, find_chromium

FOLDER: Final = Path("docs/images")
DESK: Final = {"width": 1360, "height": 1680}
# Some of the running round is to be seen.
MIDDLE: Final = """() => [...document.querySelectorAll("[data-state=Training] .step")].some((cell) => {
  const [step, of] = cell.textContent.split(" / ").map(Number);
  return step > of / 2;
})"""
SHOTS: Final[dict[str, dict[str, Any]]] = {
    "page-light": {"viewport": DESK, "color_scheme": "light"},
    "page-dark": {"viewport": DESK, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 390, "height": 1290}, "device_scale_factor": 2, "color_scheme": "light"},
}


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    arguments = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        raise SystemExit("error: no Chromium found: install the Debian package `chromium`, or set CHROMIUM to its path")
    with chromium(executable) as browser:
        for name, context in SHOTS.items():
            page = browser.new_context(**context).new_page()
            page.goto(arguments.url)
            page.wait_for_selector("#chart-loss:not([data-points='0']) canvas")
            page.wait_for_selector("[data-state=Training] .segment")
            if name == "page-light":
                page.locator("#chain-list summary").nth(1).click()
            page.wait_for_function(MIDDLE, timeout=120_000)
            page.screenshot(path=FOLDER / f"{name}.png")
            page.context.close()
            print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
