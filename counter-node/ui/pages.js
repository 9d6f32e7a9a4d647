// The busiest pages. Until they have come, the document's own list of pages stands here.

import { parse } from "./live.js";
import { get, make, numbers, repeat } from "./repeat.js";

const EVERY_MS = 2000;
const SHOWN = 12;
const STALE_MS = 2000; // what may be missing for longer is said
const place = document.getElementById("pages");
const note = document.getElementById("pages-note");
const prefix = document.getElementById("filter").elements.prefix;

const body = make("tbody");
const table = make(
  "table",
  {},
  make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Page"), ...["Viewers", "Count"].map((title) => make("th", { scope: "col", class: "number" }, title)))),
  body,
);

function say(text) {
  if (note.textContent !== text) note.textContent = text;
}

// Rows keep their elements, so that one who is about to follow a link finds it where it was.
function row(index) {
  const known = body.rows[index];
  if (known) return known;
  const link = make("a");
  const made = make("tr", {}, make("td", {}, link, make("span", { class: "bar" })), make("td", { class: "number" }), make("td", { class: "number" }));
  body.append(made);
  return made;
}

function show(pages) {
  if (!pages.length) {
    const empty = prefix.value
      ? [`Nobody is on a page that begins with “${prefix.value}”.`]
      : ["Nobody is on any page now. ", make("a", { href: "front-page/counter", target: "_blank" }, "Open one"), " and you are."];
    place.replaceChildren(make("p", { class: "empty" }, ...empty));
    return;
  }
  const most = Math.max(1, Number(pages[0].viewers));
  pages.forEach(({ page, viewers, count }, index) => {
    const [named, watched, counted] = row(index).cells;
    named.firstChild.textContent = named.firstChild.title = page;
    named.firstChild.href = `${encodeURIComponent(page)}/counter`;
    named.lastChild.style.setProperty("--share", Number(viewers) / most);
    watched.textContent = numbers.format(viewers);
    counted.textContent = numbers.format(count);
  });
  while (body.rows.length > pages.length) body.lastChild.remove();
  if (table.parentNode !== place) place.replaceChildren(table);
}

const now = repeat(
  EVERY_MS,
  async () => {
    const asked = prefix.value;
    const query = new URLSearchParams({ sort: "viewers", limit: SHOWN, ...(asked && { prefix: asked }) });
    const answer = parse(await get(`pages?${query}`));
    if (asked !== prefix.value) return;
    show(answer.pages);
    const ageMs = answer.staleness_ms ?? 0;
    say(ageMs > STALE_MS ? `Some shard does not answer: its part is ${Math.round(ageMs / 1000)} s old.` : "");
  },
  ({ status }) => say(status === 404 ? "" : status ? `The list cannot be made (HTTP ${status}); trying again.` : "The node does not answer; trying again."),
);

prefix.addEventListener("input", now);
document.getElementById("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  now();
});
