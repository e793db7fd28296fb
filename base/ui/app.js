// The page: fetches /api/status every second and shows it. Read-only.
//
// The first half is pure (document in, words and levels out) and is what the tests call; the second half
// puts them on the page. Everything that comes from outside reaches the page as text content only. Every
// field may be missing or null: what is not known is shown as not known, never as good.
"use strict";

const REFRESH_MS = 1000;
const EXPLAIN_REFRESH_MS = 2000;
const FETCH_TIMEOUT_MS = 4000;
const LOST_AFTER_MS = 3500; // three refreshes without an answer
const FROZEN_AFTER_MS = 8000; // answers come, but the daemon has stopped writing them
const FROZEN_AFTER_INTERVALS = 3; // or this many of its own UI intervals, where it tells a long one

const REASONS = {
  no_bid: "no bid to sell into",
  below_floor: "the bid is below EXIT_FLOOR_DOLLARS",
  paused: "the market is paused",
  no_price: "no price yet",
  stale_price: "the price is too old",
  crossed: "the book is crossed",
  no_rule: "no exit rule applies",
  by_choice: "by choice (protect = false)",
  hedged: "part of a set that cannot lose",
  halted: "the kill switch is on: nothing is sent",
  closed: "the market is closed",
  not_open: "the market has not opened",
  not_checked: "the checker has not passed it lately",
};
const NOT_COUNTED = ["by_choice", "hedged"];
const TICKER = /^[\w.-]{1,128}$/;
const SETTLING = ["closed", "determined", "disputed", "amended", "finalized"];

// ---- values into words ----------------------------------------------------------------------------

function objectOf(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
}

function rowsOf(value) {
  return Array.isArray(value) ? value.filter((row) => row !== null && typeof row === "object") : [];
}

function isCount(value) {
  return Number.isInteger(value) && value >= 0;
}

function words(value) {
  return value === null || value === undefined || value === "" ? "–" : String(value);
}

function trimmed(value) {
  return words(value).replace(/(\.\d\d\d*?)0+$/, "$1");
}

function dollars(value) {
  const text = trimmed(value);
  if (text === "–") return text;
  return text.startsWith("-") ? "−$" + text.slice(1) : "$" + text;
}

function age(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "–";
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " d";
}

function reasonWords(reason) {
  return Object.hasOwn(REASONS, reason) ? REASONS[reason] : words(reason).replaceAll("_", " ");
}

function plural(count, noun) {
  return count + " " + noun + (count === 1 ? "" : "s");
}

function moneyClass(value) {
  if (value === null || value === undefined || !/[1-9]/.test(String(value))) return "";
  return String(value).startsWith("-") ? "bad-text" : "good-text";
}

// ---- verdicts -------------------------------------------------------------------------------------

// How far the shown data can be believed. `link` is {receivedMs, changedMs, error}: milliseconds since the
// last answer (null: never one) and since its content last moved, and what the last attempt failed with.
function linkVerdict(status, link) {
  const intervalMs = Number(objectOf(status).ui_interval_s) * 1000 || 0;
  const failed = link.error ? ": " + link.error : "";
  if (link.receivedMs === null) {
    return link.error
      ? { state: "lost", headline: "No connection to the daemon", detail: "Nothing is known" + failed + "." }
      : { state: "starting", headline: "Coverage not known yet", detail: "Waiting for the first answer of the daemon." };
  }
  const old = age(link.receivedMs / 1000);
  if (link.receivedMs > LOST_AFTER_MS) {
    return { state: "lost", headline: "Connection to the daemon lost", detail: "The last data are " + old + " old" + failed + "." };
  }
  if (link.changedMs > Math.max(FROZEN_AFTER_MS, FROZEN_AFTER_INTERVALS * intervalMs)) {
    return {
      state: "frozen",
      headline: "The daemon's data stand still",
      detail: "It answers, but nothing in its status has moved for " + age(link.changedMs / 1000) + ": see its log.",
    };
  }
  return { state: "live", headline: "", detail: "" };
}

// The one thing this page is for. Levels: good, idle, warn, bad, unknown.
function coverageVerdict(status, link) {
  const told = toldCoverage(status);
  const connection = linkVerdict(status, link);
  if (connection.state === "live") return told;
  const before = connection.state === "starting" || link.receivedMs === null ? "" : " Last told: " + told.headline + ".";
  return { level: "unknown", headline: connection.headline, detail: connection.detail + before, list: [], short: "?" };
}

function toldCoverage(status) {
  const coverage = objectOf(objectOf(status).coverage);
  const open = coverage.open;
  const safe = coverage.protected;
  // Positions left unprotected by choice are listed, but neither counted nor alarming.
  const isListed = Array.isArray(coverage.unprotected);
  const unprotected = isListed ? coverage.unprotected.filter((entry) => !NOT_COUNTED.includes(objectOf(entry).reason)) : [];
  const list = rowsOf(unprotected).map((entry) => words(entry.ticker) + ": " + reasonWords(entry.reason));
  const healthy = objectOf(objectOf(status).health).ok === true;
  if (!isCount(open) || !isCount(safe) || safe > open || !isListed) {
    return {
      level: "unknown",
      headline: "Coverage not known",
      detail: "The daemon does not say how many positions are protected: count on none.",
      list,
      short: "?",
    };
  }
  const short = safe + "/" + open;
  if (safe < open || unprotected.length > 0) {
    const bare = Math.max(open - safe, unprotected.length);
    return {
      level: "bad",
      headline: bare + " of " + plural(open, "open position") + " NOT protected",
      detail: safe + " protected.",
      list,
      short,
    };
  }
  const headline = open === 0 ? "No open positions" : open === 1 ? "The one open position is protected" : "All " + open + " open positions are protected";
  if (!healthy) {
    return { level: "warn", headline, detail: "But the daemon does not report itself healthy: see below.", list, short };
  }
  return { level: open === 0 ? "idle" : "good", headline, detail: byChoice(status), list, short };
}

function byChoice(status) {
  const count = rowsOf(objectOf(status).positions).filter((row) => row.protected !== true && NOT_COUNTED.includes(row.reason)).length;
  return count === 0 ? "" : plural(count, "more position") + " without protection by choice.";
}

function modeBadge(status) {
  const env = words(status.env).toUpperCase();
  if (status.env === "sandbox") return { text: "SANDBOX", level: "sandbox" };
  if (status.trading_mode === "paper") return { text: "PAPER · " + env, level: "paper" };
  if (status.trading_mode === "live") return { text: "LIVE · " + env, level: "live" };
  return { text: "MODE NOT KNOWN", level: "bad" };
}

function stateBadge(status) {
  if (status.trading_state === "active") return { text: "ACTIVE", level: "good" };
  if (status.trading_state === "reducing") return { text: "REDUCING: exits only", level: "warn" };
  if (status.trading_state === "halted") return { text: "HALTED", level: "bad" };
  return { text: "STATE NOT KNOWN", level: "bad" };
}

function feedBadge(status) {
  const state = objectOf(status.feed).state;
  if (state === "live") return { text: "FEED LIVE", level: "good" };
  if (state === "connecting") return { text: "FEED CONNECTING", level: "warn" };
  return { text: state === "down" ? "FEED DOWN" : "FEED NOT KNOWN", level: "bad" };
}

function protectionCell(row) {
  if (row.protected === true) return { text: "protected", className: "good-text" };
  if (NOT_COUNTED.includes(row.reason)) return { text: reasonWords(row.reason), className: "muted-text" };
  if (SETTLING.includes(row.market_status)) return { text: "awaits settlement", className: "muted-text" };
  if (row.protected === false) return { text: "NOT PROTECTED: " + reasonWords(row.reason), className: "bad-text", alarm: true };
  return { text: "NOT KNOWN", className: "bad-text", alarm: true };
}

function sourceCell(row) {
  const source = row.price_source === "none" ? "–" : words(row.price_source);
  if (!row.market_status || row.market_status === "active") return { text: source };
  return { text: (source === "–" ? "" : source + " · ") + "market " + row.market_status, className: "warn-text" };
}

function exitStateCell(row) {
  const levels = { unknown: "bad-text", blocked: "bad-text", triggered: "warn-text", sending: "warn-text" };
  const why = row.state !== "closed" && row.why ? ": " + reasonWords(row.why) : "";
  return { text: words(row.state) + why, className: Object.hasOwn(levels, row.state) ? levels[row.state] : "" };
}

function sortedPositions(status) {
  const rank = (row) => (protectionCell(row).alarm ? 0 : row.protected === true ? 1 : 2);
  return rowsOf(status.positions).sort((a, b) => rank(a) - rank(b) || words(a.ticker).localeCompare(words(b.ticker)));
}

function clockTime(epochSeconds) {
  if (typeof epochSeconds !== "number" || !Number.isFinite(epochSeconds)) return "–";
  return new Date(epochSeconds * 1000).toLocaleTimeString();
}

const POSITION_COLUMNS = [
  { label: "Market", kind: "ticker", cell: (row) => ({ text: words(row.ticker), title: row.title }) },
  { label: "Side", cell: (row) => ({ text: words(row.outcome_side).toUpperCase() }) },
  { label: "Count", kind: "number", cell: (row) => ({ text: trimmed(row.count) }) },
  { label: "Entry", kind: "number", cell: (row) => ({ text: dollars(row.entry_price) }) },
  { label: "Exit value", kind: "number", cell: (row) => ({ text: dollars(row.exit_value) }) },
  { label: "Price age", kind: "number", cell: (row) => ({ text: age(row.price_age_s) }) },
  { label: "Source", cell: sourceCell },
  { label: "Stop", kind: "number", cell: (row) => ({ text: dollars(row.stop_price) }) },
  { label: "Take-profit", kind: "number", cell: (row) => ({ text: dollars(row.take_profit_price) }) },
  { label: "P&L", kind: "number", cell: (row) => ({ text: dollars(row.unrealized_pnl), className: moneyClass(row.unrealized_pnl) }) },
  { label: "Protection", kind: "wide", cell: protectionCell },
];

const EXIT_COLUMNS = [
  { label: "Market", kind: "ticker", cell: (row) => ({ text: words(row.ticker) }) },
  { label: "Reason", cell: (row) => ({ text: words(row.reason).replaceAll("_", " ") }) },
  { label: "State", cell: exitStateCell },
  { label: "Trigger", kind: "number", cell: (row) => ({ text: dollars(row.trigger_price) }) },
  { label: "Filled", kind: "number", cell: (row) => ({ text: trimmed(row.filled) }) },
  { label: "Average", kind: "number", cell: (row) => ({ text: dollars(row.average_price) }) },
  { label: "Fees", kind: "number", cell: (row) => ({ text: dollars(row.fees) }) },
  { label: "Attempts", kind: "number", cell: (row) => ({ text: words(row.attempts) }) },
];

const EXPLAIN_COLUMNS = [
  { label: "Time", cell: (row) => ({ text: clockTime(row.at) + (row.repeats > 1 ? " ×" + row.repeats : "") }) },
  { label: "Decision", cell: (row) => ({ text: words(row.decision), className: row.decision === "exit" ? "bad-text" : "" }) },
  { label: "Exit value", kind: "number", cell: (row) => ({ text: dollars(row.exit_value) }) },
  { label: "Size", kind: "number", cell: (row) => ({ text: trimmed(row.bid_size) }) },
  { label: "Price age", kind: "number", cell: (row) => ({ text: age(row.price_age_s) }) },
  { label: "Source", cell: (row) => ({ text: words(row.price_source) }) },
  { label: "Stop", kind: "number", cell: (row) => ({ text: dollars(row.stop_price) }) },
  { label: "Take-profit", kind: "number", cell: (row) => ({ text: dollars(row.take_profit_price) }) },
  { label: "Why", kind: "wide", cell: (row) => ({ text: words(row.why).replaceAll("_", " ") + (row.detail ? ": " + row.detail : "") }) },
];

function pnlFacts(status) {
  const pnl = objectOf(status.pnl);
  return [
    ["Realized today", dollars(pnl.realized_today), moneyClass(pnl.realized_today)],
    ["Unrealized", dollars(pnl.unrealized), moneyClass(pnl.unrealized)],
    ["Fees today", dollars(pnl.fees_today), ""],
  ];
}

function feedFacts(status) {
  const feed = objectOf(status.feed);
  const complete = isCount(feed.markets_required) && feed.markets_confirmed === feed.markets_required;
  return [
    ["State", words(feed.state), feed.state === "live" ? "good-text" : "bad-text"],
    ["Connected for", age(feed.connected_for_s), ""],
    ["Last frame", age(feed.last_frame_age_s), ""],
    ["Markets confirmed", words(feed.markets_confirmed) + " of " + words(feed.markets_required), complete ? "" : "warn-text"],
    ["Reconnects", words(feed.reconnects), ""],
    ["Messages", words(feed.messages), ""],
  ];
}

function restFacts(status) {
  const rest = objectOf(status.rest);
  return [
    ["Reads", words(rest.reads_last_60s), ""],
    ["Price reads", words(rest.price_reads_last_60s), ""],
    ["Writes", words(rest.writes_last_60s), ""],
    ["Rate limited", words(rest.rate_limited_last_60s), rest.rate_limited_last_60s > 0 ? "bad-text" : ""],
  ];
}

function threadFacts(status) {
  return Object.entries(objectOf(status.threads)).map(([name, thread]) => {
    const facts = objectOf(thread);
    if (facts.alive === false) return [name, "DEAD", "bad-text"];
    if (facts.on_time === false) return [name, "LATE: " + age(facts.last_pass_age_s), "bad-text"];
    return [name, facts.alive === true ? age(facts.last_pass_age_s) : "–", facts.alive === true ? "" : "muted-text"];
  });
}

// ---- onto the page --------------------------------------------------------------------------------

function byId(id) {
  return document.getElementById(id);
}

// Nodes are kept and only changed texts are written, so that a selection survives the refresh.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

function resize(parent, count, makeChild) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(makeChild());
}

function make(tag) {
  return document.createElement(tag);
}

function showList(id, lines) {
  const list = byId(id);
  resize(list, lines.length, () => make("li"));
  lines.forEach((line, index) => setText(list.children[index], line));
}

function showBadge(id, badge) {
  setText(byId(id), badge.text);
  setClass(byId(id), "badge " + badge.level);
}

function showFacts(id, facts) {
  const list = byId(id);
  resize(list, facts.length * 2, () => make(list.children.length % 2 === 0 ? "dt" : "dd"));
  facts.forEach(([name, value, className], index) => {
    setText(list.children[index * 2], name);
    setText(list.children[index * 2 + 1], value);
    setClass(list.children[index * 2 + 1], className);
  });
}

function showTable(id, columns, rows, emptyText) {
  const table = byId(id);
  if (table.tHead === null) {
    const heading = table.createTHead().insertRow();
    for (const column of columns) {
      const cell = make("th");
      cell.textContent = column.label;
      cell.className = column.kind || "";
      cell.scope = "col";
      heading.append(cell);
    }
    table.append(make("tbody"));
  }
  table.tHead.hidden = rows.length === 0;
  const body = table.tBodies[0];
  if (rows.length === 0) {
    body.replaceChildren();
    const cell = body.insertRow().insertCell();
    cell.className = "empty wide muted-text";
    cell.textContent = emptyText;
    return;
  }
  if (body.querySelector(".empty")) body.replaceChildren();
  resize(body, rows.length, () => makeRow(columns));
  rows.forEach((row, index) => fillRow(body.children[index], columns, row));
}

function makeRow(columns) {
  const row = make("tr");
  for (const column of columns) {
    const cell = row.insertCell();
    cell.dataset.label = column.label;
    if (column.kind === "ticker") {
      const button = make("button");
      button.type = "button";
      button.addEventListener("click", () => { location.hash = button.textContent; });
      cell.append(button);
    }
  }
  return row;
}

function fillRow(element, columns, row) {
  let alarm = false;
  columns.forEach((column, index) => {
    const cell = element.children[index];
    const content = column.cell(row);
    alarm = alarm || content.alarm === true;
    setClass(cell, [column.kind, content.className].filter(Boolean).join(" "));
    setText(column.kind === "ticker" ? cell.firstElementChild : cell, content.text);
    if (column.kind === "ticker") cell.firstElementChild.title = content.title ? words(content.title) : "Show the last evaluations";
  });
  setClass(element, alarm ? "alarm" : "");
}

const shown = {
  status: null,
  receivedAt: null, // both clocks at the last answer
  changedAt: null, // and when its content last moved
  pulse: null, // what moves while the daemon lives
  error: "",
  ticker: null, // whose evaluations are open
};

// performance.now() may stand still while a computer sleeps, Date.now() may be set back: the larger wins.
function instant() {
  return { steady: performance.now(), wall: Date.now() };
}

function since(then) {
  const now = instant();
  return Math.max(now.steady - then.steady, now.wall - then.wall);
}

function link() {
  return {
    receivedMs: shown.receivedAt === null ? null : since(shown.receivedAt),
    changedMs: shown.changedAt === null ? 0 : since(shown.changedAt),
    error: shown.error,
  };
}

function accept(status) {
  showStatus(status); // first: what cannot be shown does not count as received
  const pulse = words(status.started_at) + words(status.uptime_s);
  shown.status = status;
  shown.receivedAt = instant();
  if (pulse !== shown.pulse || shown.changedAt === null) shown.changedAt = shown.receivedAt;
  shown.pulse = pulse;
  shown.error = "";
}

function showCoverage() {
  const now = link();
  const verdict = coverageVerdict(shown.status, now);
  const state = linkVerdict(shown.status, now).state;
  setClass(byId("coverage"), "coverage " + verdict.level);
  setText(byId("coverage-headline"), verdict.headline);
  setText(byId("coverage-detail"), verdict.detail);
  showList("coverage-list", verdict.list);
  const oldMs = state === "frozen" ? now.changedMs : now.receivedMs;
  setText(byId("freshness"), oldMs === null ? "no data yet" : "data " + age(oldMs / 1000) + " old");
  for (const id of ["badges", "data"]) setClass(byId(id), state === "live" ? "" : "stale");
  const title = verdict.short + " protected · Backstop";
  if (document.title !== title) document.title = title;
}

function showStatus(status) {
  showBadge("mode", modeBadge(status));
  showBadge("trading-state", stateBadge(status));
  showBadge("feed-badge", feedBadge(status));
  setText(byId("state-why"), status.trading_state === "active" ? "" : words(status.trading_state_why).replace("–", ""));
  setText(byId("version"), words(status.version));
  setText(byId("uptime"), age(status.uptime_s));
  const health = objectOf(status.health);
  const reasons = Array.isArray(health.reasons) ? health.reasons.map(words) : [];
  byId("health").hidden = health.ok === true;
  showList("health-reasons", reasons.length > 0 ? reasons : ["The daemon does not say why."]);
  showTable("positions", POSITION_COLUMNS, sortedPositions(status), Array.isArray(status.positions) ? "None." : "Not known.");
  showTable("exits", EXIT_COLUMNS, rowsOf(status.exits), Array.isArray(status.exits) ? "None." : "Not known.");
  showFacts("pnl", pnlFacts(status));
  showFacts("feed", feedFacts(status));
  showFacts("rest", restFacts(status));
  showFacts("threads", threadFacts(status));
}

async function getJson(path) {
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), FETCH_TIMEOUT_MS);
  try {
    // From the origin: a relative address would carry credentials typed into the address bar, which
    // fetch refuses.
    const response = await fetch(new URL(path, location.origin), { cache: "no-store", signal: aborter.signal });
    if (!response.ok) throw new Error(httpProblem(response.status));
    return await response.json();
  } finally {
    clearTimeout(timer);
  }
}

function httpProblem(status) {
  if (status === 401) return "it wants UI_TOKEN: reload the page and give it as the password";
  if (status === 404) return "it has no evaluations of this ticker";
  return "it answers HTTP " + status + ": see its log";
}

function problemWords(error) {
  if (error.name === "AbortError") return "no answer within " + FETCH_TIMEOUT_MS / 1000 + " s";
  if (error.name === "TypeError") return "it cannot be reached";
  return error.message;
}

async function refresh() {
  try {
    accept(objectOf(await getJson("/api/status")));
  } catch (error) {
    shown.error = problemWords(error);
  }
  showCoverage();
}

async function refreshExplain() {
  const ticker = shown.ticker;
  if (ticker === null) return;
  let rows = [];
  let note = "";
  try {
    rows = rowsOf(objectOf(await getJson("/api/explain/" + encodeURIComponent(ticker))).rows);
  } catch (error) {
    note = "No evaluations: " + problemWords(error) + ".";
  }
  if (ticker !== shown.ticker) return; // closed or replaced meanwhile
  setText(byId("explain-ticker"), ticker);
  setText(byId("explain-note"), note);
  showTable("explain-rows", EXPLAIN_COLUMNS, rows.sort((a, b) => b.at - a.at), "None.");
  const section = byId("explain");
  if (section.hidden) {
    section.hidden = false;
    section.scrollIntoView({ block: "nearest" });
  }
}

// The ticker stands in the address, so that going back, reloading and sharing work.
function readAddress() {
  const named = location.hash.slice(1);
  shown.ticker = TICKER.test(named) ? named : null;
  if (shown.ticker === null) byId("explain").hidden = true;
  else refreshExplain();
}

async function keepRunning(task, delayMs) {
  try {
    await task();
  } finally {
    setTimeout(() => keepRunning(task, delayMs), delayMs);
  }
}

function startPage() {
  byId("explain-close").addEventListener("click", () => { location.hash = ""; });
  window.addEventListener("hashchange", readAddress);
  readAddress();
  // A browser slows the timers of a hidden page: tell the age of the data before anybody believes them.
  document.addEventListener("visibilitychange", showCoverage);
  setInterval(showCoverage, REFRESH_MS / 2);
  keepRunning(refresh, REFRESH_MS);
  keepRunning(refreshExplain, EXPLAIN_REFRESH_MS); // apart, so that a slow one never ages the other
}

if (typeof document !== "undefined") startPage();
