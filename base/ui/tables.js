// What stands in the tables and tiles: their columns and facts, in the words of verdicts.js. Pure.
"use strict";

const POSITION_COLUMNS = [
  { label: "Market", kind: "ticker", cell: (row) => ({ text: words(row.ticker), title: row.title, sub: ruleText(row) }) },
  { label: "Held", kind: "number", cell: (row) => ({ text: heldText(row) }) },
  { label: "Entry", kind: "number", cell: (row) => ({ text: dollars(row.entry_price) }) },
  { label: "Exit value", kind: "number", cell: (row) => ({ text: dollars(row.exit_value) }) },
  { label: "Stop", kind: "number", cell: (row) => ({ text: dollars(row.stop_price) }) },
  { label: "Above stop", kind: "bar", cell: (row) => ({ text: "", bar: stopDistance(row) }) },
  { label: "Last minutes", kind: "spark", cell: (row) => ({ text: "", ticker: row.ticker }) },
  { label: "Take-profit", kind: "number", cell: (row) => ({ text: dollars(row.take_profit_price) }) },
  { label: "P&L", kind: "number", cell: (row) => ({ text: dollars(row.unrealized_pnl), className: moneyClass(row.unrealized_pnl) }) },
  { label: "Price", cell: sourceCell },
  { label: "Protection", kind: "wide", cell: protectionCell },
];

function ruleText(row) {
  return typeof row.rule === "string" && row.rule !== "" ? row.rule : "";
}

const EXIT_COLUMNS = [
  { label: "Market", kind: "ticker", cell: (row) => ({ text: words(row.ticker) }) },
  { label: "Reason", kind: "short", cell: (row) => ({ text: words(row.reason).replaceAll("_", " ") }) },
  { label: "State", cell: exitStateCell },
  { label: "What happened", kind: "steps wide", cell: (row) => ({ text: "", steps: exitSteps(row) }) },
  { label: "Fees", kind: "number", cell: (row) => ({ text: dollars(row.fees) }) },
  { label: "Attempts", kind: "number", cell: (row) => ({ text: words(row.attempts) }) },
];

const ORDER_COLUMNS = [
  { label: "Market", kind: "ticker", cell: (row) => ({ text: words(row.ticker) }) },
  { label: "Order", kind: "number", cell: (row) => ({ text: heldText(row) }) },
  { label: "Filled", kind: "number", cell: (row) => ({ text: trimmed(row.filled) }) },
  { label: "Price", kind: "number", cell: (row) => ({ text: dollars(row.price) }) },
  { label: "State", cell: (row) => ({ text: reasonWords(row.state) + (row.why ? ": " + reasonWords(row.why) : ""), className: row.state === "unknown" ? "bad-text" : "" }) },
  { label: "Strategy", cell: (row) => ({ text: words(row.strategy) }) },
  { label: "Placed", cell: (row) => ({ text: clockTime(Date.parse(row.placed_at) / 1000) }) },
  { label: "Expires", cell: (row) => ({ text: clockTime(Date.parse(row.expires_at) / 1000) }) },
];

// Of several looks the last comes first: the price and its age are that one's.
function lookTime(row) {
  return row.repeats > 1 ? clockTime(row.last_at) + " (×" + row.repeats + " since " + clockTime(row.at) + ")" : clockTime(row.at);
}

// The exits of the position whose evaluations are open, also those of a run before this one.
function exitNote(row) {
  const closed = objectOf(row.timeline).closed;
  const at = Number.isFinite(closed) ? new Date(closed * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }) : "–";
  const sold = isSold(row) ? trimmed(row.filled) + " sold at " + dollars(row.average_price) + " on average" : "nothing was sold";
  if (row.state !== "closed") return "Being left by " + reasonWords(row.reason) + ": " + sold + ".";
  return "Left by " + reasonWords(row.reason) + " at " + at + ": " + sold + (row.why && row.why !== "filled" ? ", " + reasonWords(row.why) : "") + ".";
}

const EXPLAIN_COLUMNS = [
  { label: "Time", cell: (row) => ({ text: lookTime(row) }) },
  { label: "Decision", cell: (row) => ({ text: words(row.decision), className: row.decision === "exit" ? "bad-text" : "" }) },
  { label: "Exit value", kind: "number", cell: (row) => ({ text: dollars(row.exit_value) }) },
  { label: "Size", kind: "number", cell: (row) => ({ text: trimmed(row.bid_size) }) },
  { label: "Price age", kind: "number", cell: (row) => ({ text: age(row.price_age_s) }) },
  { label: "Source", cell: (row) => ({ text: row.price_source === "snapshot" ? "ws" : words(row.price_source) }) },
  { label: "Stop", kind: "number", cell: (row) => ({ text: dollars(row.stop_price) }) },
  { label: "Take-profit", kind: "number", cell: (row) => ({ text: dollars(row.take_profit_price) }) },
  { label: "Why", kind: "wide", cell: (row) => ({ text: reasonWords(row.why) + (row.detail ? ": " + row.detail : "") }) },
];

function pnlFacts(status) {
  const pnl = objectOf(status.pnl);
  const facts = [
    ["Realized today", dollars(pnl.realized_today), moneyClass(pnl.realized_today)],
    ["Unrealized", dollars(pnl.unrealized), moneyClass(pnl.unrealized)],
    ["Fees today", dollars(pnl.fees_today), ""],
  ];
  if (pnl.positions_without_price > 0) facts.push(["Without a price", plural(pnl.positions_without_price, "position"), "warn-text"]);
  const strategies = Object.entries(objectOf(pnl.by_strategy));
  if (strategies.length > 1) {
    for (const [name, money] of strategies) {
      const { realized_today: realized, unrealized } = objectOf(money);
      facts.push([name || "by hand", dollars(realized) + " / " + dollars(unrealized), ""]);
    }
  }
  return facts;
}

function curveNote(curve, isLive) {
  if (curve === null) return isLive ? "No history yet." : "Not known.";
  return "Last " + age(curve.sinceS) + ": low " + money(curve.low) + ", high " + money(curve.high) + ", now " + money(curve.last);
}

function money(amount) {
  return dollars(amount.toFixed(2));
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
  ].concat(feed.last_error ? [["Last error", words(feed.last_error), "warn-text"]] : []);
}

function restFacts(status) {
  const rest = objectOf(status.rest);
  const budget = Object.entries(objectOf(rest.budget)).map(([name, bucket]) => {
    const { tokens, capacity } = objectOf(bucket);
    if (!Number.isFinite(tokens) || !Number.isFinite(capacity)) return ["Budget, " + name, "–", ""];
    return ["Budget, " + name, Math.round(tokens) + " of " + Math.round(capacity), tokens < capacity * 0.1 ? "bad-text" : ""];
  });
  return [
    ["Reads", words(rest.reads_last_60s), ""],
    ["Price reads", words(rest.price_reads_last_60s), ""],
    ["Writes", words(rest.writes_last_60s), ""],
    ["Rate limited", words(rest.rate_limited_last_60s), rest.rate_limited_last_60s > 0 ? "bad-text" : ""],
    ...budget,
  ];
}

function strategyFacts(status) {
  const strategy = objectOf(status.strategy);
  if (strategy.name === undefined) return [["Strategy", "not known", "muted-text"]];
  const running = Number.isFinite(strategy.running_s) && strategy.running_s > 5 ? "RUNNING for " + age(strategy.running_s) : "";
  const state = strategy.failing === true ? "FAILING ×" + words(strategy.failed_in_a_row) : running || (strategy.failing === false ? "works" : "–");
  const facts = [
    ["Name", words(strategy.name), ""],
    ["State", state, state === "works" ? "" : "bad-text"],
    ["Passes", words(strategy.passes), ""],
    ["Intents, refused", words(strategy.intents) + ", " + words(strategy.refused), ""],
  ];
  if (strategy.last_error) facts.push(["Last error", words(strategy.last_error), strategy.failing ? "bad-text" : "muted-text"]);
  if (strategy.last_refused) facts.push(["Last refused", words(strategy.last_refused), "muted-text"]);
  return facts;
}

function alertFacts(status) {
  const alerts = objectOf(status.alerts);
  const facts = rowsOf(alerts.channels).map((channel) => {
    if (channel.hanging === true) return [words(channel.name), "HANGS", "bad-text"];
    if (channel.last_error) return [words(channel.name), words(channel.last_error), "bad-text"];
    return [words(channel.name), words(channel.sent) + " sent" + (channel.dropped > 0 ? ", " + channel.dropped + " dropped" : ""), ""];
  });
  if (alerts.on !== true) facts.push(["Alerts", alerts.on === false ? "OFF: nobody is told" : "–", "warn-text"]);
  const switchOf = objectOf(status.dead_man);
  if (switchOf.on === false) facts.push(["Dead man's switch", "off", "muted-text"]);
  else if (switchOf.on === true) facts.push(["Dead man's switch", switchOf.last_error ? words(switchOf.last_error) : "called " + age(switchOf.last_call_age_s) + " ago", switchOf.last_error ? "bad-text" : ""]);
  return facts;
}

function recordFacts(status) {
  const journal = objectOf(status.journal);
  const pause = objectOf(status.next_pause);
  const key = objectOf(status.key);
  return [
    ["Record on disk", journal.ok === true ? "ok" : journal.ok === false ? "FAILING: " + words(journal.why) : "–", journal.ok === true ? "" : "bad-text"],
    ["Next pause", pause.starts_at ? dayTime(pause.starts_at) : "none known", ""],
    ["Pause ends", pause.ends_at ? dayTime(pause.ends_at) : "–", ""],
    ["Key attested until", key.attestation_ends_at ? dayTime(key.attestation_ends_at) : "–", ""],
  ];
}

function dayTime(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? "–" : at.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

function threadFacts(status) {
  return Object.entries(objectOf(status.threads)).map(([name, thread]) => {
    const facts = objectOf(thread);
    if (facts.state === "starting" || facts.state === "stopped") return [name, facts.state, "warn-text"];
    if (facts.alive === false) return [name, "DEAD", "bad-text"];
    if (facts.on_time === false) return [name, "LATE: " + age(facts.last_pass_age_s), "bad-text"];
    return [name, facts.alive === true ? age(facts.last_pass_age_s) : "–", facts.alive === true ? "" : "muted-text"];
  });
}

