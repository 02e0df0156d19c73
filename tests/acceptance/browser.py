"""A person who uses the console: headless Chromium, and the contents of its page."""

from __future__ import annotations

import re
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, expect

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LIMIT = 15_000
ENDED = re.compile("done|failed|stopped")
LINK = re.compile(r"/s/[0-9a-f-]{36}#.+")
expect.set_options(timeout=LIMIT)


class Console:
    """One tab with the console. `problems` are the errors that the browser reported."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context = context
        self.page = page
        self.problems: list[str] = []
        page.set_default_timeout(LIMIT)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._on_console)

    def _on_console(self, message: Any) -> None:
        # The browser reports a lost network as an error of the page. Some tests cause that on purpose.
        if message.type == "error" and "net::ERR" not in message.text and "WebSocket" not in message.text:
            self.problems.append(message.text)

    @classmethod
    async def open(cls, browser: Browser, url: str, **options: Any) -> Console:
        """Open a link in a browser profile of its own."""
        context = await browser.new_context(**options)
        console = cls(context, await context.new_page())
        await console.page.goto(url)
        return console

    async def start(self, runtime: str = "Shell") -> None:
        """Start a session as a newcomer does, and wait until it is ready."""
        await self.page.get_by_text(runtime, exact=True).click()
        await self.page.get_by_role("button", name="Start the session").click()
        await self.page.wait_for_url("**/s/*")
        await self.wait_for_words("#bar-line", "ready")

    async def type(self, text: str) -> None:
        field = self.page.locator("#composer-field")
        await field.fill(text)
        await field.press("Enter")

    async def wait_for(self, text: str) -> None:
        """Wait until the timeline shows a text."""
        await expect(self.page.locator("#timeline")).to_contain_text(text)

    async def wait_for_words(self, selector: str, text: str) -> None:
        await expect(self.page.locator(selector)).to_contain_text(text)

    async def run(self, command: str, *expected: str) -> None:
        """Type a command, and wait for its end and for these texts in its output."""
        await self.type(command)
        last = self.page.locator("#timeline > li").filter(has_text=command).last
        await expect(last).to_have_attribute("data-status", ENDED)
        for text in expected:
            await expect(last).to_contain_text(text)

    async def timeline(self) -> str:
        return await self.page.locator("#timeline").inner_text()

    async def share_link(self) -> str:
        """Return the link with which others can take part."""
        await self.page.locator("#share").click()
        await self.page.locator('#share-choice input[value="editor"]').check()
        link = self.page.locator("#share-link")
        await expect(link).to_have_value(LINK)
        value = await link.input_value()
        await self.page.locator("#share-dialog [data-cancel]").click()
        return value
