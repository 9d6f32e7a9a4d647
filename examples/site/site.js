// What a site adds to the elements: readers follow pages, pages change, and what a reader has opened is read. Here the browser says
// all of it to the cluster; on a real site your servers do, who know who the reader is, and have the API token.

const reader = "ada";
const cluster = new URL(".", document.querySelector("script[src$='/widget.js']").src);

async function ask(method, path, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  const answer = await fetch(new URL(path, cluster), { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: HTTP ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
}

const tools = document.querySelector("[data-page]");
const page = tools?.dataset.page;
const subscription = `users/${reader}/subscriptions/${encodeURIComponent(page)}`;

// As far as the page had changed when it was opened: what changes while it is open stays unread.
async function markRead() {
  const { pages } = await ask("GET", `users/${reader}/unread`);
  const unread = pages.find((unread) => unread.page === page);
  if (unread) await ask("PUT", `users/${reader}/unread/${encodeURIComponent(page)}`, { version: unread.version });
}

async function begin() {
  const follow = tools.querySelector("input");
  follow.checked = (await ask("GET", subscription)).subscribed;
  follow.disabled = false;
  follow.addEventListener("change", async () => {
    follow.disabled = true;
    try {
      await ask(follow.checked ? "PUT" : "DELETE", subscription);
    } catch {
      follow.checked = !follow.checked;
    }
    follow.disabled = false;
  });
  tools.querySelector("button").addEventListener("click", () => ask("POST", `${encodeURIComponent(page)}/modifications`));
  await markRead();
}

// Without a cluster the page is a page all the same.
if (page) begin().catch((error) => console.info(error.message));
