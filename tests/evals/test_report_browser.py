"""The page in headless Chromium. BUDGETCTL_BROWSER names the browser; where it is set nothing is skipped."""

import random

import numpy as np
import pytest
from budgetctl.evals import report, verdict
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.results import Result

from ..browsing import WANTED, chromium, wait_for  # noqa: TID252 - tests are no package: no absolute name
from .worlds import row

HOSTILE = "</script><script>window.broken = true</script><b>What</b> is 1 + 1?"
POLICIES = {"full": 1.0, "off": 0.55, "cap:50": 0.8, "cap:100": 0.9, "quantile:0.9": 0.97, "auto": 0.99}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def world(n, *, text=200):
    """Results of ``n`` questions under six policies: what is right, what it cost, what was thought."""
    rng = random.Random(0)
    filler = "Let me check that once more. " * (text // 29 + 1)
    runs = {name: [] for name in POLICIES}
    rows = []
    for i in range(n):
        length = rng.randint(20, 400)
        rows.append(
            row(
                str(i),
                "natural",
                dataset="made",
                correct=True,
                question=f"{HOSTILE if i == 0 else 'What is it?'} Number {i}. {filler[:text]}",
                reference_answer=str(i),
                level=1 + i % 4,
                subject=("sums", "clocks", "days")[i % 3],
            )
        )
        for name, share in POLICIES.items():
            tokens = {"off": 0, "cap:50": 50, "cap:100": 100}.get(name, length)
            right = rng.random() < share
            runs[name].append(
                Result(
                    question_id=f"made/{i}",
                    correct=right,
                    answer=str(i if right else -1),
                    thinking_tail=f"{filler[:text]} That is what {name} thought about {i}.",
                    stop="cap" if tokens < length else "natural",
                    p_correct=share if name == "quantile:0.9" else None,
                    reasoning_tokens=min(tokens, length),
                    output_tokens=tokens + 10,
                    ttfo_s=0.2 + tokens / 100,
                    e2e_s=0.3 + tokens / 100,
                    cost_usd=tokens / 1e5,
                )
            )
    return runs, rows


def write(folder, n, **more):
    runs, rows = world(n, **more)
    found = evaluate(runs, rng=np.random.default_rng(0), asked=["full", "off", "quantile:0.9", "auto"])
    made = report.Report(
        title="Made up",
        evaluation=found,
        verdict=verdict.decide(found),
        settings={"margin": 0.02},
        details=report.details(runs, found, questions=rows),
    )
    return made, report.write(made, folder)["html"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"), 240)


@pytest.fixture
def page(browser, made):
    return opened(browser, made[1])


def opened(browser, path, *, width=1280, scheme="light"):
    """Open the page anew and wait until it has drawn everything."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(path.as_uri())
    wait_for(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    return browser


def all_of(page, selector):
    return page.find_elements("css selector", selector)


def one(page, selector):
    [found] = all_of(page, selector)
    return found


def said(page, figure):
    """What the marks of a figure say to a screen reader."""
    return [mark.get_attribute("aria-label") for mark in all_of(page, f"#{figure} .chart [aria-label]")]


def choose(page, name, value):
    one(page, f"#questions [name={name}] option[value='{value}']").click()


def test_every_chart_is_drawn_without_an_error_or_a_request(page):
    assert [entry["message"] for entry in page.get_log("browser")] == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.execute_script("return window.broken") is None, "a question's text was run"
    figures = [figure.get_attribute("id") for figure in all_of(page, "section:has(figure)")]
    assert figures == ["tradeoff", "forest", "latency", "spent", "reliability", "risk"]
    for figure in figures:
        one(page, f"#{figure} .chart svg")
        assert len(said(page, figure)) >= 3, figure


def test_the_costs_switch_by_keyboard(page):
    def title():
        return [text.text for text in all_of(page, "#tradeoff .chart .role-axis-title text")]

    assert "mean reasoning tokens per question" in title()
    one(page, "#tradeoff input[value='0']").send_keys("\ue014")  # arrow to the right
    wait_for(lambda: "p95 seconds to the end of the answer" in title())
    names = [text.text for text in all_of(page, "#tradeoff .chart .mark-text.role-mark text")]
    assert {"full", "off", "auto"} <= set(names), "the points are labelled"
    all_of(page, "#tradeoff input[type=radio]")[2].click()
    wait_for(lambda: "mean dollars per request" in title())
    all_of(page, "#tradeoff input[type=radio]")[3].click()
    wait_for(lambda: "dollars per right answer" in title())
    assert [entry["message"] for entry in page.get_log("browser")] == []


def test_a_policy_that_is_unticked_leaves_every_chart(page):
    def drawn(figure):
        return [text for text in said(page, figure) if "quantile:0.9" in text.splitlines()[0]]

    assert drawn("tradeoff")
    assert drawn("forest")
    one(page, "#shown input[value='quantile:0.9']").click()
    wait_for(lambda: not drawn("tradeoff") and not drawn("forest") and not drawn("latency"))
    assert not [text for text in said(page, "tradeoff") if "cap:50" in text.splitlines()[0]], (
        "caps start hidden"
    )
    one(page, "#shown input[value='cap:50']").click()
    wait_for(lambda: [text for text in said(page, "tradeoff") if "cap:50" in text.splitlines()[0]])


def test_a_pointer_is_told_the_numbers(page):
    from selenium.webdriver import ActionChains

    marks = all_of(page, "#tradeoff .chart [aria-label]")
    [point] = [m for m in marks if m.get_attribute("aria-label").startswith("policy: off")]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(page).move_to_element(point).perform()
    tip = wait_for(lambda: one(page, "#tip").text)
    assert tip.startswith("policy: off\naccuracy (95 % CI): ")


def test_questions_are_found_by_result_group_and_words(page, made):
    row = made[0].evaluation.row("off")
    choose(page, "policy", "off")
    choose(page, "outcome", "harm")
    wait_for(lambda: one(page, "#questions output").text == f"{row.harm} of 240 calls")
    choose(page, "group", "sums")
    shown = int(one(page, "#questions output").text.split()[0])
    assert 0 < shown < row.harm
    choose(page, "group", "")
    choose(page, "outcome", "all")
    one(page, "#questions [name=search]").send_keys("number 17.")
    wait_for(lambda: one(page, "#questions output").text == "1 of 240 calls")
    one(page, "#questions .question > summary").click()
    body = wait_for(lambda: all_of(page, "#questions .question .body"))[0].text
    assert "Reference: 17" in body
    for name in POLICIES:
        assert name in body
    [cut] = [d for d in all_of(page, "#questions .body details") if d.text.startswith("off")]
    assert cut.text == "off: thinking at the cut (cap)"
    cut.find_element("css selector", "summary").click()
    assert "That is what off thought about 17." in cut.text


def test_pages_of_questions_turn(page):
    first = one(page, "#questions .list").text
    assert not one(page, "#questions [name=before]").is_enabled()
    one(page, "#questions [name=after]").click()
    assert one(page, "#questions .pager span").text == "page 2 of 10"
    assert one(page, "#questions .list").text != first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser, made, width, scheme):
    page = opened(browser, made[1], width=width, scheme=scheme)
    one(page, "#questions .list .question:first-child > summary").click()
    inside, screen = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert inside <= screen == width
    chart = one(page, "#tradeoff .chart svg").rect["width"]
    assert 200 < chart <= width
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[scheme]
    ink = "return getComputedStyle(document.querySelector('#tradeoff .role-axis-title text')).fill"
    assert page.execute_script(ink) == {"light": "rgb(28, 34, 40)", "dark": "rgb(233, 236, 239)"}[scheme]


def test_charts_follow_the_width_of_the_window(browser, made):
    page = opened(browser, made[1], width=1280)
    wide = one(page, "#tradeoff .chart svg").rect["width"]
    size = {"width": 700, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_for(lambda: one(page, "#tradeoff .chart svg").rect["width"] < 700 < wide)


def test_without_scripts_there_are_verdict_table_and_picture(browser, made):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(made[1].as_uri())
        assert one(browser, ".verdict").is_displayed()
        assert one(browser, "#results table").is_displayed()
        assert one(browser, "noscript svg").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_every_control_and_table_has_a_name(page):
    unnamed = """return [...document.querySelectorAll('input, select, button')]
        .filter(c => !c.labels?.[0]?.textContent.trim() && !c.textContent.trim()).map(c => c.outerHTML)"""
    assert page.execute_script(unnamed) == []
    assert page.execute_script("return [...document.querySelectorAll('th:not([scope])')].length") == 0
    headings = page.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
    assert headings[0] == "H1"
    assert set(headings[1:]) == {"H2"}


@pytest.mark.skipif(not WANTED, reason="a measurement: make test-browser")
def test_ten_thousand_results_load_in_three_seconds(browser, tmp_path):
    _, path = write(tmp_path, 1700, text=400)  # x 6 policies
    loads = []
    for _ in range(3):
        opened(browser, path)
        loads.append(float(browser.execute_script("return document.documentElement.dataset.ready")) / 1000)
    size = path.stat().st_size / 1e6
    print(f"\n10,200 results, {size:.1f} MB: drawn after {', '.join(f'{s:.2f}' for s in loads)} s")
    assert sorted(loads)[1] < 3
    assert size < 10
