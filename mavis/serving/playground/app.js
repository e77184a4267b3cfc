// The playground: two streams of one prompt, the reference policy's and the guided one's.
"use strict";

const HUES = 8;
const FIELDS = ["beta", "temperature", "max_tokens", "seed"];
const $ = (id) => document.getElementById(id);
let objectives = [];
let running = null; // AbortController of the request that is being answered

function make(name, attributes = {}, ...children) {
  const space = ["svg", "circle", "path", "text", "line", "title"].includes(name);
  const node = space
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// What a prompt is asked with

function sliders() {
  return [...document.querySelectorAll("#weights input")];
}

function show(slider) {
  const value = Number(slider.value);
  slider.nextElementSibling.textContent = value.toFixed(1);
}

function setWeights(weights) {
  for (const slider of sliders()) {
    slider.value = weights[slider.name] ?? 0;
    show(slider);
  }
}

function addSliders(weights) {
  objectives.forEach((name, at) => {
    const slider = make("input", { type: "range", id: `w-${at}`, name, min: -2, max: 2, step: 0.1 });
    const mark = make("span", { class: `mark hue-${at % HUES}`, "aria-hidden": "true" });
    const label = make("label", { for: `w-${at}` }, mark, name);
    const row = make("div", { class: "weight" }, label, slider, make("output", { for: `w-${at}` }));
    slider.addEventListener("input", () => { show(slider); keep(); });
    $("weights").append(row);
  });
  setWeights(weights);
}

function settings() {
  const found = { prompt: $("prompt").value, weights: {} };
  for (const slider of sliders()) found.weights[slider.name] = Number(slider.value);
  for (const name of FIELDS) if ($(name).value !== "") found[name] = Number($(name).value);
  return found;
}

function keep() {
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(settings()))}`);
}

function restore() {
  if (location.hash.length < 2) return;
  try {
    const given = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    if (typeof given.prompt === "string") $("prompt").value = given.prompt;
    for (const name of FIELDS) if (Number.isFinite(given[name])) $(name).value = given[name];
    if (given.weights && typeof given.weights === "object") setWeights(given.weights);
  } catch {
    say("The link's settings cannot be read; these are the server's.");
  }
}

// Asking

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function refused(response) {
  if (response.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
  }
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}.`);
}

async function* chunks(body, signal) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw await refused(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}

function token(text, parts) {
  const named = Object.entries(parts ?? {});
  if (!named.length) return make("span", {}, text);
  const [name, part] = named.reduce((a, b) => (Math.abs(b[1]) > Math.abs(a[1]) ? b : a));
  const node = make("span", { class: `token hue-${objectives.indexOf(name) % HUES}` }, text);
  if (part < 0) node.classList.add("against");
  node.style.setProperty("--share", `${Math.min(60, 100 * Math.tanh(Math.abs(part) / 3))}%`);
  node.title = named.map(([one, x]) => `${one} ${x >= 0 ? "+" : ""}${x.toFixed(2)}`).join("\n");
  return node;
}

async function answer(place, body, signal) {
  const box = $(place);
  const facts = $(`${place}-facts`);
  box.replaceChildren();
  facts.textContent = "";
  let count = 0;
  for await (const chunk of chunks(body, signal)) {
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (choice.delta?.content) box.append(token(choice.delta.content, choice.mavis?.attribution?.[0]?.parts));
    count += choice.mavis?.attribution ? 1 : 0;
    if (choice.finish_reason) {
      const kl = choice.mavis?.kl ?? 0;
      facts.textContent = `${count} tokens, ${kl.toFixed(2)} nats from the reference`;
    }
  }
}

function say(text) {
  $("status").textContent = text;
}

async function run(event) {
  event.preventDefault();
  running?.abort();
  const mine = (running = new AbortController());
  const { prompt, weights, beta, ...rest } = settings();
  const body = { messages: [{ role: "user", content: prompt }], stream: true, attribution: true, ...rest };
  const guided = { ...body, model: "mavis", weights, ...(beta !== undefined && { beta }) };
  keep();
  say("Writing …");
  $("stop").disabled = false;
  try {
    await Promise.all([
      answer("reference", { ...body, model: "reference" }, mine.signal),
      answer("guided", guided, mine.signal),
    ]);
    say("Both replies are complete.");
  } catch (error) {
    if (mine === running) say(error.name === "AbortError" ? "Stopped." : `It failed: ${error.message}`);
    mine.abort();
  } finally {
    if (mine === running) $("stop").disabled = true;
  }
}

// The front of a sweep

function drawFront(front) {
  const points = front.methods.flatMap((method) => method.points.map((point) => point.rewards));
  if (!points.length) return;
  const range = (at) => {
    const values = points.map((rewards) => rewards[at]);
    const [low, high] = [Math.min(...values, 0), Math.max(...values, 0)];
    const margin = 0.08 * (high - low || 1);
    return [low - margin, high + margin];
  };
  const [left, right] = range(0);
  const [low, high] = range(1);
  const x = (value) => 48 + (420 * (value - left)) / (right - left);
  const y = (value) => 280 - (264 * (value - low)) / (high - low);
  const plot = $("plot");
  plot.append(make("line", { class: "grid", x1: x(0), x2: x(0), y1: 16, y2: 280 }));
  plot.append(make("line", { class: "grid", x1: 48, x2: 468, y1: y(0), y2: y(0) }));
  plot.append(make("text", { x: 258, y: 310, "text-anchor": "middle" }, front.objectives[0]));
  plot.append(make("text", { x: 14, y: 148, "text-anchor": "middle", transform: "rotate(-90 14 148)" }, front.objectives[1]));
  for (const share of [0.1, 0.5, 0.9]) {
    const [across, up] = [left + share * (right - left), low + share * (high - low)];
    plot.append(make("text", { x: x(across), y: 296, "text-anchor": "middle" }, across.toFixed(1)));
    plot.append(make("text", { x: 44, y: y(up) + 4, "text-anchor": "end" }, up.toFixed(1)));
  }
  front.methods.forEach((method, at) => {
    const style = method.name === "mavis" ? "mavis" : "best";
    plot.append(make("line", { class: style, x1: 380, x2: 404, y1: 24 + 18 * at, y2: 24 + 18 * at }));
    plot.append(make("text", { x: 410, y: 28 + 18 * at }, style === "mavis" ? "guided" : "best of N"));
  });
  for (const method of front.methods) {
    const path = method.points.map(({ rewards }, at) => `${at ? "L" : "M"}${x(rewards[0])} ${y(rewards[1])}`);
    plot.append(make("path", { class: method.name === "mavis" ? "mavis" : "best", d: path.join(" ") }));
    for (const { rewards, weights } of method.name === "mavis" ? method.points : []) {
      const told = front.objectives.map((name, at) => `${name} ${weights[at].toFixed(2)}`).join(", ");
      const point = make(
        "circle",
        { class: "point", cx: x(rewards[0]), cy: y(rewards[1]), r: 6, tabindex: 0, role: "button", "aria-label": `weights ${told}` },
        make("title", {}, told),
      );
      const set = () => {
        setWeights(Object.fromEntries(front.objectives.map((name, at) => [name, weights[at]])));
        keep();
        say(`Weights: ${told}.`);
      };
      point.addEventListener("click", set);
      point.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); set(); }
      });
      plot.append(point);
    }
  }
  $("front").hidden = false;
}

async function begin() {
  const facts = await (await fetch("/playground/facts.json")).json();
  objectives = facts.objectives;
  addSliders(facts.weights);
  $("server").textContent = `${facts.reference}, ${objectives.length ? `guided by ${objectives.join(", ")}` : "without value models"}`;
  $("max_tokens").max = facts.longest;
  $("legend").hidden = !objectives.length;
  if (facts.front) drawFront(facts.front);
  restore();
}

$("form").addEventListener("submit", run);
$("form").addEventListener("input", keep);
$("stop").addEventListener("click", () => running?.abort());
$("link").addEventListener("click", async () => {
  keep();
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied.");
  } catch {
    say("The link is in the address bar.");
  }
});
begin().catch((error) => say(`It failed: ${error.message}`));
