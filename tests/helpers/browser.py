"""Open pages from the disk in a real browser, for the tests and to look at a page.

`python tests/helpers/browser.py report.html folder/` writes screenshots at desktop and phone width, light and dark, and
a PDF; `… report.html picture.png 900` the first 900 pixels of the page, for a document.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium")
WIDTHS = {"desktop": 1400, "phone": 390}


class Opened:
    """An open page, its console messages and errors, and its requests other than for itself."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.absolute().as_uri())
        self.requests = [
            url for url in self.requests if url != path.absolute().as_uri() and not url.startswith("data:")
        ]


@contextmanager
def opened(path: Path, width: int = WIDTHS["desktop"], dark: bool = False) -> Iterator[Opened]:
    """Open a page in Debian's chromium."""
    with sync_playwright() as playwright:
        # Containers have no user namespaces for the sandbox; the page is generated here.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
            yield Opened(page, path)
        finally:
            browser.close()


def screenshots(path: Path, folder: Path) -> list[Path]:
    """Save the whole page at each width, light and dark, and the PDF that it prints as."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, width in WIDTHS.items():
        for dark in (False, True):
            with opened(path, width, dark) as browser:
                file = folder / f"{name}_{'dark' if dark else 'light'}.png"
                browser.page.screenshot(path=file, full_page=True)
                files.append(file)
                if name == "desktop" and not dark:
                    browser.page.pdf(path=folder / "print.pdf", prefer_css_page_size=True)
    return files


def picture(path: Path, file: Path, height: int) -> None:
    """Save the top of the page, at desktop width."""
    with opened(path) as browser:
        clip = {"x": 0, "y": 0, "width": WIDTHS["desktop"], "height": height}
        browser.page.screenshot(path=file, full_page=True, clip=clip)  # type: ignore[arg-type]


if __name__ == "__main__":
    report, to, *rest = sys.argv[1:]
    if rest:
        picture(Path(report), Path(to), int(rest[0]))
    else:
        print("\n".join(map(str, screenshots(Path(report), Path(to)))))
