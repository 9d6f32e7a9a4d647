// Numbers as they change: one connection per server for everything on a document that shows one.
//
// A link climbs down a ladder: a WebSocket, else Server-Sent Events, else polling with heartbeats. Whichever rung holds,
// a viewed page is viewed once; what ends is told to the server at once, and what breaks is tried again after a while that the
// server has named, never at the same moment as everybody else.

const PAGES_MAX = 100; // that one WebSocket takes
const STREAMS_MAX = 2; // of the six connections that a browser opens to one HTTP/1.1 server
const OPEN_MS = 5_000;
const PONG_MS = 5_000;
const POLL_MS = 5_000;
const RETRY_MS = [200, 3_000]; // until the server has said otherwise
const RETRY_MS_MAX = 30_000;
const WHY_MS = 2_000; // for the answer to why a connection was refused
const WAITS_MAX = 4; // for a server that takes nobody now, before a lower rung is tried
const CLIMB_MS = 120_000; // from a lower rung, when a higher one has held before
const LINGER_MS = 1_000; // a link without topics stays open that long, for documents that swap their parts
const SITE = null; // the topic of the whole site
const USER = Symbol("user"); // that of what one user has not read; all others are pages

const between = (low, high) => low + Math.random() * (high - low);
const segment = encodeURIComponent;
const isPage = (topic) => typeof topic === "string";

// Numbers past 2^53 would lose digits; where the browser shows the source text they come as BigInt.
export const parse = (text) =>
  JSON.parse(text, (key, value, context) =>
    key === "count" && typeof value === "number" && !Number.isSafeInteger(value) && context?.source
      ? BigInt(context.source)
      : value,
  );

async function ask(url, init) {
  const answer = await fetch(url, {
    cache: "no-store",
    credentials: "omit",
    headers: { accept: "application/json", ...(init?.body && { "content-type": "application/json" }) },
    signal: AbortSignal.timeout(OPEN_MS),
    ...init,
  });
  if (answer.ok) return parse(await answer.text());
  // Whole seconds: those who are to come within the same one come all over it.
  const seconds = Number(answer.headers.get("retry-after"));
  const afterMs = seconds ? (seconds + Math.random()) * 1000 : undefined;
  throw Object.assign(new Error(`HTTP ${answer.status}`), { status: answer.status, afterMs });
}

// The rungs. Each has start() and close(), sync() for when topics have changed, and check() for when time has passed; it calls
// link.up(), link.said(message) and, once, link.down(afterMs).

class Socket {
  constructor(link) {
    this.link = link;
    this.told = new Map(); // topic → viewed, as the server knows it
    this.patience = setTimeout(() => this.fail(), OPEN_MS);
  }

  start() {
    const { link } = this;
    const [first, wanted] = [link.first(), link.wanted()];
    this.told.set(first, wanted.get(first));
    if (wanted.has(USER)) this.told.set(USER, false);
    this.user = link.user;
    const url = link.url(first, link.resume, true);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.onmessage = ({ data }) => this.said(parse(data));
    this.socket.onclose = () => this.fail();
  }

  said(message) {
    clearTimeout(this.patience);
    this.expect();
    if (message.type === "hello") {
      this.link.hello(message);
      this.link.resume = message.resume;
      this.link.up();
      this.sync();
    } else if (message.type === "reconnect") {
      this.afterMs = message.after_ms;
      this.link.sentAway();
    } else {
      this.link.said(message);
    }
  }

  // A connection that has broken without a word is found out by asking: not by hidden documents, until they are looked at.
  expect() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => document.hidden || this.check(), this.link.heartbeatMs * between(1, 1.2));
  }

  check() {
    this.send({ type: "ping" });
    clearTimeout(this.patience);
    this.patience = setTimeout(() => this.fail(), PONG_MS);
  }

  sync() {
    const wanted = this.link.wanted();
    const gone = [...this.told.keys()].filter((topic) => isPage(topic) && !wanted.has(topic));
    // These stand in the address.
    const isOther = wanted.has(USER) && (!this.told.has(USER) || this.user !== this.link.user);
    if (isOther || wanted.has(SITE) !== this.told.has(SITE)) return this.fail(0);
    if (gone.length) this.send({ type: "unsubscribe", pages: gone });
    for (const observe of [false, true]) {
      const pages = [...wanted].filter(([topic, viewed]) => isPage(topic) && viewed !== observe && this.told.get(topic) !== viewed);
      if (pages.length) this.send({ type: "subscribe", pages: pages.map(([topic]) => topic), observe });
    }
    this.told = new Map(wanted);
  }

  send(message) {
    if (this.socket.readyState === 1) this.socket.send(JSON.stringify(message));
  }

  fail(afterMs = this.afterMs) {
    this.close();
    this.link.down(afterMs);
  }

  close() {
    clearTimeout(this.patience);
    clearTimeout(this.silence);
    if (!this.socket) return;
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
  }
}

class Streams {
  constructor(link) {
    this.link = link;
    this.sources = new Map();
    this.timers = new Set();
    this.patience = setTimeout(() => this.fail(), OPEN_MS);
  }

  start() {
    this.sync();
  }

  sync() {
    const { link } = this;
    const wanted = link.wanted();
    if (wanted.size > STREAMS_MAX) {
      this.isFull = true;
      return this.fail();
    }
    // Whether the page is viewed, and by whom, stands in the address.
    for (const [topic, { source, address }] of this.sources) {
      if (wanted.has(topic) && link.url(topic).href === address) continue;
      source.close();
      this.sources.delete(topic);
    }
    for (const topic of wanted.keys()) {
      if (!this.sources.has(topic)) this.sources.set(topic, { source: this.open(topic), address: link.url(topic).href });
    }
  }

  open(topic, failures = 0) {
    const { link } = this;
    const source = new EventSource(link.url(topic, link.resumes.get(topic)));
    source.onopen = () => {
      failures = 0;
      clearTimeout(this.patience);
      link.up();
    };
    const what = topic === USER ? { type: "unread" } : { type: "count", page: topic };
    source.onmessage = ({ data }) => link.said({ ...what, ...parse(data) });
    source.addEventListener("hello", ({ data }) => {
      const hello = parse(data);
      link.resumes.set(topic, hello.resume);
      link.hello(hello);
    });
    source.addEventListener("reconnect", ({ data }) => {
      link.sentAway();
      this.fail(parse(data).after_ms);
    });
    // A browser opens a stream that has broken again by itself, unless the server has said no; but by the address that it had, which
    // does not name the session that has just ended.
    source.onerror = () => {
      if (source.readyState === 2 || ++failures > 2) return this.fail();
      source.close();
      this.timers.add(setTimeout(() => this.reopen(topic, source, failures), between(...link.retryMs)));
    };
    return source;
  }

  reopen(topic, source, failures) {
    const known = this.sources.get(topic);
    if (known?.source === source) known.source = this.open(topic, failures);
  }

  fail(afterMs) {
    this.close();
    this.link.down(afterMs);
  }

  close() {
    clearTimeout(this.patience);
    this.timers.forEach(clearTimeout);
    for (const { source } of this.sources.values()) source.close();
  }
}

class Polls {
  constructor(link) {
    this.link = link;
  }

  async start() {
    const { link } = this;
    clearTimeout(this.timer);
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      const messages = await link.poll();
      if (this.isClosed) return;
      link.up();
      messages.forEach((message) => link.said(message));
      this.again(POLL_MS * between(0.9, 1.1));
    } catch (error) {
      if (this.isClosed) return;
      this.close();
      link.down(error.afterMs);
    } finally {
      this.isAsking = false;
    }
  }

  again(waitMs) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.start(), waitMs);
  }

  check() {
    this.start();
  }

  sync() {
    this.again(0);
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
  }
}

const LADDER = [Socket, Streams, Polls];
const STATES = ["live", "live", "polling"];

// Pages and the site of one server, and what one user has not read: on which rung of the ladder they come, and when the next one is
// tried.
class Link {
  topics = new Map(); // page, SITE or USER → {listeners, last}
  sessions = new Set(); // pages that are viewed by heartbeat
  id = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  rung = 0;
  failures = 0; // since something held last
  waits = 0; // for a server that took nobody, since then
  heartbeatMs = 20_000;
  retryMs = RETRY_MS;
  resumes = new Map(); // topic → by what the session of its last stream is named; `resume` is that of the last WebSocket
  state = "connecting";

  constructor(base) {
    this.base = base;
  }

  open() {
    clearTimeout(this.timer);
    this.isWaiting = this.isTold = false;
    this.asking = null;
    if (this.rail) return;
    this.rail = new LADDER[this.rung](this);
    try {
      this.rail.start();
    } catch {
      // As where a document by https asks for a WebSocket without TLS.
      this.rail.close();
      this.down();
    }
  }

  hello({ heartbeat_seconds: seconds, retry_ms: retryMs }) {
    if (seconds > 0) this.heartbeatMs = seconds * 1000;
    if (retryMs?.length === 2) this.retryMs = retryMs;
  }

  up() {
    this.failures = this.waits = 0;
    if (this.isUp) return;
    this.isUp = true;
    if (this.rung === 0) this.socketHeld = true;
    if (this.rung < 2) this.endSessions();
    if (this.rung > 0 && (this.socketHeld || this.rung === 2)) this.timer = setTimeout(() => this.climb(), CLIMB_MS * between(1, 2));
    this.tell(STATES[this.rung]);
  }

  climb() {
    this.rail?.close();
    this.down(0);
  }

  // The node stops and counts its viewers on for a while only: an attempt that fails is not to wait as after a failure of the node.
  sentAway() {
    this.retryMs = RETRY_MS;
  }

  down(afterMs) {
    clearTimeout(this.timer);
    const isRefused = !this.isUp && this.rung < 2 && afterMs === undefined && !this.rail?.isFull;
    this.rail = null;
    this.isWaiting = true;
    if (isRefused) this.askWhy();
    else this.next(afterMs);
  }

  // A script is not told why its WebSocket or its stream was refused, nor when to come again. By a plain request it is.
  async askWhy() {
    const asking = (this.asking = {});
    const answer = ask(this.url(this.first(), null, true), { signal: AbortSignal.timeout(WHY_MS) });
    const afterMs = await answer.then(() => undefined, (error) => error.afterMs);
    if (this.asking !== asking) return;
    this.asking = null;
    if (afterMs === undefined || ++this.waits > WAITS_MAX) return this.next();
    this.isTold = true;
    this.timer = setTimeout(() => this.open(), afterMs);
  }

  next(afterMs) {
    if (!this.isUp) this.failures += 1;
    // What has held is tried from the top again; a WebSocket that has held before, three times.
    const again = this.isUp || (this.rung === 0 && this.socketHeld && this.failures < 3);
    this.rung = again ? 0 : (this.rung + 1) % LADDER.length;
    const stepsDown = !again && this.rung > 0;
    this.isUp = false;
    if (this.state !== "connecting") this.tell("reconnecting");
    if (this.failures > 2 && this.rung === 0) this.tell("offline");
    this.isTold = afterMs !== undefined;
    const [low, high] = this.retryMs;
    const grown = 2 ** Math.max(0, this.failures - 3);
    const waitMs = afterMs ?? (stepsDown ? between(0, low) : between(low, Math.min(high * grown, RETRY_MS_MAX)));
    this.timer = setTimeout(() => this.open(), waitMs);
  }

  tell(state) {
    if (state === this.state) return;
    this.state = state;
    for (const { listeners } of this.topics.values()) listeners.forEach((listener) => listener.state?.(state));
  }

  // The document is looked at again, or the network is back. How long the server has said to wait, or may be about to say, stands.
  wake() {
    if (this.rail) return this.isUp && this.rail.check?.();
    if (this.asking || this.isTold) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), between(0, this.retryMs[0]));
  }

  close() {
    clearTimeout(this.timer);
    this.rail?.close();
    this.rail = this.asking = null;
    this.rung = this.failures = this.waits = 0;
    this.isUp = this.isWaiting = this.isTold = false;
    this.endSessions();
  }

  hasRoomFor(topic, user) {
    if (topic === USER) return !this.topics.has(USER) || this.user === user;
    return this.topics.has(topic) || this.topics.size < PAGES_MAX;
  }

  add(topic, listener, user) {
    if (topic === USER) this.user = user;
    const known = this.topics.get(topic) ?? { listeners: new Set(), last: null };
    this.topics.set(topic, known);
    known.listeners.add(listener);
    if (known.last) queueMicrotask(() => known.listeners.has(listener) && listener.reading?.(known.last));
    queueMicrotask(() => listener.state?.(this.state));
    this.changed();
    return () => {
      known.listeners.delete(listener);
      if (!known.listeners.size && this.topics.get(topic) === known) this.topics.delete(topic);
      this.changed();
    };
  }

  // Changes of one moment go out together.
  changed() {
    clearTimeout(this.change);
    this.change = setTimeout(
      () => {
        if (!this.topics.size) return this.close();
        if (this.isUp) this.rail.sync();
        else if (!this.isWaiting && !suspended) this.open();
        this.endSessions((page) => !this.viewed(page));
      },
      this.topics.size ? 0 : LINGER_MS,
    );
  }

  viewed(topic) {
    return [...(this.topics.get(topic)?.listeners ?? [])].some((listener) => !listener.observe);
  }

  wanted() {
    return new Map([...this.topics.keys()].map((topic) => [topic, isPage(topic) && this.viewed(topic)]));
  }

  // Where a WebSocket is opened: the site where that is wanted, else a page that is viewed, else any, else the user.
  first() {
    const topics = [...this.topics.keys()];
    if (topics.includes(SITE)) return SITE;
    const pages = topics.filter(isPage);
    return pages.find((page) => this.viewed(page)) ?? pages[0] ?? USER;
  }

  url(topic, resume, onSocket = false) {
    if (topic === USER) return new URL(`users/${segment(this.user)}/unread/live`, this.base);
    const url = new URL(topic === SITE ? "live" : `${segment(topic)}/live`, this.base);
    if (topic !== SITE && !this.viewed(topic)) url.searchParams.set("observe", "true");
    // A stream that is not a viewer's has no use for it.
    if (this.topics.has(USER) && (onSocket || (isPage(topic) && this.viewed(topic)))) url.searchParams.set("user", this.user);
    if (resume) url.searchParams.set("resume", resume);
    return url;
  }

  said(message) {
    if (message.type !== "count" && message.type !== "unread") return;
    const topic = this.topics.get(message.type === "unread" ? USER : (message.page ?? SITE));
    if (!topic) return;
    topic.last = { count: message.count, updated_at: message.updated_at };
    topic.listeners.forEach((listener) => listener.reading?.(topic.last));
  }

  // Heartbeats answer with the number, too; what is only watched is asked for in one go.
  async poll() {
    const [viewed, watched] = [[], []];
    for (const [topic, isViewed] of this.wanted()) (isViewed ? viewed : watched).push(topic);
    const rounds = viewed.map(async (page) => ({ type: "count", page, ...(await this.beat(page)) }));
    const pages = document.hidden ? [] : watched.filter(isPage);
    if (pages.length) {
      const query = pages.map((page) => `page=${segment(page)}`).join("&");
      rounds.push(
        ask(new URL(`counters?${query}`, this.base)).then(({ results }) =>
          results.filter(({ status }) => status === 200).map((reading) => ({ type: "count", ...reading })),
        ),
      );
    }
    if (watched.includes(SITE) && !document.hidden) {
      rounds.push(ask(new URL("counter", this.base)).then((reading) => ({ type: "count", page: SITE, ...reading })));
    }
    if (watched.includes(USER) && !document.hidden) {
      const url = new URL(`users/${segment(this.user)}/unread`, this.base);
      rounds.push(ask(url).then((reading) => ({ type: "unread", ...reading })));
    }
    return (await Promise.all(rounds)).flat();
  }

  async beat(page) {
    this.sessions.add(page);
    try {
      const body = this.topics.has(USER) ? JSON.stringify({ user: this.user }) : undefined;
      return await ask(this.session(page), { method: "PUT", body });
    } catch (error) {
      // A server that lets only some people change anything still says its numbers.
      if (error.status !== 401) throw error;
      return ask(new URL(`${segment(page)}/counter`, this.base));
    }
  }

  session(page, end = "") {
    return new URL(`${segment(page)}/sessions/${this.id}${end}`, this.base);
  }

  // Also while the document goes away, when only beacons still leave.
  endSessions(which = () => true) {
    for (const page of [...this.sessions].filter(which)) {
      navigator.sendBeacon(this.session(page, "/end"));
      this.sessions.delete(page);
    }
  }
}

const links = new Set();
let suspended = document.prerendering === true; // nobody sees it yet

// Calls `listener.reading({count, updated_at})` with each new number of the page, or of the site where `page` is null, and
// `listener.state(…)` with "connecting", "live", "polling", "reconnecting" or "offline". With `listener.observe` the document does
// not count as a viewer of the page. Returns what ends that.
export function watch(base, page, listener) {
  return linkFor(base, page).add(page, listener);
}

// The same for a user's unread total.
export function watchUnread(base, user, listener) {
  return linkFor(base, USER, user).add(USER, listener, user);
}

function linkFor(base, topic, user) {
  let link = [...links].find((link) => link.base === base && link.hasRoomFor(topic, user));
  if (!link) links.add((link = new Link(base)));
  return link;
}

function suspend() {
  suspended = true;
  links.forEach((link) => link.close());
}

function restore() {
  suspended = false;
  links.forEach((link) => link.topics.size && link.open());
}

const wake = () => document.hidden || suspended || links.forEach((link) => link.topics.size && link.wake());

addEventListener("pagehide", suspend);
addEventListener("pageshow", (event) => event.persisted && restore());
addEventListener("online", wake);
document.addEventListener("prerenderingchange", restore);
document.addEventListener("visibilitychange", wake);
