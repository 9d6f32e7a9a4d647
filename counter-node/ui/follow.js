// What a page of the node shows of its <live-count>: how the connection is, and a plot of the number.

import { Plot } from "./plot.js";

const connection = document.getElementById("connection");

// The element may have been at work for a while when this begins.
export function follow(element, key, changed = () => {}) {
  const plot = new Plot(document.getElementById("plot"), key);
  const state = () => {
    connection.dataset.state = connection.textContent = element.state ?? "connecting";
    plot.hold(["live", "polling"].includes(element.state));
  };
  const count = () => {
    plot.take(element.count);
    changed(element.updatedAt);
  };
  element.addEventListener("state", state);
  element.addEventListener("count", count);
  state();
  if (element.count !== null && element.count !== undefined) count();
}
