// Nodes, shards and moves.

import { get, make, numbers, repeat } from "./repeat.js";

const EVERY_MS = 3000;
const SLOTS = 16_384;
const SILENT_MS = 3000; // after which a replica has not been heard for long
const place = document.getElementById("cluster");
const moves = document.getElementById("moves");
const note = document.getElementById("cluster-note");

const percent = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 0 });
const plural = (number, one, many) => `${numbers.format(number)} ${number === 1 ? one : many}`;

function health(node) {
  if (node.state === "silent") return "does not answer";
  const parts = [plural(node.counters, "counter", "counters")];
  if (node.unsent_changes) parts.push(`${plural(node.unsent_changes, "change", "changes")} not at its siblings yet`);
  if (node.silent_ms > SILENT_MS) parts.push(`has not heard a sibling for ${numbers.format(Math.round(node.silent_ms / 1000))}\u00a0s`);
  if (!node.writable) parts.push("its storage cannot write");
  if (parts.length === 1) parts.push("in step");
  return parts.join(" · ");
}

function shard({ shard: number, slots, nodes }) {
  const title = make("h3", {}, `Shard ${number}`, make("span", {}, `${plural(slots, "slot", "slots")}, ${percent.format(slots / SLOTS)}`));
  const items = nodes.map((node) =>
    make(
      "li",
      { class: "node", "data-state": node.state },
      make("div", { class: "head" }, make("span", { class: "name", title: node.name }, node.name), make("span", { class: "state" }, node.state)),
      make("p", { class: "note" }, health(node)),
    ),
  );
  return make("div", { class: "shard" }, title, make("ul", {}, ...items));
}

function move({ from, to, phase, slots, slots_left: left }) {
  const done = left === null ? 0 : 1 - left / slots;
  const bar = make("span", { class: "bar" });
  bar.style.setProperty("--share", done);
  const far = left === null ? "the receivers do not answer" : phase === "flipped" ? "taken over, being confirmed" : `${percent.format(done)} copied`;
  return make("div", { class: "move" }, `${plural(slots, "slot", "slots")} from shard ${from} to shard ${to}: ${far}`, bar);
}

let shown = "";
repeat(
  EVERY_MS,
  async () => {
    const text = await get("cluster");
    const cluster = JSON.parse(text);
    note.textContent = cluster.layout_version === null ? "" : `layout ${cluster.layout_version}, as ${cluster.node} sees it`;
    if (text === shown) return;
    shown = text;
    moves.replaceChildren(...cluster.moves.map(move));
    place.replaceChildren(
      ...(cluster.shards.length ? cluster.shards.map(shard) : [make("p", { class: "empty" }, `${cluster.node} waits for its first layout.`)]),
    );
  },
  ({ status }) => {
    note.textContent = status ? `cannot be read (HTTP ${status}); trying again` : "the node does not answer; what is shown is from before";
  },
);
