// Turns the pages of the transcripts and starts the charts. Every text of the run is set as text, never as HTML.

function make(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function option(value, text) {
  const made = make("option", "", text);
  made.value = value;
  return made;
}

function part(root, role) {
  return root.querySelector(`[data-role="${role}"]`);
}

function block(name, text) {
  const made = make("div", name, text);
  made.dir = "auto";
  return made;
}

function promptOf(one, extra) {
  const meta = [extra, one.task && `task ${one.task}`, one.wanted && `right answer: ${one.wanted}`].filter(Boolean).join(" · ");
  return [make("div", "meta", meta), block("text", one.prompt)];
}

/** A completion: verdict, thinking (collapsible), answer. */
function card(title, one) {
  const verdict = { true: "✓ right", false: "✗ wrong" }[String(one.correct)] ?? "";
  const made = make("article", "card" + (one.correct === true ? " right" : one.correct === false ? " wrong" : ""));
  made.append(make("span", "verdict", verdict), make("h3", "", title));
  const tokens = one.tokens === null ? "" : `${one.tokens} tokens`;
  const reward = one.reward === null ? "not scored" : `reward ${three(one.reward)}`;
  made.append(make("div", "meta", [reward, tokens, one.finish].filter(Boolean).join(" · ")));
  for (const note of one.notes) made.append(make("div", "meta", note));
  if (one.thinking) {
    const thinking = make("details", "");
    thinking.open = one.thinking.length < 1500;
    thinking.append(make("summary", "", "thinking"), block("text", one.thinking));
    made.append(thinking);
  }
  made.append(one.answer ? block("text answer", one.answer) : make("div", "text answer none", "(no answer)"));
  if (one.judge) {
    const judge = make("details", "");
    judge.append(make("summary", "", "what the judge wrote"), block("text", one.judge));
    made.append(judge);
  }
  return made;
}

const FILTERS = {
  all: ["all tasks", () => true],
  gained: ["wrong → right", (a, b) => a.correct === false && b.correct === true],
  lost: ["right → wrong", (a, b) => a.correct === true && b.correct === false],
  both: ["right in both", (a, b) => a.correct === true && b.correct === true],
  none: ["wrong in both", (a, b) => a.correct === false && b.correct === false],
};

function compare(root, evaluations, [before, after]) {
  const [left, right, filter] = ["left", "right", "filter"].map((role) => part(root, role));
  const [prev, next, place] = ["prev", "next", "place"].map((role) => part(root, role));
  evaluations.forEach((one, i) => {
    left.append(option(i, one.label));
    right.append(option(i, one.label));
  });
  left.value = before ?? after ?? 0;
  right.value = after ?? 0;
  let at = 0;

  function pairs() {
    const [a, b] = [evaluations[left.value].rows, evaluations[right.value].rows];
    return Object.keys(a).filter((key) => key in b).map((key) => [a[key], b[key]]);
  }

  function refill() {
    const chosen = filter.value || "all";
    filter.replaceChildren();
    for (const [name, [label, fits]] of Object.entries(FILTERS)) {
      const count = pairs().filter(([a, b]) => fits(a, b)).length;
      if (count || name === "all") filter.append(option(name, `${label} (${count})`));
    }
    filter.value = [...filter.options].some((one) => one.value === chosen) ? chosen : "all";
    at = 0;
    show();
  }

  function show() {
    const found = pairs().filter(([a, b]) => FILTERS[filter.value][1](a, b));
    at = Math.max(0, Math.min(at, found.length - 1));
    prev.disabled = at === 0;
    next.disabled = at >= found.length - 1;
    place.textContent = found.length ? `${at + 1} / ${found.length}` : "no task";
    const boxes = ["prompt", "left-card", "right-card"].map((role) => part(root, role));
    boxes.forEach((box) => box.replaceChildren());
    if (!found.length) return;
    const [a, b] = found[at];
    boxes[0].append(...promptOf(b, ""));
    boxes[1].append(card(evaluations[left.value].label, a));
    boxes[2].append(card(evaluations[right.value].label, b));
  }

  for (const one of [left, right]) one.addEventListener("change", refill);
  filter.addEventListener("change", () => ((at = 0), show()));
  prev.addEventListener("click", () => (at--, show()));
  next.addEventListener("click", () => (at++, show()));
  refill();
}

function samples(root, found) {
  const [slider, prev, next, place] = ["slider", "prev", "next", "place"].map((role) => part(root, role));
  slider.max = found.length - 1;

  function show(at) {
    const one = found[at];
    slider.value = at;
    prev.disabled = at === 0;
    next.disabled = at === found.length - 1;
    place.textContent = `${one.stage} ${one.step}`;
    slider.setAttribute("aria-valuetext", `${one.stage}, step ${one.step}`);
    part(root, "prompt").replaceChildren(...promptOf(one, ""));
    part(root, "card").replaceChildren(card(`${one.stage}, step ${one.step}`, one));
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
  prev.addEventListener("click", () => show(Number(slider.value) - 1));
  next.addEventListener("click", () => show(Number(slider.value) + 1));
  show(found.length - 1);
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const figure of document.querySelectorAll("[data-chart]")) new Plot(figure, data.charts[Number(figure.dataset.chart)]);
  const turners = ["compare-turner", "samples-turner"].map((id) => document.getElementById(id));
  if (turners[0] && data.evaluations.length) compare(turners[0], data.evaluations, data.compare);
  if (turners[1] && data.samples.length) samples(turners[1], data.samples);
}

start();
