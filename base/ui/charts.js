// Numbers into shapes: distance bars, sparklines, the curve of the day. Pure.
//
// A number that is missing or odd is drawn as a gap, never as a value.
"use strict";

const BAR_FULL = 0.3; // a fall by this share of the price, or more, fills the distance bar
const BAR_WARN = 0.1;
const BAR_BAD = 0.04;
const SPARK_SPAN_MIN = 0.04; // dollars from bottom to top at least, so that a tick is no mountain
const SPARK_SPAN_MIN_S = 120; // a program that has just started does not draw a dot
const CURVE_SPAN_MIN_S = 60;
const PRICE_UNIT = 0.0001; // dollars, in which the history tells prices
const GAP_STEPS = 3; // so many steps without a point are a gap in the line

function numberOf(text) {
  return typeof text === "string" && /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : null;
}

// How far a position is above its stop: text, share of the bar (null: no bar) and level.
function stopDistance(row) {
  const stop = numberOf(row.stop_price);
  const value = numberOf(row.exit_value);
  if (stop === null) return { text: "no stop", share: null, level: "none" };
  if (value === null) return { text: "not known", share: null, level: "none" };
  const distance = Math.round((value - stop) * 1e6) / 1e6;
  if (distance <= 0) return { text: "AT THE STOP", share: 0, level: "bad" };
  const fall = distance / value;
  const level = fall <= BAR_BAD ? "bad" : fall <= BAR_WARN ? "warn" : "good";
  return { text: cents(distance) + " · " + Math.round(fall * 100) + " %", share: Math.min(1, fall / BAR_FULL), level };
}

function cents(amount) {
  return (Math.round(amount * 1e4) / 100).toString() + " ¢";
}

// One position of /api/history as rows of {age, value, stop}, oldest first, null where nothing is known.
function pricePoints(told, stepS) {
  const { values, stops } = told !== null && typeof told === "object" ? told : {};
  const list = Array.isArray(values) ? values : [];
  const stopOf = (Array.isArray(stops) ? stops : []).flatMap((run) =>
    Array.isArray(run) && Number.isInteger(run[0]) && run[0] > 0 && run[0] <= list.length ? Array(run[0]).fill(run[1]) : []
  );
  return list.map((value, index) => ({ age: (list.length - 1 - index) * stepS, value: unitsOf(value), stop: unitsOf(stopOf[index]) }));
}

function unitsOf(value) {
  return Number.isInteger(value) && value >= 0 ? value * PRICE_UNIT : null;
}

// Returns null when there is nothing to draw.
function sparkline(told, spanS, stepS, width, height) {
  const rows = pricePoints(told, stepS).filter((row) => row.age <= spanS);
  const seen = rows.flatMap((row) => [row.value, row.stop]).filter((value) => value !== null);
  if (!rows.some((row) => row.value !== null)) return null;
  const scale = scaleOf(Math.min(...seen), Math.max(...seen), SPARK_SPAN_MIN, height);
  const shownS = Math.min(spanS, Math.max(SPARK_SPAN_MIN_S, rows[0].age));
  const x = (age) => round(width * (1 - Math.max(0, age) / shownS));
  const gapS = stepS * GAP_STEPS;
  const last = rows.findLast((row) => row.value !== null);
  return {
    value: pathOf(rows, (row) => row.value, (row) => row.age, x, scale, gapS),
    stop: pathOf(rows, (row) => row.stop, (row) => row.age, x, scale, gapS),
    dot: { x: x(last.age), y: scale(last.value) },
    level: last.stop !== null && last.value <= last.stop ? "bad" : "good",
  };
}

// Points are [age, realized, unrealized], oldest first.
function dayCurve(history, width, height) {
  const pnl = history !== null && typeof history === "object" && history.pnl !== null && typeof history.pnl === "object" ? history.pnl : {};
  const rows = (Array.isArray(pnl.points) ? pnl.points : [])
    .filter((point) => Array.isArray(point) && Number.isFinite(point[0]))
    .map(([age, realized, unrealized]) => {
      const [done, open] = [numberOf(realized), numberOf(unrealized)];
      return { age, total: done === null || open === null ? null : done + open };
    });
  const totals = rows.map((row) => row.total).filter((total) => total !== null);
  if (totals.length === 0) return null;
  const [low, high] = [Math.min(0, ...totals), Math.max(0, ...totals)];
  const scale = scaleOf(low, high, 0.02, height);
  const spanS = Math.max(CURVE_SPAN_MIN_S, rows[0].age);
  const x = (age) => round(width * (1 - Math.max(0, age) / spanS));
  const stepS = Number.isFinite(pnl.step_s) ? pnl.step_s : 60;
  return {
    path: pathOf(rows, (row) => row.total, (row) => row.age, x, scale, stepS * GAP_STEPS),
    zero: scale(0),
    low: Math.min(...totals),
    high: Math.max(...totals),
    last: totals[totals.length - 1],
    sinceS: rows[0].age,
  };
}

function scaleOf(low, high, spanMin, height) {
  const missing = Math.max(0, spanMin - (high - low)) / 2;
  const [bottom, top] = [low - missing, high + missing];
  const pad = 3;
  return (value) => round(height - pad - ((value - bottom) / (top - bottom)) * (height - 2 * pad));
}

function pathOf(rows, valueOf, ageOf, x, scale, gapS) {
  let path = "";
  let before = null;
  for (const row of rows) {
    const value = valueOf(row);
    if (value !== null) {
      const isOn = before !== null && before - ageOf(row) <= gapS;
      path += (isOn ? "L" : "M") + x(ageOf(row)) + " " + scale(value);
    }
    before = value === null ? null : ageOf(row);
  }
  return path;
}

function round(value) {
  return Math.round(value * 10) / 10;
}
