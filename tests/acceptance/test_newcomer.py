"""The first steps of a newcomer in a real browser, as the README promises them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.acceptance.browser import FLAGS, LINK, Console
from tests.acceptance.site import Site
from tests.requirements import wait_until


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        await browser.close()


def bash_processes(site: Site) -> list[str]:
    """Return the command lines of processes whose home is a workspace of this site."""
    found = []
    home = b"HOME=" + bytes(site.folder / "workspaces")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if home in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


async def test_output_arrives_as_it_is_printed_and_the_shell_remembers(site: Site, browser: Browser) -> None:
    console = await Console.open(browser, site.url)
    await console.start()
    await console.type("for i in 1 2 3; do echo line-$i; sleep 1; done")
    seen = []
    for i in (1, 2, 3):
        await console.wait_for(f"line-{i}")
        seen.append(time.monotonic())
        assert f"line-{i + 1}" not in await console.timeline()
    assert seen[2] - seen[0] > 1.5
    await console.wait_for("exit code 0")
    await console.run("cd /tmp && export A=7")
    await console.run("pwd; echo A is $A", "/tmp", "A is 7")
    assert console.problems == []


async def test_two_browsers_share_a_session_live_and_stop_interrupts(site: Site, browser: Browser) -> None:
    first = await Console.open(browser, site.url)
    await first.start()
    await first.run("echo from-the-first", "from-the-first")
    second = await Console.open(browser, await first.share_link())
    await second.wait_for("from-the-first")
    await second.wait_for_words("#presence", "2 here")
    await second.run("echo from-the-second", "from-the-second")
    await first.wait_for("from-the-second")
    await first.type("sleep 60")
    await second.page.locator("#stop").click()
    for console in (first, second):
        await console.wait_for("exit code 130")
        assert console.problems == []


async def test_after_a_lost_network_nothing_is_missing_and_nothing_twice(
    site: Site, browser: Browser
) -> None:
    here = await Console.open(browser, site.url)
    await here.start()
    there = await Console.open(browser, await here.share_link())
    await there.wait_for_words("#presence", "2 here")
    await here.context.set_offline(True)
    await here.wait_for_words("#connection", "offline")
    await here.type("echo typed-offline-1")
    await here.type("echo typed-offline-2")
    await there.run("echo meanwhile", "meanwhile")
    await here.wait_for_words("#connection", "2 actions waiting")
    await here.context.set_offline(False)
    for text in ("meanwhile", "typed-offline-1", "typed-offline-2"):
        for console in (here, there):
            await console.wait_for(text)
    await here.run("echo the-end", "the-end")
    await there.wait_for("the-end")
    assert await here.timeline() == await there.timeline()
    assert (await here.timeline()).count("echo typed-offline-1") == 1


async def test_a_closed_session_sleeps_and_remembers(site: Site, browser: Browser) -> None:
    console = await Console.open(browser, site.url)
    await console.start()
    await console.run("cd /tmp && export A=7")
    assert bash_processes(site)
    link, session_id = console.page.url, console.page.url.split("/s/")[1][:36]
    await console.context.close()
    wait_until(lambda: site.state(session_id) == "passivated", "passivation")
    assert bash_processes(site) == []
    ((reason,),) = site.query(
        "SELECT reason FROM ohsessions_session WHERE id = ?", session_id.replace("-", "")
    )
    assert reason == "no connection for 1 s"
    again = await Console.open(browser, link)
    await again.wait_for("export A=7")
    await again.run("pwd; echo A is $A", "/tmp", "A is 7")


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restarted_server_goes_on(make_site: Callable[..., Site], browser: Browser, end: str) -> None:
    site = make_site()
    console = await Console.open(browser, site.url)
    await console.start()
    await console.run("cd /tmp && export A=7")
    await asyncio.to_thread(getattr(site, end))
    wait_until(lambda: bash_processes(site) == [], "the end of its bash")
    await console.wait_for_words("#connection", "reconnecting")
    await asyncio.to_thread(site.start)
    started = time.monotonic()
    again = await Console.open(browser, console.page.url)
    await again.wait_for("export A=7")
    await again.run("pwd; echo A is $A", "/tmp", "A is 7")
    print(f"answered {time.monotonic() - started:.1f} s after the start")
    await console.wait_for("A is 7")


async def test_an_owner_sees_the_links_given_out_and_revokes_one_or_all(site: Site, browser: Browser) -> None:
    owner = await Console.open(browser, site.url)
    await owner.start("Echo")
    await owner.page.locator("#share").click()
    links = owner.page.locator("#share-links > li")
    await expect(owner.page.locator("#share-given")).to_be_hidden()
    addresses = []
    for name in ("Bob", "Eve"):
        await owner.page.locator("#share-label").fill(name)
        await owner.page.locator('#share-choice input[value="editor"]').check()
        await expect(owner.page.locator("#share-link")).to_have_value(LINK)
        addresses.append(await owner.page.locator("#share-link").input_value())
        await expect(links.first).to_contain_text(f"{name} takes part")
    await expect(links).to_have_count(2)
    bob, eve = [await Console.open(browser, address) for address in addresses]
    for guest in (bob, eve):
        await guest.wait_for_words("#bar-line", "ready")
    await owner.page.get_by_role("button", name="Revoke the link for Eve").click()
    await eve.wait_for_words("#banner", "was revoked")
    await expect(links).to_have_count(1)
    await expect(links.first).to_contain_text("used now")
    await owner.page.get_by_role("button", name="Revoke all").click()
    await owner.page.get_by_role("button", name="Really revoke all").click()
    await bob.wait_for_words("#banner", "was revoked")
    await owner.wait_for_words("#bar-line", "just you")
    await owner.type("still mine")
    await owner.wait_for("Echo")
    await bob.page.reload()
    await bob.wait_for_words("#dead", "This link no longer works")
    await owner.page.reload()
    await owner.wait_for("still mine")
    assert owner.problems == []
