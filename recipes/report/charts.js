"use strict";
// Draws the charts of charts.py as SVG: axes with sensible ticks, lines with gaps, intervals, a cursor for pointer and keyboard.

const NS = "http://www.w3.org/2000/svg";
const COLOURS = 6;

function node(tag, attributes, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The multiples of 1, 2 or 5 times a power of ten inside [low, high], about `count` of them. */
function ticks(low, high, count, whole) {
  let step = 10 ** Math.floor(Math.log10((high - low) / count || 1));
  for (const factor of [2, 2.5, 2]) if ((high - low) / step > count * 1.2) step *= factor;
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return { step, values: found };
}

function three(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  if (size >= 100) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

function worded(value, unit) {
  if (unit === "share") return (100 * value).toFixed(1) + " %";
  return three(value) + (unit ? " " + unit : "");
}

function tickLabel(value, step, unit, top) {
  if (unit === "share") return Number((100 * value).toFixed(Math.max(0, Math.ceil(-Math.log10(step * 100) - 1e-9)))) + " %";
  const size = Math.abs(value);
  if (size < step / 1e6) return "0";
  if (top >= 10000) return Number((value / 1000).toPrecision(4)) + "k";
  if (step < 1e-3) return Number(value.toPrecision(6)).toExponential();
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

class Plot {
  constructor(figure, chart) {
    this.chart = chart;
    this.figure = figure;
    this.place = figure.querySelector(".plot");
    this.shown = chart.lines.map(() => true);
    this.at = null; // index of the x under the cursor
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.tip.setAttribute("role", "status");
    this.place.append(this.tip);
    this.legend();
    this.draw();
    new ResizeObserver(() => {
      if (this.place.clientWidth !== this.width) this.draw();
    }).observe(this.place);
  }

  legend() {
    if (this.chart.lines.length < 2) return;
    const legend = this.figure.querySelector(".legend");
    this.chart.lines.forEach((line, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "s" + (i % COLOURS);
      button.textContent = line.label;
      button.title = "Show or hide this line";
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        this.shown[i] = !this.shown[i];
        button.setAttribute("aria-pressed", String(this.shown[i]));
        this.draw();
      });
      legend.append(button);
    });
  }

  /** Values as they are drawn: in a stack each line lies on the sum of the visible ones below. */
  levels() {
    const { lines, x, kind } = this.chart;
    if (kind !== "stack") return lines.map((line) => line.values);
    const sum = x.map(() => 0);
    return lines.map((line, i) => {
      if (this.shown[i]) line.values.forEach((value, k) => (sum[k] += value ?? 0));
      return [...sum];
    });
  }

  range() {
    const { lines, unit, zero } = this.chart;
    let low = Infinity;
    let high = -Infinity;
    lines.forEach((line, i) => {
      if (!this.shown[i]) return;
      for (const values of [this.tops[i], line.low, line.high]) {
        for (const value of values) {
          if (value === null) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    });
    if (low > high) return [0, 1];
    if (zero) low = Math.min(0, low);
    if (unit === "share" && low === 0 && high === 0) return [0, 0.1];
    if (unit === "share" && high > 0.5) return [low, Math.max(1, high)];
    if (high === low) return low === 0 ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
    const { step } = ticks(low, high, 4, false);
    return [zero && low === 0 ? 0 : Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
  }

  draw() {
    const { chart, place } = this;
    const wide = Boolean(this.figure.closest(".wide"));
    this.width = place.clientWidth || 320;
    const height = wide ? 240 : 176;
    this.tops = this.levels();
    const [low, high] = this.range();
    const rows = this.markRows();
    const box = (this.box = { left: 46, right: this.width - 10, top: 8 + 14 * rows.count, bottom: height - 22 });
    const first = Math.min(...chart.x);
    const last = Math.max(...chart.x);
    this.px = (x) => (last === first ? (box.left + box.right) / 2 : box.left + ((x - first) / (last - first)) * (box.right - box.left));
    this.py = (y) => box.bottom - ((y - low) / (high - low)) * (box.bottom - box.top);
    const svg = node("svg", {
      viewBox: `0 0 ${this.width} ${height}`, role: "img", tabindex: "0", "aria-label": this.summary(),
    });
    this.axes(svg, low, high, first, last);
    this.drawMarks(svg, rows);
    chart.lines.forEach((line, i) => this.shown[i] && this.drawLine(svg, line, i));
    this.cursor = node("g", { "aria-hidden": "true" });
    svg.append(this.cursor);
    this.listen(svg);
    const old = place.querySelector("svg");
    const focused = old !== null && old === document.activeElement;
    old?.remove();
    place.prepend(svg);
    if (focused) svg.focus();
    this.point(null);
  }

  axes(svg, low, high, first, last) {
    const { box, chart } = this;
    const y = ticks(low, high, 4, false);
    for (const value of y.values) {
      const at = this.py(value);
      svg.append(node("line", { class: "gridline", x1: box.left, x2: box.right, y1: at, y2: at }));
      svg.append(node("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, tickLabel(value, y.step, chart.unit, high)));
    }
    svg.append(node("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    const x = last > first ? ticks(first, last, this.width > 500 ? 10 : 5, true) : { values: [first], step: 1 };
    for (const value of x.values) {
      const at = this.px(value);
      const text = tickLabel(value, x.step, "", last);
      const anchor = at + text.length * 3.5 > this.width ? "end" : "middle";
      svg.append(node("line", { class: "axis", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 }));
      svg.append(node("text", { x: anchor === "end" ? this.width : at, y: box.bottom + 16, "text-anchor": anchor }, text));
    }
    svg.append(node("text", { x: box.left - 18, y: box.bottom + 16, "text-anchor": "end" }, "step"));
  }

  /** Labels of marks in as few rows as keep them apart. */
  markRows() {
    const { x, marks } = this.chart;
    const [first, last] = [Math.min(...x), Math.max(...x)];
    const left = 46;
    const span = this.width - 10 - left;
    const ends = [];
    const placed = [];
    for (const [value, label] of marks) {
      if (value < first || value > last || first === last) continue;
      const at = left + ((value - first) / (last - first)) * span;
      const size = Math.min(label.length * 6.2 + 8, span);
      const begin = Math.min(at, left + span - size);
      let row = ends.findIndex((end) => end <= begin);
      if (row < 0) row = ends.push(0) - 1;
      ends[row] = begin + size;
      placed.push({ at, begin, row, label });
    }
    return { count: ends.length, placed };
  }

  drawMarks(svg, rows) {
    for (const { at, begin, row, label } of rows.placed) {
      svg.append(node("line", { class: "mark", x1: at, x2: at, y1: 14 * row + 4, y2: this.box.bottom }));
      svg.append(node("text", { x: begin + 4, y: 14 * row + 12 }, label));
    }
  }

  drawLine(svg, line, i) {
    const { chart } = this;
    const colour = "s" + (i % COLOURS);
    const points = chart.x.map((x, k) => (line.values[k] === null ? null : [this.px(x), this.py(this.tops[i][k])]));
    const text = (p) => p[0].toFixed(1) + " " + p[1].toFixed(1);
    if (chart.kind === "stack") {
      let under = null;
      for (let j = i - 1; j >= 0 && under === null; j--) if (this.shown[j]) under = this.tops[j];
      const upper = chart.x.map((x, k) => [this.px(x), this.py(this.tops[i][k])]);
      const lower = chart.x.map((x, k) => [this.px(x), this.py(under ? under[k] : 0)]).reverse();
      svg.append(node("path", { class: "area " + colour, d: "M" + [...upper, ...lower].map(text).join("L") + "Z" }));
      return;
    }
    line.low.forEach((value, k) => {
      const top = line.high[k];
      if (value === null || top === null) return;
      const x = this.px(chart.x[k]);
      svg.append(node("path", { class: "span " + colour, "stroke-width": 1.6, fill: "none",
        d: `M${x - 4} ${this.py(top)}h8m-4 0V${this.py(value)}m-4 0h8` }));
    });
    let path = "";
    let open = false;
    points.forEach((p, k) => {
      if (p !== null) path += (open ? "L" : "M") + text(p);
      const alone = p !== null && !points[k - 1] && !points[k + 1];
      if (alone || (p !== null && chart.kind === "points"))
        svg.append(node("circle", { class: "dot " + colour, cx: p[0], cy: p[1], r: chart.kind === "points" ? 4.5 : 3 }));
      open = p !== null || (open && chart.kind === "points");
    });
    const drawn = node("path", { class: `line ${colour}${chart.kind === "points" ? " thin" : ""}`, d: path });
    svg.insertBefore(drawn, svg.querySelector("circle"));
  }

  listen(svg) {
    const { chart } = this;
    const nearest = (event) => {
      const rect = svg.getBoundingClientRect();
      const x = ((event.clientX - rect.left) / rect.width) * this.width;
      let best = 0;
      chart.x.forEach((value, k) => {
        if (Math.abs(this.px(value) - x) < Math.abs(this.px(chart.x[best]) - x)) best = k;
      });
      this.point(best);
    };
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointerleave", () => this.point(null));
    svg.addEventListener("blur", () => this.point(null));
    svg.addEventListener("keydown", (event) => {
      const last = chart.x.length - 1;
      const now = this.at ?? last + 1;
      const moved = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, (this.at ?? -1) + 1), Home: 0, End: last, Escape: null };
      if (!(event.key in moved)) return;
      event.preventDefault();
      this.point(moved[event.key]);
    });
  }

  /** Shows the values at x number k; null hides them. */
  point(k) {
    const { chart, box, tip } = this;
    this.at = k;
    this.cursor.replaceChildren();
    tip.hidden = k === null;
    if (k === null) return;
    const x = this.px(chart.x[k]);
    this.cursor.append(node("line", { class: "cursor", x1: x, x2: x, y1: box.top, y2: box.bottom }));
    const said = [`step ${chart.x[k].toLocaleString("en-US")}`];
    chart.lines.forEach((line, i) => {
      if (!this.shown[i]) return;
      const value = line.values[k];
      const name = chart.lines.length > 1 ? line.label + ": " : "";
      let text = name + (value === null ? "no value" : worded(value, chart.unit));
      const [low, high] = [line.low[k] ?? null, line.high[k] ?? null];
      if (low !== null && high !== null) text += ` (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`;
      if (line.details[k]) text += ", " + line.details[k];
      said.push(text);
      if (value !== null)
        this.cursor.append(node("circle", { class: "dot s" + (i % COLOURS), cx: x, cy: this.py(this.tops[i][k]), r: 4 }));
    });
    tip.replaceChildren(...said.map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    const share = x / this.width;
    tip.style.left = share < 0.5 ? `calc(${100 * share}% + 10px)` : "auto";
    tip.style.right = share < 0.5 ? "auto" : `calc(${100 * (1 - share)}% + 10px)`;
  }

  /** The chart in words. */
  summary() {
    const { chart } = this;
    const parts = chart.lines.map((line) => {
      const values = line.values.filter((value) => value !== null);
      if (!values.length) return `${line.label}: no values`;
      const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
      const say = (value) => worded(value, chart.unit);
      return `${line.label}: from ${say(values[0])} to ${say(values.at(-1))}, lowest ${say(low)}, highest ${say(high)}`;
    });
    return `${chart.title}, ${chart.x.length} points. ${parts.join("; ")}. Arrow keys read the values.`;
  }
}
