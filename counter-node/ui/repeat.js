// Asks again and again, only while somebody looks, and more seldom while nobody answers.

const FAILING_MS_MAX = 30_000;
const ANSWER_MS = 5_000;

// Calls `round` now and `everyMs` after each end of it; `failed` with the error when it throws. Returns what has it called at
// once.
export function repeat(everyMs, round, failed) {
  let timer;
  let waitMs = everyMs;
  let isRunning = false;
  let isDue = false;
  async function run() {
    clearTimeout(timer);
    if (document.hidden) return;
    isDue = isRunning;
    if (isRunning) return;
    isRunning = true;
    try {
      await round();
      waitMs = everyMs;
    } catch (error) {
      failed(error);
      waitMs = Math.min(waitMs * 2, FAILING_MS_MAX);
    }
    isRunning = false;
    timer = setTimeout(run, isDue ? 0 : waitMs * (0.9 + Math.random() * 0.2));
  }
  document.addEventListener("visibilitychange", run);
  addEventListener("online", run);
  run();
  return run;
}

export async function get(path) {
  const answer = await fetch(path, {
    headers: { accept: "application/json" },
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (answer.ok) return answer.text();
  throw Object.assign(new Error(`HTTP ${answer.status}`), { status: answer.status });
}

export const numbers = new Intl.NumberFormat();

// An element with attributes and children; text comes as text, never as markup.
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children);
  return element;
}
