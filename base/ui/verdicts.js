// Document in, words and levels out: pure, and what the tests call.
//
// Every field may be missing or null: what is not known is shown as not known, never as good.
"use strict";

const LOST_AFTER_MS = 3500; // three refreshes without an answer
const FROZEN_AFTER_MS = 8000; // answers come, but the daemon has stopped writing them
const FROZEN_AFTER_INTERVALS = 3; // or this many of its own UI intervals, where it tells a long one

// The words of base/ui/phrases.py, the same for the same code.
const REASONS = {
  within_rules: "within its rules",
  guarded: "a rule has triggered, a guard delays it",
  hold_below: "a rule has triggered, held below the least that its rule sells at",
  no_stop_near_close: "a stop has triggered, stops rest so near the close",
  by_choice: "left alone by choice (protect = false)",
  hedged: "part of a set that cannot lose",
  no_rule: "no rule would ever leave it",
  no_price: "no price is known",
  stale_price: "its price is too old to act on",
  no_bid: "nobody bids",
  below_floor: "the bid is below the floor",
  crossed: "its book is crossed, no price can be believed",
  paused: "trading in its market is paused",
  closed: "its market has closed",
  not_open: "its market is not open, or its status is not known",
  not_checked: "the checker has not looked at it in time",
  halted: "the kill switch is on and nothing is sent",
  stop_loss: "stop loss",
  break_even: "break even",
  trailing_stop: "trailing stop",
  time_stop: "time stop",
  event_group: "goes with another position of its event",
  take_profit: "take profit",
  set_broken: "part of a set that was not bought whole",
  flatten: "flatten was asked for",
  no_funds: "the exchange wants funds on this market's shard",
  auth: "the key is refused",
  clock: "this machine's clock is off",
  endpoint_gone: "the exchange has retired this endpoint",
  rate: "the exchange limits requests",
  unreachable: "the exchange cannot be reached",
  rejected: "the exchange refuses the order",
  no_fill: "nothing is filled at any price",
  market_closed: "its market has closed",
  filled: "sold",
  flat: "nothing was held any more",
  flipped: "the other side is held: traded by hand",
  position_changed: "what is held was changed by hand",
  price_left: "its price went away again",
  superseded: "a newer exit took its place",
  market_determined: "its market has ended",
  market_disputed: "its market has ended, and the result is disputed",
  market_amended: "its market has ended, and the result was amended",
  market_finalized: "its market has settled",
};
const NOT_COUNTED = ["by_choice", "hedged"];
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
  if (Object.hasOwn(coverage, "known") && coverage.known !== true) {
    const named = Array.isArray(coverage.unknown) ? coverage.unknown : [];
    return {
      level: "unknown",
      headline: "Coverage not known: " + (coverage.unknown_why ? words(coverage.unknown_why) : "the daemon does not say why"),
      detail: open > 0 ? "Of the positions that are known, " + safe + " of " + open + " are protected." : "Count on no position being protected.",
      list: [...named.map((ticker) => words(ticker) + ": what is held of it is not known"), ...list],
      short: "?",
    };
  }
  const short = safe + "/" + open;
  if (safe < open || unprotected.length > 0) {
    const bare = Math.max(open - safe, unprotected.length);
    return {
      level: "bad",
      headline: bare + " of " + plural(open, "open position") + " NOT protected",
      detail: sentences(safe + " protected.", byChoice(status)),
      list,
      short,
    };
  }
  const onPaper = open > 0 && isPaper(status);
  const safeText = open === 1 ? "The one open position is protected" : "All " + open + " open positions are protected";
  const headline = open === 0 ? "No open positions" : safeText + (onPaper ? " on PAPER" : "");
  const simulated = onPaper ? "Exits are simulated: no order leaves this machine." : "";
  if (!healthy) {
    const unwell = "But the daemon does not report itself healthy: see below.";
    return { level: "warn", headline, detail: sentences(unwell, simulated, byChoice(status)), list, short };
  }
  return { level: open === 0 ? "idle" : "good", headline, detail: sentences(simulated, byChoice(status)), list, short };
}

function sentences(...parts) {
  return parts.filter(Boolean).join(" ");
}

function isPaper(status) {
  return objectOf(status).trading_mode === "paper";
}

// What stands in the tab, where nothing else is seen of the page.
function tabTitle(verdict, status) {
  return [verdict.short === "?" ? "? not known" : verdict.short + " protected", isPaper(status) ? "PAPER" : "", "Backstop"].filter(Boolean).join(" · ");
}

function emptyPositions(status) {
  const coverage = objectOf(objectOf(status).coverage);
  const isKnown = !Object.hasOwn(coverage, "known") || coverage.known === true;
  return Array.isArray(objectOf(status).positions) && isKnown ? "None." : "Not known.";
}

// What else is wrong: positions without protection are named above, in words.
function healthVerdict(status) {
  const health = objectOf(objectOf(status).health);
  if (health.ok === true) return { hidden: true, reasons: [] };
  const listed = rowsOf(objectOf(objectOf(status).coverage).unprotected);
  const above = listed.map((entry) => words(entry.ticker) + " unprotected: " + words(entry.reason));
  const all = Array.isArray(health.reasons) ? health.reasons.map(words) : [];
  const reasons = all.filter((reason) => !above.includes(reason)).map((reason) =>
    reason.replace(/^(exit of \S+ is blocked: )(\w+)$/, (_, start, why) => start + reasonWords(why)));
  if (all.length === 0) return { hidden: false, reasons: ["The daemon does not say why."] };
  return { hidden: reasons.length === 0, reasons };
}

function byChoice(status) {
  const count = rowsOf(objectOf(status).positions).filter((row) => row.protected !== true && NOT_COUNTED.includes(row.reason)).length;
  return count === 0 ? "" : plural(count, "more position") + " without protection by choice.";
}

function modeBadge(status) {
  const env = words(status.env).toUpperCase();
  if (status.env === "sandbox" && status.trading_mode !== "paper") return { text: "SANDBOX", level: "sandbox" };
  if (status.trading_mode === "paper") return { text: "PAPER · " + env, level: "paper" };
  if (status.trading_mode === "live") return { text: "LIVE · " + env, level: "live" };
  return { text: "MODE NOT KNOWN", level: "bad" };
}

function stateBadge(status) {
  if (status.trading_state === "active") return { text: "ACTIVE", level: "good" };
  if (status.trading_state === "reducing") return { text: "REDUCING: exits only", level: "warn" };
  if (status.trading_state === "halted") return { text: "HALTED: nothing is sent, exits neither", level: "bad" };
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
  const source = row.price_source === "none" || !row.price_source ? "–" : (age(row.price_age_s) + " · " + words(row.price_source)).replaceAll(" ", "\u00a0");
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

// An exit as what happened when: each step with its distance from the trigger, which is what a stop is paid by.
function exitSteps(row) {
  const times = objectOf(row.timeline);
  const later = (at) => (Number.isFinite(at) && Number.isFinite(times.triggered) ? " +" + duration(at - times.triggered) : "");
  const steps = [{ text: "triggered " + clockTime(times.triggered) + (row.trigger_price ? " at " + dollars(row.trigger_price) : ""), level: "done" }];
  if (Number.isFinite(times.sent)) steps.push({ text: "sent" + later(times.sent), level: "done" });
  if (isSold(row)) {
    steps.push({ text: "filled " + trimmed(row.filled) + (row.average_price ? " at " + dollars(row.average_price) : "") + later(times.filled), level: "done" });
  }
  if (row.state === "closed") {
    const why = row.why && row.why !== "filled" ? ": " + reasonWords(row.why) : "";
    steps.push({ text: "closed" + why + later(times.closed), level: isSold(row) ? "end" : "warn" });
  } else if (row.state === "blocked" || row.state === "unknown") {
    steps.push({ text: row.state === "blocked" ? "BLOCKED" + (row.why ? ": " + reasonWords(row.why) : "") : "ANSWER LOST: being looked up", level: "bad" });
  } else {
    steps.push({ text: words(row.state) + " …", level: "now" });
  }
  return steps;
}

function isSold(row) {
  return typeof row.filled === "string" && /[1-9]/.test(row.filled);
}

function duration(seconds) {
  if (seconds < 0) return "–";
  return seconds < 1 ? Math.round(seconds * 1000) + " ms" : age(seconds);
}

// Newest first; what still goes on before what has ended.
function sortedExits(status) {
  const rank = (row) => (row.state === "closed" ? 1 : 0);
  return rowsOf(status.exits).reverse().sort((a, b) => rank(a) - rank(b));
}

function heldText(row) {
  return trimmed(row.count) + " " + words(row.outcome_side).toUpperCase();
}
