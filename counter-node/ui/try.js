// A form to try the API: what it sends is shown as a command, and the answer as it came.

const form = document.getElementById("try");
const request = document.getElementById("request");
const answer = document.getElementById("answer");
const button = form.querySelector("button");
const { page, action, by, token } = form.elements;
const ANSWER_MS = 10_000;
const METHODS = { read: "GET", increment: "PUT", decrement: "PUT", reset: "DELETE" };

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function asked() {
  const url = new URL(`${encodeURIComponent(page.value)}/counter`, document.baseURI);
  const method = METHODS[action.value];
  const headers = { accept: "application/json" };
  if (token.value && method !== "GET") headers.authorization = `Bearer ${token.value}`;
  let body;
  if (method === "PUT" && (action.value !== "increment" || by.value !== "1")) {
    headers["content-type"] = "application/json";
    // As it was typed: a number of JSON may be longer than one of JavaScript.
    body = `{"action":"${action.value}","by":${by.value || 0}}`;
  }
  return { url, method, headers, body };
}

function preview() {
  const { url, method, headers, body } = asked();
  by.disabled = method !== "PUT";
  const parts = ["curl", ...(method === "GET" ? [] : ["-X", method]), quoted(url.href)];
  if (headers.authorization) parts.push("-H", "'authorization: Bearer …'");
  if (body) parts.push("-H", "'content-type: application/json'", "-d", quoted(body));
  request.textContent = parts.join(" ");
}

function show(head, isGood, text) {
  const line = document.createElement("span");
  line.className = isGood ? "good" : "bad";
  line.textContent = head;
  const shown = document.createElement("pre");
  shown.textContent = text;
  answer.replaceChildren(line, shown);
}

form.addEventListener("input", preview);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { url, method, headers, body } = asked();
  const began = performance.now();
  button.disabled = true;
  try {
    const answered = await fetch(url, { method, headers, body, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
    const text = await answered.text();
    show(`${answered.status} ${answered.statusText} after ${Math.round(performance.now() - began)} ms`, answered.ok, text);
  } catch (error) {
    const counted = method === "GET" ? "" : " Whether it was counted is not known.";
    show(error.name === "TimeoutError" ? `No answer within ${ANSWER_MS / 1000} s.${counted}` : `The node was not reached.${counted}`, false, String(error.message));
  }
  button.disabled = false;
});
preview();
