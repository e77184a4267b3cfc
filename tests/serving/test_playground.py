"""The playground in a real browser: sliders, streams, colours, links, the keyboard and a phone."""

import json
import re
import shutil
import urllib.parse

import httpx2
import pytest
from playwright.sync_api import expect, sync_playwright

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.serving.pages import front_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")
BOTH = "Both replies are complete."


def sweep():
    def cell(x, y):
        return [{"value": x, "low": x, "high": x}, {"value": y, "low": y, "high": y}]

    rewards = [cell(1.0, -0.2), cell(0.6, 0.5), cell(0.0, 0.9)]
    return {
        "objectives": ["humor", "kind"],
        "weightings": [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]],
        "methods": {"mavis": {"rewards": rewards}, "best_of": {"rewards": [*rewards[:2], None]}},
    }


@pytest.fixture(scope="module")
def page_of(serving, tiny_network):
    """A server of the embedded reference and two objectives, whose random values matter."""
    reference = ReferencePolicy.load("sandbox/reference", None, "cpu")
    network = tiny_network(reference, "shared", ("humor", "kind"))
    policy = GuidedPolicy(reference, (network,))
    with serving(of=policy, longest=128, front=front_of(sweep(), ("humor", "kind"))) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser, page_of):
    """The playground, in which nothing may complain."""
    opened, said = browser.new_page(), []
    # A browser logs answers of status 400, too, which the page shows.
    opened.on("console", lambda one: said.append(one.text) if "400" not in one.text else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    foreign = []
    opened.on("request", lambda one: foreign.append(one.url))
    opened.goto(page_of.url)
    expect(opened.locator("#weights input")).to_have_count(2)
    yield opened
    opened.close()
    assert said == []
    assert all(url.startswith((page_of.url, "data:")) for url in foreign)


@needs_browser
def test_a_slider_moves_and_the_answer_is_another(page, page_of):
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_text(BOTH)).to_be_visible(timeout=60_000)
    reference, first = page.inner_text("#reference"), page.inner_text("#guided")
    assert reference
    page.get_by_role("slider", name="humor").fill("2")
    page.get_by_role("slider", name="kind").fill("-2")
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_text("Writing")).not_to_be_visible(timeout=60_000)
    expect(page.get_by_text(BOTH)).to_be_visible(timeout=60_000)
    assert page.inner_text("#guided") != first
    assert page.inner_text("#reference") == reference  # the seed is the same
    chat = [{"role": "user", "content": "How do I cook rice?"}]
    (wanted,) = page_of.policy.generate([chat], {"humor": 2.0, "kind": -2.0}, seed=1)
    assert page.text_content("#guided") == wanted.text
    tokens = page.locator("#guided .token")
    assert tokens.count() > 0
    assert re.fullmatch(
        r"humor [+-]\d+\.\d\d\nkind [+-]\d+\.\d\d", tokens.first.get_attribute("title")
    )
    assert "nats from the reference" in page.inner_text("#guided-facts")


@needs_browser
def test_a_link_carries_the_settings(page, browser):
    page.get_by_label("Prompt").fill("Why do dogs bark?")
    page.get_by_role("slider", name="kind").fill("-1.5")
    page.get_by_label("Seed").fill("7")
    page.wait_for_url(re.compile("seed%22%3A7"))
    url = page.url
    kept = json.loads(urllib.parse.unquote(url.split("#")[1]))
    assert kept["weights"]["kind"] == -1.5
    other = browser.new_page()
    other.goto(url)
    expect(other.get_by_label("Prompt")).to_have_value("Why do dogs bark?")
    expect(other.get_by_role("slider", name="kind")).to_have_value("-1.5")
    expect(other.get_by_label("Seed")).to_have_value("7")
    other.goto("about:blank")
    other.goto(url.split("#")[0] + "#%7Bbroken")
    expect(other.get_by_text("The link's settings cannot be read")).to_be_visible()
    other.close()


@needs_browser
def test_the_keyboard_is_enough(page):
    page.get_by_role("slider", name="humor").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("output").first).to_have_text("0.8")
    page.locator("circle.point").nth(2).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("slider", name="humor")).to_have_value("1")
    expect(page.locator("#status")).to_contain_text("Weights: humor 1.00, kind 0.00.")


@needs_browser
def test_a_point_of_the_front_sets_the_weights(page):
    expect(page.get_by_role("heading", name="Front")).to_be_visible()
    page.locator("circle.point").first.click()
    expect(page.get_by_role("slider", name="humor")).to_have_value("0")
    expect(page.get_by_role("slider", name="kind")).to_have_value("1")


@needs_browser
def test_errors_are_shown(page):
    page.get_by_label("Longest reply").fill("5")
    page.get_by_label("Prompt").fill("rice " * 200)
    page.get_by_role("button", name="Answer").click()
    expect(page.locator("#status")).to_contain_text("shorten one of them", timeout=60_000)
    assert page.inner_text("#guided") == ""


@needs_browser
def test_it_fits_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 740})
    wide = page.locator("html").evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert wide[0] <= wide[1]
    box = page.get_by_role("slider", name="humor").bounding_box()
    assert box["width"] >= 200


def test_the_page_is_small_and_loads_nothing_from_elsewhere(page_of):
    size = 0
    for path in ("/", "/playground/app.js", "/playground/style.css", "/playground/facts.json"):
        response = httpx2.get(f"{page_of.url}{path}")
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "http" not in response.text.replace("http://www.w3.org/2000/svg", "")
        size += len(response.content)
    assert size <= 100_000


def test_a_front_is_of_two_objectives_that_are_served():
    found = front_of(sweep(), ("kind", "humor", "sense"))
    assert [method["name"] for method in found["methods"]] == ["best_of", "mavis"]
    assert [point["weights"][0] for point in found["methods"][1]["points"]] == [0.0, 0.5, 1.0]
    for objectives in (["humor"], ["humor", "wit"]):
        with pytest.raises(ValueError, match="two objectives that are served"):
            front_of(sweep() | {"objectives": objectives}, ("humor", "kind"))
