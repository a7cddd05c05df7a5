// Charts of the last minutes: lines over time, with a cursor for pointers and arrow keys.

import { clock } from "/format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 900;
const HEIGHT = 100;

// A pause longer than this between two rows is a gap in the lines, in milliseconds.
const GAP_MS = 15_000;

// The rows of the history, as the server sends them: a time, then a value for each column. Times are milliseconds since the server began
// to read figures, by a clock that never jumps.
export class Rows {
  constructor() {
    this.columns = [];
    this.rows = [];
    this.spanMs = 15 * 60 * 1000;
    this.atMs = 0;
  }

  take(history, replaces) {
    this.columns = history.columns;
    this.spanMs = history.step_ms * history.rows_max;
    this.atMs = history.at_ms;
    const rows = replaces ? history.rows : this.rows.concat(history.rows);
    const firstMs = this.atMs - this.spanMs;
    // A page that was hidden has rows that are too old.
    this.rows = rows.filter(([atMs]) => atMs >= firstMs && atMs <= this.atMs).slice(-history.rows_max);
  }

  // The place of a column in a row. A server that does not have the column has nothing there.
  place(column) {
    const place = this.columns.indexOf(column) + 1;
    return place > 0 ? place : Infinity;
  }
}

export class Chart {
  // `series` are pairs of a column and what it is called. `format` makes text of a value. The scale reaches at least `least`.
  constructor({ title, hint, series, format, least, isBytes = false }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.isBytes = isBytes;
    this.title = title;
    this.at = null;
    this.root = make("figure", "chart");
    const heading = make("h3", "", title);
    if (hint) heading.append(" ", make("small", "", hint));
    const legend = make("ul");
    this.values = series.map(([, name], index) => {
      const item = make("li");
      const value = make("b");
      item.append(make("i", `series-${index + 1}`), `${name} `, value);
      legend.append(item);
      return value;
    });
    this.plot = make("div", "plot");
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "slider");
    this.plot.setAttribute("aria-label", `${title}: time`);
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const y of [0, HEIGHT / 2, HEIGHT]) svg.append(draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.areas = series.map((_, index) => svg.appendChild(draw("path", { class: `area series-${index + 1}` })));
    this.lines = series.map((_, index) => svg.appendChild(draw("path", { class: `series-${index + 1}` })));
    this.cursor = svg.appendChild(draw("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" }));
    this.most = make("span", "most");
    this.half = make("span", "half");
    this.plot.append(svg, this.half, this.most);
    this.from = make("span", "", "15 min ago");
    const times = make("div", "times");
    times.append(this.from, make("span", "", "now"));
    this.root.append(heading, legend, this.plot, times);
    this.listen();
  }

  // Shows the rows, and the present values of all columns. `wallMs` is the present time of the day.
  show(rows, now, wallMs) {
    this.rows = rows;
    this.now = now;
    this.wallMs = wallMs;
    this.places = this.series.map(([column]) => rows.place(column));
    this.shown = [...rows.rows, [rows.atMs, ...now]];
    const values = this.shown.flatMap((row) => this.places.map((place) => row[place] ?? 0));
    this.top = niceAbove(Math.max(this.least, ...values), this.isBytes);
    setText(this.most, this.format(this.top));
    setText(this.half, this.format(this.top / 2));
    this.places.forEach((place, index) => {
      const [line, area] = this.path(place);
      this.lines[index].setAttribute("d", line);
      this.areas[index].setAttribute("d", area);
    });
    this.tell();
  }

  x(atMs) {
    return WIDTH * (1 - (this.rows.atMs - atMs) / this.rows.spanMs);
  }

  path(place) {
    let line = "";
    let area = "";
    let run = [];
    const end = () => {
      if (run.length > 0) {
        const points = run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(2)}`);
        // A single point has to have a length to be seen.
        line += `M${points.join("L")}${run.length === 1 ? "h.1" : ""}`;
        area += `M${run[0][0].toFixed(1)} ${HEIGHT}L${points.join("L")}L${run.at(-1)[0].toFixed(1)} ${HEIGHT}Z`;
      }
      run = [];
    };
    let before = null;
    for (const row of this.shown) {
      const value = row[place] ?? null;
      if (value === null || (before !== null && row[0] - before > GAP_MS)) end();
      if (value !== null) run.push([this.x(row[0]), HEIGHT * (1 - value / this.top)]);
      before = row[0];
    }
    end();
    return [line, area];
  }

  listen() {
    const leave = () => { this.at = null; this.tell(true); };
    const point = (event) => {
      if (!this.rows) return;
      const box = this.plot.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      this.at = this.nearest(this.rows.atMs - (1 - part) * this.rows.spanMs);
      this.tell(true);
    };
    this.plot.addEventListener("pointermove", point);
    // A finger that only touches does not move.
    this.plot.addEventListener("pointerdown", point);
    this.plot.addEventListener("pointerleave", leave);
    this.plot.addEventListener("focus", () => this.tell(true));
    this.plot.addEventListener("blur", leave);
    this.plot.addEventListener("keydown", (event) => {
      const rows = this.rows?.rows ?? [];
      if (event.key === "Escape") leave();
      const last = rows.length - 1;
      const index = this.at === null ? last + 1 : rows.findIndex((row) => row[0] === this.at);
      const to = { ArrowLeft: index - 1, ArrowRight: index + 1, PageUp: index - 12, PageDown: index + 12, Home: 0, End: last }[event.key];
      if (to === undefined || last < 0) return;
      event.preventDefault();
      this.at = to > last ? null : rows[Math.max(0, to)][0];
      this.tell(true);
    });
  }

  nearest(atMs) {
    let nearest = null;
    for (const [time] of this.rows?.rows ?? []) {
      if (nearest === null || Math.abs(time - atMs) < Math.abs(nearest - atMs)) nearest = time;
    }
    return nearest;
  }

  // Says the values at the cursor, or the present ones. To who has the focus there only when it is asked for: else a screen reader would
  // talk each second.
  tell(isAsked = document.activeElement !== this.plot) {
    if (!this.rows) return;
    const row = this.rows.rows.find(([time]) => time === this.at);
    const values = this.places.map((place) => (row ? row[place] : this.now[place - 1]));
    const texts = values.map((value) => (value === null || value === undefined ? "–" : this.format(value)));
    texts.forEach((text, index) => setText(this.values[index], text));
    const time = row ? clock(this.wallMs - (this.rows.atMs - row[0])) : "now";
    setText(this.from, row ? `at ${time}` : "15 min ago");
    this.cursor.setAttribute("visibility", row ? "visible" : "hidden");
    if (row) {
      const x = this.x(row[0]);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
    }
    const rows = this.rows.rows;
    this.plot.setAttribute("aria-valuemin", 0);
    this.plot.setAttribute("aria-valuemax", rows.length);
    if (!isAsked) return;
    this.plot.setAttribute("aria-valuenow", row ? rows.indexOf(row) : rows.length);
    const told = this.series.map(([, name], index) => `${name} ${texts[index]}`);
    this.plot.setAttribute("aria-valuetext", `${time}: ${told.join(", ")}`);
  }
}

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

// What has not changed stays: a selection in it, and what a reader of the screen reads.
export function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A round number that is not below `value`: a few steps times a power of ten, or of two for bytes.
function niceAbove(value, isBytes) {
  const base = isBytes ? 2 : 10;
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  const steps = isBytes ? [1, 1.5, 2] : [1, 1.5, 2, 3, 4, 5, 6, 8, 10];
  return power * (steps.find((step) => step * power >= value * 0.999) ?? base);
}
