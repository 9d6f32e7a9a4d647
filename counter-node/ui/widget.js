// Two elements that any site can drop in: <live-count page="…"> and <unread-badge user="…">. docs/widget.md has them all.

import { watch, watchUnread } from "./ui/live.js";

const HERE = new URL(".", import.meta.url).href;
const ANNOUNCE_MS = 15_000; // between two numbers that are read out
const READ_MS = 2_000; // that one stays to be read
const STILL_MS = 1_500; // after which a change is shown as a movement

// Made by script, so that a policy without 'unsafe-inline' allows it.
const style = new CSSStyleSheet();
style.replaceSync(`
  :host { font-variant-numeric: tabular-nums; }
  :host([hidden]) { display: none; }
  [part~="number"] { display: inline-block; transition: opacity 0.3s; }
  [part~="stale"] { opacity: 0.5; transition-delay: 2s; }
  .changed { animation: changed 0.3s ease-out; }
  @keyframes changed { from { opacity: 0.5; transform: translateY(0.08em); } }
  @media (prefers-reduced-motion: reduce) { .changed { animation: none; } }
  [role="status"] { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  .badge {
    box-sizing: border-box; display: inline-block; min-inline-size: 1.6em; padding: 0 0.45em; border-radius: 0.8em;
    font-size: 0.75em; font-weight: 600; line-height: 1.6; text-align: center;
    background: light-dark(#c01c28, #f66151); color: light-dark(#fff, #1b0a0b);
  }
  @media (forced-colors: active) { .badge { border: 1px solid; } }
`);

class LiveNumber extends HTMLElement {
  #root = this.attachShadow({ mode: "open" });
  #number = document.createElement("span");
  #status = document.createElement("span");
  #stop;
  #settled;
  #announced = -Infinity;
  #taken = -Infinity;
  #timer;

  constructor() {
    super();
    this.#root.adoptedStyleSheets = [style];
    this.#number.part = "number";
    // Until there is a number: what the document has put between the tags.
    this.#number.append(document.createElement("slot"));
    this.#status.setAttribute("role", "status");
    this.#status.setAttribute("aria-live", "polite");
    this.#root.append(this.#number, this.#status);
    this.count = this.updatedAt = null;
  }

  connectedCallback() {
    this.#begin();
  }

  disconnectedCallback() {
    this.#end();
  }

  attributeChangedCallback(name, before, now) {
    if (!this.isConnected || before === now) return;
    if (this.constructor.sources.includes(name)) this.#begin();
    else if (this.count !== null) this.#show();
  }

  #begin() {
    this.#end();
    let base;
    try {
      base = new URL(this.getAttribute("server") ?? HERE, document.baseURI);
    } catch {
      return;
    }
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    this.#stop = this.watch(base.href, {
      observe: this.hasAttribute("observe"),
      reading: (reading) => this.#take(reading),
      state: (state) => {
        this.state = state;
        this.#number.part.toggle("stale", !["live", "polling"].includes(state));
        this.tell("state", { state });
      },
    });
  }

  #end() {
    this.#stop?.();
    this.#stop = this.#settled = undefined;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #take({ count, updated_at: updatedAt }) {
    if (count === this.count) return;
    const first = this.count === null;
    Object.assign(this, { count, updatedAt });
    this.#show();
    if (!first && !document.hidden) this.#move();
    this.#taken = performance.now();
    this.tell("count", { count, updatedAt });
    if (first) this.#settled = this.words(this.format(count));
    else this.#announce();
  }

  #show() {
    const text = this.format(this.count);
    this.#number.textContent = text;
    this.shown(this.#number, text);
  }

  // A number that changes all the time would only flicker.
  #move() {
    this.#number.classList.remove("changed");
    if (performance.now() - this.#taken > STILL_MS) requestAnimationFrame(() => this.#number.classList.add("changed"));
  }

  // The latest number only, and not more often than one can listen to.
  #announce() {
    if (this.hasAttribute("quiet") || this.#timer) return;
    const waitMs = Math.max(0, this.#announced + ANNOUNCE_MS - performance.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const text = this.words(this.format(this.count));
      if (document.hidden || text === this.#settled) return;
      this.#settled = this.#status.textContent = text;
      this.#announced = performance.now();
      setTimeout(() => (this.#status.textContent = ""), READ_MS);
    }, waitMs);
  }

  format(count) {
    const locale = this.closest("[lang]")?.lang || undefined;
    const notation = this.getAttribute("notation") === "compact" ? "compact" : "standard";
    try {
      return new Intl.NumberFormat(locale, { notation }).format(count);
    } catch {
      return String(count);
    }
  }

  words(text) {
    const label = this.getAttribute("label");
    return label ? `${text} ${label}` : text;
  }

  shown() {}

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

class LiveCount extends LiveNumber {
  static sources = ["page", "site", "server", "observe"];
  static observedAttributes = [...this.sources, "label", "notation"];

  watch(base, listener) {
    const page = this.getAttribute("page");
    if (this.hasAttribute("site")) return watch(base, null, listener);
    return page ? watch(base, page, listener) : undefined;
  }
}

class UnreadBadge extends LiveNumber {
  static sources = ["user", "server"];
  static observedAttributes = [...this.sources, "label", "max"];

  connectedCallback() {
    if (this.count === null) this.hidden = true;
    super.connectedCallback();
  }

  watch(base, listener) {
    const user = this.getAttribute("user");
    return user ? watchUnread(base, user, listener) : undefined;
  }

  format(count) {
    const max = Number(this.getAttribute("max") ?? 99);
    return count > max ? `${super.format(max)}+` : super.format(count);
  }

  words(text) {
    return `${text} ${this.getAttribute("label") ?? "unread"}`;
  }

  shown(number, text) {
    this.hidden = this.count <= 0;
    number.classList.add("badge");
    number.part.add("badge");
    number.setAttribute("role", "img");
    number.setAttribute("aria-label", this.words(text));
  }
}

for (const [name, element] of [["live-count", LiveCount], ["unread-badge", UnreadBadge]]) {
  if (!customElements.get(name)) customElements.define(name, element);
}
