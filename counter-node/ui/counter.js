// The page of one counter: the element shows the number; this shows when it changed, and how it went before.

import { follow } from "./follow.js";

const updated = document.getElementById("updated");
const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function moment(at) {
  updated.dateTime = at ?? "";
  updated.textContent = at ? times.format(new Date(at)) : "never";
}

moment(updated.dateTime);
follow(document.getElementById("count"), location.pathname, moment);
