// A number over the last minutes, as a line that steps where the number changed.

const MINUTE_MS = 60_000;
const WINDOWS = [0.5, 1, 2, 5, 10].map((minutes) => minutes * MINUTE_MS); // the shortest that holds all there is
const WINDOW_MS_MAX = WINDOWS.at(-1);
const APART_MS = 500; // points nearer to each other become one
const LINES = 3; // across, at most
const RIGHT = 6;
const DIGIT = 6.6; // a digit's width, at 11 px
const ABOVE = 16;
const BELOW = 18;
const HEIGHT = 176;
const SVG = "http://www.w3.org/2000/svg";
const numbers = new Intl.NumberFormat();
const times = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Round numbers from `low` to `high`, at most LINES steps apart: the first is at or below, the last at or above.
export function ticks(low, high) {
  const rough = Math.max((high - low) / LINES, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= rough) * power);
  const first = Math.floor(low / step) * step;
  const found = [];
  for (let tick = first; found.length < 2 || found.at(-1) < high; tick += step) found.push(tick);
  return found;
}

// Points from `since` on, the value at `since` included.
export function within(points, since) {
  const first = points.findIndex(([at]) => at >= since);
  if (first === 0 || points.length === 0) return points;
  const before = points.at(first < 0 ? -1 : first - 1);
  return [[since, before[1]], ...(first < 0 ? [] : points.slice(first))];
}

export class Plot {
  #points = [];
  #figure;
  #key;
  #svg = draw("svg", { role: "img", "aria-label": "No number has come yet" });
  #summary = document.createElement("span");
  #pointed = null;
  #until = null; // while the number is not known any more: since when

  // Draws into a <figure>; what has been seen outlives a reload of the tab under `key`.
  constructor(figure, key) {
    this.#figure = figure;
    this.#key = `plot ${key}`;
    this.#recall();
    figure.querySelector("figcaption").append(this.#summary);
    figure.prepend(this.#svg);
    new ResizeObserver(() => this.draw()).observe(figure);
    this.#svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.#svg.addEventListener("pointerleave", () => this.#point(null));
    setInterval(() => document.hidden || this.draw(), 1000);
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#keep() : this.draw()));
    addEventListener("pagehide", () => this.#keep());
  }

  take(value) {
    const now = Date.now();
    const last = this.#points.at(-1);
    if (last && now - last[0] < APART_MS && this.#points.length > 1) last[1] = Number(value);
    else this.#points.push([now, Number(value)]);
    this.draw();
  }

  // Whether the number is known: where it is not, the line ends.
  hold(isKnown) {
    this.#until = isKnown ? null : (this.#until ?? Date.now());
  }

  #recall() {
    try {
      this.#points = JSON.parse(sessionStorage.getItem(this.#key)) ?? [];
    } catch {
      this.#points = [];
    }
  }

  #keep() {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify(this.#points));
    } catch {
      // Full, or not allowed: then the line begins anew.
    }
  }

  #point(x) {
    this.#pointed = x;
    this.draw();
  }

  draw() {
    const now = Date.now();
    this.#points = within(this.#points, now - WINDOW_MS_MAX);
    const width = this.#figure.clientWidth;
    if (!this.#points.length || !width) return;
    const since = this.#points[0][0];
    const windowMs = WINDOWS.find((windowMs) => now - since <= windowMs) ?? WINDOW_MS_MAX;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const values = this.#points.map(([, value]) => value);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const lines = ticks(low > 0 && low < high / 2 ? 0 : low, high);
    const [bottom, top] = [lines[0], lines.at(-1)];
    const left = 8 + DIGIT * Math.max(...lines.map((line) => numbers.format(line).length));
    const wide = width - left - RIGHT;
    const scale = {
      x: (at) => left + ((at - now) / windowMs + 1) * wide,
      at: (x) => now + ((x - left) / wide - 1) * windowMs,
      y: (value) => ABOVE + (1 - (value - bottom) / (top - bottom)) * (HEIGHT - BELOW - ABOVE),
      now,
      left,
      width,
    };
    this.#svg.replaceChildren(...this.#grid(lines, windowMs, scale), ...this.#line(scale), ...this.#cross(scale));
    const minutes = Math.max(1, Math.round((now - since) / MINUTE_MS));
    const summary = `${numbers.format(low)} to ${numbers.format(high)}`;
    this.#summary.textContent = summary;
    this.#svg.setAttribute("aria-label", `The number in the last ${minutes === 1 ? "minute" : `${minutes} minutes`}: ${summary}`);
  }

  #grid(lines, windowMs, { y, left, width }) {
    const across = lines.flatMap((line) => [
      draw("line", { class: "grid", x1: left, x2: width, y1: y(line), y2: y(line) }),
      draw("text", { x: left - 6, y: y(line) + 4, "text-anchor": "end" }, numbers.format(line)),
    ]);
    const ago = (ms) => (ms < MINUTE_MS ? `−${ms / 1000} s` : `−${ms / MINUTE_MS} min`);
    const marks = [[0, "start", ago(windowMs)], [0.5, "middle", ago(windowMs / 2)], [1, "end", "now"]];
    const below = marks.map(([share, anchor, text]) => draw("text", { x: left + share * (width - left), y: HEIGHT - 3, "text-anchor": anchor }, text));
    return [...across, ...below];
  }

  #line({ x, y, now }) {
    const [first, ...rest] = this.#points;
    const steps = rest.map(([at, value]) => `H${x(at).toFixed(1)}V${y(value).toFixed(1)}`).join("");
    const end = x(this.#until ?? now).toFixed(1);
    const line = `M${x(first[0]).toFixed(1)} ${y(first[1]).toFixed(1)}${steps}H${end}`;
    return [
      draw("path", { class: "area", d: `${line}V${HEIGHT - BELOW}H${x(first[0]).toFixed(1)}Z` }),
      draw("path", { class: "line", d: line }),
      draw("circle", { cx: end, cy: y(this.#points.at(-1)[1]), r: 4 }),
    ];
  }

  #cross({ x, at, y, now, width }) {
    const pointed = this.#pointed;
    if (pointed === null) return [];
    const moment = Math.min(at(pointed), now);
    const point = this.#points.findLast(([from]) => from <= moment);
    if (!point) return [];
    const isRight = pointed > width / 2;
    const text = `${numbers.format(point[1])} at ${times.format(new Date(moment))}`;
    return [
      draw("line", { class: "at", x1: x(moment), x2: x(moment), y1: 0, y2: HEIGHT - BELOW }),
      draw("circle", { cx: x(moment), cy: y(point[1]), r: 3.5 }),
      draw("text", { x: x(moment) + (isRight ? -8 : 8), y: 10, "text-anchor": isRight ? "end" : "start" }, text),
    ];
  }
}
