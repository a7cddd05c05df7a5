// Asks the server every second and shows what it answers. Whatever comes from it is set as text.

import { Chart, Rows, make, setText } from "/charts.js";
import { NONE, about, clock, count, micros, plural, rate, roughly, seconds, size, span } from "/format.js";

const INTERVAL_MS = 1000;
const PATIENCE_MS = 4000;
const LEAD_COLORS = 8;

const subject = document.body.dataset.subject;
const rows = new Rows();
// What the server is asked for, and what is known of it.
const asked = { since: null, storesFrom: 0, start: null, version: null };
let heardAt = Date.now();
let isLost = false;
let wake = () => {};

const CHARTS = {
  cluster: [
    { title: "Commands", hint: "per second, as stores report", series: [["reads", "reads"], ["writes", "writes"]], format: rate, least: 1 },
    { title: "Latency, p99", hint: "of the slowest store", series: [["read_p99", "reads"], ["write_p99", "writes"]], format: seconds, least: 0.001 },
    { title: "Writes in queues", hint: "of all stores", series: [["write_queue_bytes", "bytes"]], format: size, least: 1024, isBytes: true },
    { title: "Timestamps", hint: "per second", series: [["timestamps", "handed out"]], format: rate, least: 1 },
    { title: "Durable bound", hint: "ahead of the last timestamp", series: [["to_bound", "distance"]], format: seconds, least: 1 },
    { title: "Waits for timestamps", hint: "per second", series: [["tso_waits", "waits"]], format: rate, least: 1 },
  ],
  store: [
    { title: "Commands", hint: "per second", series: [["reads", "reads"], ["writes", "writes"]], format: rate, least: 1 },
    { title: "Latency, p99", hint: "99 of 100 are faster", series: [["read_p99", "reads"], ["write_p99", "writes"]], format: seconds, least: 0.001 },
    { title: "Where writes wait, p99", series: [["queued_p99", "in the queue"], ["sync_p99", "for the log"], ["apply_p99", "being applied"]], format: seconds, least: 0.001 },
    { title: "Writes in the queue", series: [["write_queue_bytes", "bytes"]], format: size, least: 1024, isBytes: true },
    { title: "Reads from the disk", hint: "per second", series: [["disk_reads", "reads"]], format: rate, least: 1 },
    { title: "Left to compact", series: [["compaction_pending_bytes", "bytes"]], format: size, least: 1024, isBytes: true },
  ],
};
const charts = CHARTS[subject].map((settings) => new Chart(settings));
byId("charts").append(...charts.map((chart) => chart.root));

function byId(id) {
  return document.getElementById(id);
}

// A figure with its unit in small letters.
function tile(id, text, unit = "") {
  const element = byId(id);
  const shown = unit ? `${text} ${unit}` : text;
  if (!element || element.textContent === shown) return;
  element.textContent = text;
  if (unit) element.append(" ", make("small", "", unit));
}

// Text in which commands stand between backticks.
function withCommands(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  const parts = text.split("`").map((part, index) => (index % 2 === 1 ? make("code", "", part) : part));
  element.replaceChildren(...parts);
}

function showFindings(findings, notServing) {
  const list = byId("findings-list");
  byId("findings").hidden = findings.shown.length === 0;
  while (list.children.length > findings.shown.length) list.lastChild.remove();
  findings.shown.forEach((finding, index) => {
    let item = list.children[index];
    if (!item) {
      item = make("li");
      const what = make("p", "what");
      what.append(make("span", "severity"), make("span", "text"));
      const toDo = make("p", "to-do");
      toDo.append(make("span", "text"));
      item.append(what, toDo);
      list.append(item);
    }
    item.className = finding.is_alarm ? "is-alarm" : "";
    setText(item.querySelector(".severity"), finding.is_alarm ? "▲ Alarm:" : "! Notice:");
    withCommands(item.querySelector(".what .text"), finding.what);
    withCommands(item.querySelector(".to-do .text"), `To do: ${finding.to_do}`);
  });
  const rest = byId("findings-rest");
  rest.hidden = findings.left_out === 0;
  withCommands(rest, `and ${count(findings.left_out)} more: \`rdbctl status\` tells all of them`);
  const counts = [[findings.alarms, "alarm"], [findings.notices, "notice"]].filter(([number]) => number > 0);
  const told = counts.map(([number, noun]) => plural(number, noun)).join(", ");
  verdict(findings.alarms > 0 || notServing ? "alarm" : findings.notices > 0 ? "notice" : "good", told || (notServing ? "Not serving" : "All is well"));
}

function verdict(level, text) {
  const element = byId("verdict");
  element.dataset.level = level;
  setText(element, text);
  const who = document.body.dataset.who ?? `FlareDB ${subject}`;
  document.title = level === "good" ? who : `(${text}) ${who}`;
}

// A row of the table, or one more if there are too few.
function row(body, index, labels) {
  if (body.children[index]) return body.children[index];
  const line = make("tr");
  line.setAttribute("role", "row");
  labels.forEach((label, column) => {
    const cell = make(column === 0 ? "th" : "td");
    cell.setAttribute("role", column === 0 ? "rowheader" : "cell");
    if (column === 0) cell.scope = "row";
    cell.dataset.label = label;
    const heading = document.querySelector(`.stores thead th:nth-child(${column + 1})`);
    if (heading.classList.contains("number")) cell.className = "number";
    line.append(cell);
  });
  body.append(line);
  line.children[0].append(make("span", "id"), make("span", "address"));
  line.children[1].append(make("span", "state"));
  const disk = make("span", "disk");
  const bar = make("span", "bar");
  bar.append(make("i"));
  disk.append(bar, make("span", "text"));
  line.children[10].append(disk);
  return line;
}

function showStores(stores, nowMs) {
  const labels = [...document.querySelectorAll(".stores thead th")].map((heading) => heading.textContent);
  const body = byId("stores");
  while (body.children.length > stores.rows.length) body.lastChild.remove();
  stores.rows.forEach((values, index) => {
    const store = Object.fromEntries(stores.columns.map((column, at) => [column, values[at]]));
    const cells = row(body, index, labels).children;
    setText(cells[0].querySelector(".id"), String(store.id));
    const address = cells[0].querySelector(".address");
    setText(address, store.address);
    address.title = store.address;
    const state = cells[1].querySelector(".state");
    state.dataset.state = store.state;
    setText(state, store.state);
    const used = store.capacity_bytes ? 1 - store.available_bytes / store.capacity_bytes : null;
    const texts = [
      store.heard_ms === null ? "never" : `${roughly(store.heard_ms / 1000)} ago`,
      count(store.regions), count(store.leads), rate(store.reads), rate(store.writes), micros(store.read_p99_us),
      micros(store.write_p99_us), size(store.queue_bytes),
    ];
    texts.forEach((text, at) => setText(cells[at + 2], text));
    const bar = cells[10].querySelector(".bar");
    bar.classList.toggle("is-full", used !== null && used > 0.9);
    bar.style.setProperty("--part", `${Math.round((used ?? 0) * 100)}%`);
    const free = used === null ? NONE : `${Math.round(used * 100)} % of ${size(store.capacity_bytes)}`;
    setText(cells[10].querySelector(".text"), free);
    setText(cells[11], size(store.data_bytes));
    setText(cells[12], about(store.keys));
    const isUp = store.state === "up" || store.state === "leaving";
    setText(cells[13], store.started_ms && isUp ? roughly((nowMs - store.started_ms) / 1000) : NONE);
  });
  byId("stores-none").hidden = stores.count > 0;
  const shown = stores.rows.length;
  asked.storesFrom = stores.from;
  asked.storesShown = shown;
  byId("stores-turn").hidden = shown === stores.count;
  setText(byId("stores-part"), `${count(stores.from + 1)} to ${count(stores.from + shown)} of ${count(stores.count)}`);
  byId("stores-before").disabled = stores.from === 0;
  byId("stores-after").disabled = stores.from + shown >= stores.count;
}

let currentCell = 0;
let regionCells = [];
let troubleNames = [];

function describeCell([id, number, leader, trouble, troubled, bytes]) {
  const what = number === 1 ? `Region ${id}` : `${count(number)} regions, the first is ${id}`;
  const who = leader === null ? "no leader is known" : leader === 0 ? "led by several stores" : `led by store ${leader}`;
  const parts = [what, who];
  if (bytes !== null) parts.push(`about ${size(bytes)} each replica${number === 1 ? "" : ", all together"}`);
  if (trouble !== null) parts.push(number === 1 ? troubleNames[trouble] : `${count(troubled)} with ${troubleNames[trouble]} or less`);
  return parts.join(" · ");
}

function showRegions(regions, stores) {
  const line = byId("keyline");
  [regionCells, troubleNames] = [regions.cells, regions.troubles];
  const told = [
    count(regions.count),
    regions.without_leader > 0 ? `${count(regions.without_leader)} without a leader` : "",
    regions.with_replicas_missing > 0 ? `${count(regions.with_replicas_missing)} with replicas missing` : "",
  ];
  setText(byId("regions-count"), told.filter(Boolean).join(" · "));
  while (line.children.length > regionCells.length) line.lastChild.remove();
  regionCells.forEach((cell, index) => {
    let button = line.children[index];
    if (!button) {
      button = make("button");
      button.type = "button";
      line.append(button);
    }
    const [, number, leader, trouble] = cell;
    const color = leader ? `lead-${leader % LEAD_COLORS}` : "lead-none";
    button.className = trouble !== null && trouble <= 3 ? `${color} in-trouble` : color;
    button.style.setProperty("--weight", number);
    const name = regionCells.length <= 12 ? `store ${leader}` : String(leader);
    setText(button, leader ? name : leader === 0 ? "…" : "?");
    button.setAttribute("aria-label", describeCell(cell));
    button.tabIndex = index === Math.min(currentCell, regionCells.length - 1) ? 0 : -1;
  });
  const at = document.activeElement?.parentElement === line ? currentCell : null;
  if (at !== null && regionCells[at]) setText(byId("region-detail"), describeCell(regionCells[at]));
  const legend = byId("keyline-legend");
  const id = stores.columns.indexOf("id");
  const leads = stores.columns.indexOf("leads");
  // Among more stores colours repeat, and the numbers on the line have to do.
  const leaders = stores.count > LEAD_COLORS ? [] : stores.rows.filter((values) => values[leads] > 0);
  while (legend.children.length > leaders.length) legend.lastChild.remove();
  leaders.forEach((values, index) => {
    let item = legend.children[index];
    if (!item) {
      item = make("li");
      item.append(make("i"), make("span"));
      legend.append(item);
    }
    item.firstChild.className = `lead-${values[id] % LEAD_COLORS}`;
    setText(item.lastChild, `store ${values[id]} leads ${count(values[leads])}`);
  });
}

function listenToRegions() {
  const line = byId("keyline");
  const look = (button) => {
    const index = [...line.children].indexOf(button);
    if (index < 0) return;
    for (const other of line.children) {
      other.tabIndex = other === button ? 0 : -1;
      other.setAttribute("aria-current", other === button ? "true" : "false");
    }
    currentCell = index;
    setText(byId("region-detail"), describeCell(regionCells[index]));
  };
  line.addEventListener("focusin", (event) => look(event.target));
  line.addEventListener("pointerover", (event) => look(event.target));
  line.addEventListener("keydown", (event) => {
    const last = line.children.length - 1;
    const to = { ArrowLeft: currentCell - 1, ArrowRight: currentCell + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    line.children[Math.max(0, Math.min(last, to))]?.focus();
  });
}

function listenToTurning() {
  const turn = (by) => {
    asked.storesFrom = Math.max(0, asked.storesFrom + by);
    wake();
  };
  byId("stores-before").addEventListener("click", () => turn(-asked.storesShown));
  byId("stores-after").addEventListener("click", () => turn(asked.storesShown));
}

function present(update, column) {
  return update.history.now[update.history.columns.indexOf(column)] ?? null;
}

function showCluster(update) {
  document.body.dataset.who = "FlareDB cluster";
  setText(byId("who"), `${update.cluster_id} · placement driver at ${update.addr}`);
  showFindings(update.findings, update.not_serving);
  const { stores, timestamps } = update;
  tile("tile-stores", String(stores.up), `of ${count(stores.count)}`);
  tile("tile-reads", rate(present(update, "reads")), "/s");
  tile("tile-writes", rate(present(update, "writes")), "/s");
  tile("tile-read-p99", ...split(seconds(present(update, "read_p99"))));
  tile("tile-write-p99", ...split(seconds(present(update, "write_p99"))));
  tile("tile-timestamps", rate(present(update, "timestamps")), "/s");
  tile("tile-bound", ...split(seconds(timestamps.to_bound_ms / 1000)));
  const ahead = timestamps.ahead_of_clock_ms;
  const apart = Math.abs(ahead) < 50 ? "in step" : `${ahead > 0 ? "+" : "−"}${seconds(Math.abs(ahead) / 1000)}`;
  tile("tile-clock", apart);
  showStores(stores, update.now_ms);
  showRegions(update.regions, stores);
}

function showStore(update) {
  const name = update.store_id === null ? "store without an id" : `store ${update.store_id}`;
  document.body.dataset.who = `FlareDB ${name}`;
  setText(byId("title"), name);
  setText(byId("who"), update.advertised_addr);
  showFindings(update.findings, update.not_serving);
  const { regions, since_start: since, space, write_queue: queue } = update;
  tile("tile-reads", rate(present(update, "reads")), "/s");
  tile("tile-writes", rate(present(update, "writes")), "/s");
  tile("tile-read-p99", ...split(seconds(present(update, "read_p99"))));
  tile("tile-write-p99", ...split(seconds(present(update, "write_p99"))));
  tile("tile-queue", ...split(size(queue.bytes)));
  tile("tile-leads", count(regions.led), `of ${count(regions.held)}`);
  tile("tile-free", ...split(size(space.available_bytes)));
  tile("tile-slow", count(since.slow));
  const facts = [
    ["Reads since start", count(since.reads)],
    ["Writes since start", count(since.writes)],
    ["Regions without a leader", count(regions.without_leader)],
    ["Table files", size(space.data_bytes)],
    ["Raft log", size(space.raft_log_bytes)],
    ["Memtables", size(space.memtable_bytes)],
    ["Block cache", size(space.block_cache_bytes)],
    ["Disk", size(space.capacity_bytes)],
    ["Limit of the write queue", size(queue.bytes_max)],
    ["Durability", update.durability],
    ["Cluster", update.cluster_id ?? "none yet"],
    ["Listens on", update.addr],
    ["Advertises", update.advertised_addr],
    ["Takes calls", update.not_ready === null ? "yes" : `no: ${update.not_ready}`],
  ];
  const list = byId("facts");
  facts.forEach(([label, text], index) => {
    let item = list.children[index];
    if (!item) {
      item = make("div");
      item.append(make("dt", "", label), make("dd"));
      list.append(item);
    }
    setText(item.lastChild, text);
  });
}

// A number and its unit.
function split(text) {
  const [number, unit] = text.split(" ");
  return [number, unit ?? ""];
}

function show(update) {
  const isOther = asked.start !== update.start;
  rows.take(update.history, asked.since === null || isOther);
  asked.start = update.start;
  asked.since = update.history.next;
  if (subject === "cluster") showCluster(update);
  else showStore(update);
  for (const chart of charts) chart.show(rows, update.history.now, update.now_ms);
  setText(byId("process"), `${update.program} ${update.version}, up for ${span(update.uptime_s)}`);
  document.body.dataset.updates = Number(document.body.dataset.updates ?? 0) + 1;
}

function heard() {
  heardAt = Date.now();
  if (isLost) {
    isLost = false;
    byId("lost").hidden = true;
    byId("lost").textContent = "";
    document.body.classList.remove("is-lost");
  }
  const fresh = byId("fresh");
  setText(fresh, `live · ${clock(heardAt)}`);
}

function lose() {
  const since = clock(heardAt);
  // Said once: a text that changes each second would be read out each second.
  if (!isLost) byId("lost").textContent = `The server does not answer since ${since}. What is shown below is of then; this page goes on trying.`;
  isLost = true;
  byId("lost").hidden = false;
  document.body.classList.add("is-lost");
  verdict("unknown", "Server lost");
  setText(byId("fresh"), `${span((Date.now() - heardAt) / 1000)} old`);
}

async function ask() {
  const query = new URLSearchParams();
  if (asked.since !== null) query.set("since", asked.since);
  if (asked.storesFrom > 0) query.set("stores_from", asked.storesFrom);
  const answer = await fetch(`/page.json?${query}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function look() {
  const update = await ask();
  if (asked.version !== null && asked.version !== update.version) {
    // Another release may have another page.
    location.reload();
    return false;
  }
  asked.version = update.version;
  if (asked.start !== null && asked.start !== update.start && asked.since !== null) {
    // Another process has another history.
    asked.since = null;
    return true;
  }
  heard();
  show(update);
  return update.history.more;
}

const pause = (ms) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  wake = () => { clearTimeout(timer); resolve(); };
});

async function run() {
  for (;;) {
    let isMore = false;
    try {
      isMore = await look();
    } catch {
      lose();
    }
    if (!isMore) await pause(INTERVAL_MS);
    // Nobody looks at a page that is hidden.
    while (document.hidden) await pause(60_000);
  }
}

document.addEventListener("visibilitychange", () => wake());
if (subject === "cluster") {
  listenToRegions();
  listenToTurning();
}
run();
