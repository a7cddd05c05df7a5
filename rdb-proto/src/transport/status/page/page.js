// Asks the server every second and shows what it answers. Whatever comes from it is set as text.

import { Chart, Rows, make, setText } from "/charts.js";
import { NONE, about, clock, count, micros, plural, rate, roughly, seconds, size, span } from "/format.js";

const INTERVAL_MS = 1000;
// A page that is hidden has the alarm in its title.
const HIDDEN_INTERVAL_MS = 30_000;
const PATIENCE_MS = 4000;
// What is older than this is not called live.
const FRESH_MS = 5000;
const LEAD_COLORS = 8;

const subject = document.body.dataset.subject;
const rows = new Rows();
// What the server is asked for, and what is known of it.
const asked = { since: null, start: null, version: null };
// The list of stores: where the part begins that is wanted and the one that is shown, and where those before it began.
const part = { wanted: 0, shown: 0, rows: 0, begins: [] };
// When the last answer was shown: by the wall clock, and by one that does not jump.
let heardAt = Date.now();
let heardAtMs = performance.now();
let isLost = false;
// When the server began to read figures, by the wall clock.
let beganAt = heardAt;
// Something has happened since the server was last asked, and it is to be asked at once.
let isWoken = false;
let endPause = () => {};

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

function showStores(stores, nowMs, askedFrom) {
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
    const used = store.capacity_bytes ? Math.max(0, 1 - store.available_bytes / store.capacity_bytes) : null;
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
  [part.shown, part.rows] = [stores.from, shown];
  // There are no more so many stores.
  if (part.wanted === askedFrom && stores.from !== askedFrom) [part.wanted, part.begins] = [stores.from, []];
  byId("stores-turn").hidden = shown === stores.count;
  setText(byId("stores-part"), `${count(stores.from + 1)} to ${count(stores.from + shown)} of ${count(stores.count)}`);
  byId("stores-before").disabled = stores.from === 0;
  byId("stores-after").disabled = stores.from + shown >= stores.count;
}

// Each of a few stores has a colour of its own.
function leadColor(id, stores) {
  const place = stores.columns.indexOf("id");
  const rank = stores.rows.findIndex((values) => values[place] === id);
  return `lead-${(stores.count <= LEAD_COLORS && rank >= 0 ? rank : id) % LEAD_COLORS}`;
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
    const color = leader ? leadColor(leader, stores) : "lead-none";
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
    item.firstChild.className = leadColor(values[id], stores);
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
  const turn = (to) => {
    // While one part is fetched there is nothing to turn from.
    if (part.wanted !== part.shown) return;
    part.wanted = to();
    wake();
  };
  byId("stores-before").addEventListener("click", () => turn(() => part.begins.pop() ?? 0));
  byId("stores-after").addEventListener("click", () => turn(() => {
    part.begins.push(part.shown);
    return part.shown + part.rows;
  }));
}

function present(update, column) {
  return update.history.now[update.history.columns.indexOf(column)] ?? null;
}

function showCluster(update, askedFrom) {
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
  showStores(stores, update.now_ms, askedFrom);
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

// A restart begins anew, and that is told while it shows.
function showSpan(history) {
  const isShort = history.at_ms < history.step_ms * history.rows_max;
  setText(byId("charts-title"), isShort ? `Since the start at ${clock(beganAt)}` : "Last 15 minutes");
}

function show(update, askedFrom) {
  const isOther = asked.start !== update.start;
  rows.take(update.history, asked.since === null || isOther);
  if (isOther) beganAt = update.now_ms - update.history.at_ms;
  asked.start = update.start;
  asked.since = update.history.next;
  if (subject === "cluster") showCluster(update, askedFrom);
  else showStore(update);
  showSpan(update.history);
  for (const chart of charts) chart.show(rows, update.history.now, update.now_ms);
  setText(byId("process"), `${update.program} ${update.version}, up for ${span(update.uptime_s)}`);
  document.body.dataset.updates = Number(document.body.dataset.updates ?? 0) + 1;
}

function heard() {
  [heardAt, heardAtMs] = [Date.now(), performance.now()];
  if (isLost) {
    isLost = false;
    byId("lost").hidden = true;
    byId("lost").textContent = "";
    document.body.classList.remove("is-lost");
  }
}

function tellAge() {
  const ageMs = performance.now() - heardAtMs;
  setText(byId("fresh"), isLost || ageMs > FRESH_MS ? `${span(ageMs / 1000)} old` : `live · ${clock(heardAt)}`);
}

function lose() {
  const since = clock(heardAt);
  // Said once: a text that changes each second would be read out each second.
  if (!isLost) byId("lost").textContent = `The server does not answer since ${since}. What is shown below is of then; this page goes on trying.`;
  isLost = true;
  byId("lost").hidden = false;
  document.body.classList.add("is-lost");
  verdict("unknown", "Server lost");
}

async function ask(storesFrom) {
  const query = new URLSearchParams();
  if (asked.since !== null) query.set("since", asked.since);
  if (storesFrom > 0) query.set("stores_from", storesFrom);
  const answer = await fetch(`/page.json?${query}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

// Asks, and shows the answer. Returns whether there is more to ask for at once.
async function look() {
  const askedFrom = part.wanted;
  let update;
  try {
    update = await ask(askedFrom);
  } catch {
    lose();
    return false;
  }
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
  show(update, askedFrom);
  heard();
  return update.history.more;
}

function wake() {
  isWoken = true;
  endPause();
}

const pause = (ms) => new Promise((resolve) => {
  if (isWoken) return resolve();
  const timer = setTimeout(resolve, ms);
  endPause = () => { clearTimeout(timer); resolve(); };
});

async function run() {
  for (;;) {
    let isMore = false;
    isWoken = false;
    try {
      isMore = await look();
    } catch (error) {
      // The server is there; what it said cannot be shown.
      console.error(error);
    }
    tellAge();
    if (!isMore) await pause(document.hidden ? HIDDEN_INTERVAL_MS : INTERVAL_MS);
  }
}

document.addEventListener("visibilitychange", () => {
  tellAge();
  wake();
});
if (subject === "cluster") {
  listenToRegions();
  listenToTurning();
}
run();
