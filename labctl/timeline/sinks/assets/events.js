// The events of the timeline, out of their columns (labctl/timeline/sinks/page_data.py), and their text.

const ROW = 22, TOP = 3, LEFT = 96, RIGHT = 18, GAP = 11, NARROWEST = 78; // pixels; NARROWEST: between two hosts
const AHEAD = 32; // rows drawn beyond the visible ones; an arrow spans at most as many
const BLOCK = 128; // rows for which the calls in progress at the first are stored
const CHUNK_BYTES = 1 << 18; // of the stream of bytes in each element
const PREVIEW_BYTES = 24; // of a packet's payload
const HEAD = 14; // pixels of a line of names
const LONG_SILENCE_NS = 250e6;
const PRINTED_ROWS = 6; // of a drawing that no page break divides
const PRINTED_WIDTH = 700, WIDEST_PRINT = 1050; // pixels of the drawing on the width of the paper
const MICROSECOND = 1e3, MILLISECOND = 1e6, SECOND = 1e9;

const byId = (id) => document.getElementById(id);
const ladder = byId("ladder"), canvas = byId("rows"), heads = byId("heads"), spacer = byId("spacer");
const details = byId("details"), search = byId("search"), found = byId("found"), status = byId("status");

const NAMES = {
  S: "Step", C: "Call", P: "Packet", T: "State", R: "Retransmit", X: "Reset", D: "Drop", Q: "SocketSample",
  N: "Counter", O: "Output", M: "Mark",
};
const GROUPS = { S: "steps", C: "calls", P: "packets", T: "kernel", R: "kernel", X: "kernel", D: "kernel",
  N: "kernel", Q: "queues", O: "output", M: "steps" };

function base64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}
function unpacked(element) {
  const stream = new Blob([base64(element.textContent)]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("gzip")));
}

const data = await unpacked(byId("columns")).json();
const count = data.kinds.length, kinds = data.kinds, hosts = data.hosts;
const at = new Float64Array(count), rowInTable = new Int32Array(count);
{
  const used = {};
  let now = 0;
  for (let index = 0; index < count; index++) {
    now += data.at[index];
    at[index] = now;
    rowInTable[index] = used[kinds[index]] = (used[kinds[index]] ?? -1) + 1;
  }
}

// The value of a field as it stands in its column, and for people.
function raw(index, name) {
  const column = data.tables[NAMES[kinds[index]]].columns[name];
  if (column === undefined) return null;
  return Array.isArray(column[1]) ? column[1][rowInTable[index]] : column[1];
}
function text(index, name) {
  const number = raw(index, name);
  return number === null ? "" : data.texts[number];
}
const flowText = (index, name) => { const number = raw(index, name); return number === null ? "" : data.flows[number]; };
function moment(index, name) {
  const after = raw(index, name);
  return after === null ? null : at[index] + after;
}
const connectionOf = (index) => raw(index, "connection");
const hostColumn = new Map(hosts.map((name, column) => [name, column]));
const columnOf = (name) => hostColumn.get(name) ?? -1;

// A packet that crosses several wires is one arrow, from its first to its last host that has a column.
const journeys = new Map(), joined = new Uint8Array(count), lastHop = new Map();
for (let index = 0; index < count; index++) {
  if (kinds[index] !== "P") continue;
  const journey = raw(index, "journey"), known = journeys.get(journey);
  if (known === undefined) journeys.set(journey, [index]);
  else known.push(index);
}
for (const hops of journeys.values()) {
  for (let number = 1; number < hops.length; number++) {
    const before = hops[number - 1], here = hops[number];
    if (columnOf(text(before, "receiver")) < 0 && columnOf(text(here, "host")) < 0) {
      joined[here] = 1;
      let first = before;
      while (joined[first]) first = hops[hops.indexOf(first) - 1];
      lastHop.set(first, here);
    }
  }
}

// Where packets were dropped on arrival, by journey; not those that a program takes before the kernel drops them.
const drops = new Map(), isUpkeep = new Set(data.upkeep);
for (let index = 0; index < count; index++)
  if (kinds[index] === "D" && !isUpkeep.has(index) && raw(index, "packet") !== null) drops.set(raw(index, "packet"), text(index, "host"));
const isDropped = (index) => drops.get(raw(index, "journey")) === text(index, "receiver");

// A sample in which no queue has changed only serves the plots.
const unchanged = new Uint8Array(count);
{
  const last = new Map();
  for (let index = 0; index < count; index++) {
    if (kinds[index] !== "Q") continue;
    const key = raw(index, "socket");
    const now = `${raw(index, "receive_queue")} ${raw(index, "send_queue")} ${raw(index, "half_open")}`;
    const isIdle = raw(index, "receive_queue") === 0 && (raw(index, "send_queue") === 0 || text(index, "state") === "LISTEN");
    unchanged[index] = (last.get(key) ?? (isIdle ? now : "")) === now ? 1 : 0;
    last.set(key, now);
  }
}

const groups = Array.from(kinds, (kind) => GROUPS[kind]);
for (const index of data.upkeep) groups[index] = "upkeep";

// ---- Text of events

const milliseconds = (ns) => (ns / MILLISECOND).toFixed(3);
function duration(ns) {
  if (ns >= SECOND) return `${(ns / SECOND).toFixed(ns >= 10 * SECOND ? 1 : 2)} s`;
  if (ns >= MILLISECOND) return `${(ns / MILLISECOND).toFixed(ns >= 100 * MILLISECOND ? 0 : 1)} ms`;
  return `${(ns / MICROSECOND).toFixed(ns >= 10 * MICROSECOND ? 0 : 1)} us`;
}
const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
function quantity(value, unit) {
  if (unit === "us") return duration(value * 1000);
  const [size, prefix] = value >= 1e9 ? [1e9, "G"] : value >= 1e6 ? [1e6, "M"] : value >= 1e4 ? [1e3, "k"] : [1, ""];
  const shown = (value / size).toFixed(size === 1 || value / size >= 100 ? 0 : 1);
  return `${shown} ${prefix}${unit}`;
}

const programs = new Map(); // of each host: how many have calls
for (let index = 0; index < count; index++) {
  if (kinds[index] !== "C") continue;
  const host = raw(index, "host");
  if (!programs.has(host)) programs.set(host, new Set());
  programs.get(host).add(`${raw(index, "program")} ${raw(index, "pid")}`);
}

// {text, result, style} of a row. `part`: 0 the whole event, 1 its beginning, 2 its end.
function label(index, part) {
  switch (kinds[index]) {
    case "S": {
      const ended = raw(index, "until_ns"), outcome = text(index, "outcome");
      const result = outcome ? outcome + (ended === null ? "" : ` ${duration(ended)}`) : "not finished";
      const host = text(index, "host"), title = text(index, "title");
      const named = host && !title.endsWith(` on ${host}`) ? `${host}  ${title}` : title;
      return { text: `${text(index, "index")}  ${named}`, result, style: `step ${outcome}` };
    }
    case "C": return callLabel(index, part);
    case "P": return packetLabel(index);
    case "T": return { text: `${text(index, "old") || "?"} \u2192 ${text(index, "new")}`, result: "", style: "state" };
    case "R": return { text: "kernel retransmits", result: text(index, "state"), style: "odd" };
    case "X": return { text: raw(index, "is_sent") ? "kernel sends RST" : "RST received", result: text(index, "reason"), style: "bad" };
    case "D": {
      const where = [text(index, "hook"), text(index, "interface")].filter(Boolean).join(" ");
      const inferred = raw(index, "is_inferred") ? " (inferred)" : "";
      return { text: `\u2715 dropped: ${text(index, "reason")}${inferred}${where ? ` at ${where}` : ""}`, result: text(index, "header"), style: "bad" };
    }
    case "Q": return queueLabel(index);
    case "N": return { text: `${text(index, "name")} +${raw(index, "delta")}`, result: "", style: "queue" };
    case "O": {
      const [line, ...more] = text(index, "preview").split("\n");
      const program = text(index, "program");
      return { text: `${program ? `${program} ` : ""}${text(index, "stream")} \u2502 ${line}${more.length ? " \u2026" : ""}`, result: "", style: "output" };
    }
    default: return { text: text(index, "text"), result: "", style: raw(index, "fault") ? "mark odd" : "mark" };
  }
}
function callLabel(index, part) {
  const host = raw(index, "host"), several = programs.get(host).size > 1;
  const name = (several ? `${text(index, "program")}: ` : "") + text(index, "name");
  const errno = text(index, "errno"), ended = raw(index, "until_ns"), repeated = raw(index, "repeated");
  const result = raw(index, "result");
  let returned = errno.startsWith("ERESTART") ? "\u2192 interrupted by a signal" : result === null ? "has not returned" : `\u2192 ${errno && result === -1 ? "" : result}${errno ? ` ${errno}` : ""}`.replace("  ", " ");
  const value = text(index, "value");
  if (value && !text(index, "arguments").includes(value.split(" ")[0].replace(/,$/, ""))) returned += `  ${value}`;
  if (repeated > 1) returned += `  (\u00d7${repeated})`;
  if (ended >= MILLISECOND) returned += `  [${duration(ended)}]`;
  const style = errno || result === null ? "call odd" : "call";
  if (part === 1) {
    const [first] = text(index, "arguments").split(",", 1);
    const fillsIn = /^(accept4?|recv(from|msg)?|read|poll|select|epoll_wait)$/.test(text(index, "name"));
    return { text: `${name}(${fillsIn ? `${first}, \u2026` : text(index, "arguments")})`, result: ended === null ? returned : "\u2026", style };
  }
  if (part === 2) return { text: `\u2026 ${name}`, result: returned, style };
  return { text: `${name}(${text(index, "arguments")})`, result: returned, style };
}
function packetLabel(index) {
  const protocol = text(index, "header.protocol"), flags = text(index, "header.flags");
  const bytes = raw(index, "header.payload_bytes"), payload = text(index, "preview"), about = text(index, "about");
  const port = raw(index, "port"), parts = port ? [`:${port}`] : [];
  if (protocol === "tcp") {
    parts.push(flags.replaceAll(" ", "\u00b7"));
    if (bytes || /SYN|FIN/.test(flags)) parts.push(`seq ${raw(index, "relative_seq") ?? raw(index, "header.seq")}`);
    if (flags.includes("ACK")) parts.push(`ack ${raw(index, "relative_ack") ?? raw(index, "header.ack")}`);
    if (about) parts.push(about);
  } else parts.push(about);
  if (bytes) {
    const size = raw(index, "segment_bytes");
    parts.push(size ? `${plural(bytes, "byte")} as ${Math.ceil(bytes / size)} \u00d7 ${size}` : plural(bytes, "byte"));
  }
  if (payload) parts.push(`"${payload.replaceAll("\\x0d", "\\r").replaceAll("\n", "\\n")}${bytes > PREVIEW_BYTES ? "\u2026" : ""}"`);
  const again = raw(index, "is_retransmission"), last = lastHop.get(index) ?? index;
  const lost = !text(last, "receiver");
  if (again) parts.push("retransmission");
  if (lost) parts.push("not seen to arrive");
  const style = flags.includes("RST") || lost || isDropped(last) ? "packet bad" : again ? "packet odd" : "packet";
  return { text: parts.join("  "), result: "", style };
}
function queueLabel(index) {
  const receive = raw(index, "receive_queue"), send = raw(index, "send_queue"), half = raw(index, "half_open");
  const own = data.sockets[raw(index, "socket")].flow?.split(" ")[1] ?? "", port = own.slice(own.lastIndexOf(":"));
  if (text(index, "state") === "LISTEN") {
    const more = half ? `, ${half} half-open` : "", style = receive > send ? "queue bad" : "queue";
    return { text: `${port} accept queue ${receive} of ${send}${more}`, result: "", style };
  }
  const timer = text(index, "timer");
  const shown = `${port} receive queue ${receive}, send queue ${send}${timer ? `, ${timer}` : ""}`;
  return { text: shown, result: text(index, "state"), style: "queue" };
}
function hostText(index) {
  const host = text(index, "host");
  if (kinds[index] !== "P") return host;
  const last = lastHop.get(index) ?? index;
  return `${host || "?"} to ${text(last, "receiver") || "?"}`;
}
function sentence(index, part) {
  const shown = label(index, part), host = kinds[index] === "S" ? "step" : hostText(index);
  return [`${milliseconds(part === END ? moment(index, "until_ns") : at[index])} ms`, host, shown.text, shown.result].filter(Boolean).join(", ");
}
