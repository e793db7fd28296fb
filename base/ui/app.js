// The page: fetches /api/status every second and shows it. Read-only.
//
// Everything that comes from outside reaches the page as text content only. What to say is decided in
// verdicts.js, what stands where in tables.js, what to draw in charts.js.
"use strict";

const REFRESH_MS = 1000;
const EXPLAIN_REFRESH_MS = 2000;
const HISTORY_REFRESH_MS = 5000;
const HISTORY_OLD_MS = 20000;
const FETCH_TIMEOUT_MS = 4000;
const SVG = "http://www.w3.org/2000/svg";
const SPARK = { width: 120, height: 30 };
const BAR = { width: 90, height: 7 };
const CURVE = { width: 600, height: 110 };
const TICKER = /^[\w.-]{1,128}$/;

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
    fitCell(cell, column.kind || "");
  }
  return row;
}

function fitCell(cell, kind) {
  const place = make("div");
  if (kind === "ticker") {
    const button = make("button");
    button.type = "button";
    button.addEventListener("click", () => { location.hash = button.textContent; });
    place.append(button, make("small"));
  } else if (kind === "bar") {
    const drawing = makeSvg(BAR, "bar");
    drawing.append(makeShape("rect", { width: BAR.width, height: BAR.height, rx: 3, class: "track" }), makeShape("rect", { height: BAR.height, rx: 3 }));
    place.append(make("span"), drawing);
  } else if (kind === "spark") {
    const drawing = makeSvg(SPARK, "spark");
    drawing.append(makeShape("path", { class: "stop" }), makeShape("path", { class: "value" }), makeShape("circle", { r: 2.5 }));
    place.append(make("span"), drawing);
  } else if (kind.startsWith("steps")) {
    place.append(make("ol"));
  } else {
    return;
  }
  cell.append(place);
}

function makeSvg(size, name) {
  return makeShape("svg", { viewBox: "0 0 " + size.width + " " + size.height, class: name, "aria-hidden": "true" });
}

function makeShape(tag, attributes) {
  const shape = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) setShape(shape, name, value);
  return shape;
}

function setShape(shape, name, value) {
  if (shape.getAttribute(name) !== String(value)) shape.setAttribute(name, value);
}

function showCell(cell, kind, content) {
  const place = cell.firstElementChild;
  if (kind === "ticker") {
    const [button, note] = place.children;
    setText(button, content.text);
    button.title = content.title ? words(content.title) : "Show the last evaluations";
    setText(note, content.sub || "");
  } else if (kind === "bar") {
    showBar(place, content.bar);
  } else if (kind === "spark") {
    showSpark(place, content.ticker);
  } else if (kind.startsWith("steps")) {
    const list = place.firstElementChild;
    resize(list, content.steps.length, () => make("li"));
    content.steps.forEach((step, index) => {
      setText(list.children[index], step.text);
      setClass(list.children[index], step.level);
    });
  } else {
    setText(cell, content.text);
  }
}

function showBar(place, bar) {
  const [text, drawing] = place.children;
  setText(text, bar.text);
  setClass(text, bar.level === "bad" ? "bad-text" : bar.level === "none" ? "muted-text" : "");
  drawing.classList.toggle("gone", bar.share === null);
  setShape(drawing.lastElementChild, "width", (bar.share === null ? 0 : bar.share) * BAR.width);
  setShape(drawing.lastElementChild, "class", "fill " + bar.level);
}

function showSpark(place, ticker) {
  const [text, drawing] = place.children;
  const told = objectOf(shown.history);
  const points = objectOf(told.positions)[ticker];
  const line = sparkline(points, Number(told.span_s) || 600, Number(told.position_step_s) || 10, SPARK.width, SPARK.height);
  setText(text, line === null ? "–" : "");
  drawing.classList.toggle("gone", line === null);
  if (line === null) return;
  const [stop, value, dot] = drawing.children;
  setShape(stop, "d", line.stop);
  setShape(value, "d", line.value);
  setShape(dot, "cx", line.dot.x);
  setShape(dot, "cy", line.dot.y);
  setShape(drawing, "class", "spark " + line.level);
}

function showCurve() {
  const curve = dayCurve(shown.history, CURVE.width, CURVE.height);
  const place = byId("curve");
  if (place.firstElementChild === null) {
    const drawing = makeSvg(CURVE, "curve");
    setShape(drawing, "preserveAspectRatio", "none");
    drawing.append(makeShape("path", { class: "zero" }), makeShape("path", { class: "value" }));
    place.append(drawing);
  }
  const drawing = place.firstElementChild;
  drawing.classList.toggle("gone", curve === null);
  setText(byId("curve-note"), curveNote(curve, shown.history !== null));
  if (curve === null) return;
  setShape(drawing.firstElementChild, "d", "M0 " + curve.zero + "L" + CURVE.width + " " + curve.zero);
  setShape(drawing.lastElementChild, "d", curve.path);
  setShape(drawing, "class", "curve " + (curve.last < 0 ? "bad" : "good"));
}

function fillRow(element, columns, row) {
  let alarm = false;
  columns.forEach((column, index) => {
    const cell = element.children[index];
    const content = column.cell(row);
    alarm = alarm || content.alarm === true;
    setClass(cell, [column.kind, content.className].filter(Boolean).join(" "));
    showCell(cell, column.kind || "", content);
  });
  setClass(element, alarm ? "alarm" : "");
}

const shown = {
  status: null,
  history: null, // what is drawn; null: not known
  historyAt: null, // both clocks when it came
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
  const title = tabTitle(verdict, shown.status);
  if (document.title !== title) document.title = title;
}

function showStatus(status) {
  showBadge("mode", modeBadge(status));
  showBadge("trading-state", stateBadge(status));
  showBadge("feed-badge", feedBadge(status));
  setText(byId("state-why"), status.trading_state === "active" ? "" : words(status.trading_state_why).replace("–", ""));
  setText(byId("version"), words(status.version));
  setText(byId("uptime"), age(status.uptime_s));
  const health = healthVerdict(status);
  byId("health").hidden = health.hidden;
  showList("health-reasons", health.reasons);
  showTable("positions", POSITION_COLUMNS, sortedPositions(status), emptyPositions(status));
  showTable("exits", EXIT_COLUMNS, sortedExits(status), Array.isArray(status.exits) ? "None." : "Not known.");
  showTable("orders", ORDER_COLUMNS, rowsOf(status.orders), Array.isArray(status.orders) ? "None." : "Not known.");
  showFacts("pnl", pnlFacts(status));
  showFacts("feed", feedFacts(status));
  showFacts("rest", restFacts(status));
  showFacts("strategy", strategyFacts(status));
  showFacts("alerts", alertFacts(status));
  showFacts("record", recordFacts(status));
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

async function refreshHistory() {
  try {
    shown.history = objectOf(await getJson("/api/history"));
    shown.historyAt = instant();
  } catch {
    // Without a connection the last lines stay, marked old like everything; beside fresh data they go.
    const isLive = linkVerdict(shown.status, link()).state === "live";
    if (isLive && shown.historyAt !== null && since(shown.historyAt) > HISTORY_OLD_MS) shown.history = null;
  }
  showCurve();
  if (shown.status !== null) showStatus(shown.status);
}

async function refreshExplain() {
  const ticker = shown.ticker;
  if (ticker === null) return;
  let rows = [];
  let note = "";
  try {
    const told = objectOf(await getJson("/api/explain/" + encodeURIComponent(ticker)));
    rows = rowsOf(told.rows);
    note = rowsOf(told.exits).map(exitNote).join(" ");
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
  keepRunning(refreshHistory, HISTORY_REFRESH_MS);
  keepRunning(refreshExplain, EXPLAIN_REFRESH_MS); // apart, so that a slow one never ages the other
}

if (typeof document !== "undefined") startPage();
