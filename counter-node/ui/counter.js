// Keeps the number of this page current by asking for it again: every second while it changes or the tab is young,
// every two seconds otherwise, more seldom while the node does not answer, not at all while nobody looks.

const count = document.getElementById("count");
const updated = document.getElementById("updated");
const state = document.getElementById("state");
const numbers = new Intl.NumberFormat();
const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

const BUSY_MS = 1000;
const QUIET_MS = 2000;
const FAILING_MS_MAX = 30000;

let shown = null;
let waitMs = BUSY_MS;
let timer;

// Numbers past 2^53 would lose digits as a JavaScript number, so the text of the answer is read.
function digits(text) {
  const found = /"count":(-?\d+)/.exec(text);
  if (!found) throw new Error("the answer has no count");
  return BigInt(found[1]);
}

function show(text) {
  const number = digits(text);
  const { updated_at: at } = JSON.parse(text);
  waitMs = number === shown ? QUIET_MS : BUSY_MS;
  if (number !== shown) {
    shown = number;
    count.textContent = numbers.format(number);
  }
  updated.dateTime = at ?? "";
  updated.textContent = at ? times.format(new Date(at)) : "never";
  state.classList.remove("failing");
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const answer = await fetch(location.pathname, {
      headers: { accept: "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(5000),
    });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.text());
  } catch {
    state.classList.add("failing");
    waitMs = Math.min(waitMs * 2, FAILING_MS_MAX);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, waitMs * (0.9 + Math.random() * 0.2));
}

document.addEventListener("visibilitychange", () => {
  waitMs = BUSY_MS;
  poll();
});
poll();
