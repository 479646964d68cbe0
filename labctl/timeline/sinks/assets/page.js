"use strict";
// The page of a timeline: reads the columns (labctl/timeline/sinks/page_data.py), draws the ladder and the plots, and
// shows the details of an event. All text reaches the page as text nodes or attributes, never as markup.
(async () => {
  const ROW = 22, TOP = 3, LEFT = 96, RIGHT = 18, GAP = 11; // pixels
  const AHEAD = 32; // rows drawn beyond the visible ones; an arrow spans at most as many
  const BLOCK = 128; // rows for which the calls in progress at the first are stored
  const CHUNK_BYTES = 1 << 18; // of the stream of bytes in each element
  const LONG_SILENCE_NS = 250e6;
  const PRINTED_ROWS = 12; // of a drawing that no page break divides
  const MICROSECOND = 1e3, MILLISECOND = 1e6, SECOND = 1e9;

  const byId = (id) => document.getElementById(id);
  const ladder = byId("ladder"), canvas = byId("rows"), heads = byId("heads"), spacer = byId("spacer");
  const details = byId("details"), search = byId("search"), found = byId("found"), status = byId("status");

  // ---- Data

  const NAMES = {
    S: "Step", C: "Call", P: "Packet", T: "State", R: "Retransmit", X: "Reset", D: "Drop", Q: "SocketSample",
    N: "Counter", O: "Output", M: "Mark",
  };
  const GROUPS = { S: "steps", C: "calls", P: "packets", T: "kernel", R: "kernel", X: "kernel", D: "kernel",
    N: "kernel", Q: "queues", O: "output", M: "steps" };
  const UPKEEP = /who has|is at|neighbo|router|multicast listener|membership|mld|igmp/i; // in the summary of a packet

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

  const groups = Array.from(kinds, (kind, index) => kind === "P" && UPKEEP.test(text(index, "header.summary")) ? "upkeep" : GROUPS[kind]);

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
      default: return { text: text(index, "text"), result: "", style: "mark" };
    }
  }
  function callLabel(index, part) {
    const host = raw(index, "host"), several = programs.get(host).size > 1;
    const name = (several ? `${text(index, "program")}: ` : "") + text(index, "name");
    const errno = text(index, "errno"), ended = raw(index, "until_ns"), repeated = raw(index, "repeated");
    const result = raw(index, "result");
    let returned = result === null ? "has not returned" : `\u2192 ${errno && result === -1 ? "" : result}${errno ? ` ${errno}` : ""}`.replace("  ", " ");
    const value = text(index, "value");
    if (value && !text(index, "arguments").includes(value.split(" ")[0].replace(/,$/, ""))) returned += `  ${value}`;
    if (repeated > 1) returned += `  (\u00d7${repeated})`;
    if (ended >= MILLISECOND) returned += `  [${duration(ended)}]`;
    const style = errno || result === null ? "call odd" : "call";
    if (part === 1) {
      const [first] = text(index, "arguments").split(",", 1);
      const fillsIn = /^(accept4?|recv(from|msg)?|read|poll|select|epoll_wait)$/.test(text(index, "name"));
      return { text: `${name}(${fillsIn ? `${first}, \u2026` : text(index, "arguments")})`, result: result === null ? returned : "\u2026", style };
    }
    if (part === 2) return { text: `\u2026 ${name}`, result: returned, style };
    return { text: `${name}(${text(index, "arguments")})`, result: returned, style };
  }
  function packetLabel(index) {
    const protocol = text(index, "header.protocol"), flags = text(index, "header.flags");
    const bytes = raw(index, "header.payload_bytes"), payload = text(index, "preview").replace(/\n/g, "\\n");
    const parts = [];
    if (protocol === "tcp") {
      parts.push(flags.replaceAll(" ", "\u00b7"));
      if (bytes || /SYN|FIN/.test(flags)) parts.push(`seq ${raw(index, "relative_seq") ?? raw(index, "header.seq")}`);
      if (flags.includes("ACK")) parts.push(`ack ${raw(index, "relative_ack") ?? raw(index, "header.ack")}`);
    } else parts.push(text(index, "header.summary") ? `${protocol} ${text(index, "header.summary")}` : protocol);
    if (bytes) {
      const size = raw(index, "segment_bytes");
      parts.push(size ? `${plural(bytes, "byte")} as ${Math.ceil(bytes / size)} \u00d7 ${size}` : plural(bytes, "byte"));
    }
    if (payload) parts.push(`"${payload}${bytes > payload.length ? "\u2026" : ""}"`);
    const again = raw(index, "is_retransmission"), last = lastHop.get(index) ?? index;
    const lost = !text(last, "receiver");
    if (again) parts.push("retransmission");
    if (lost) parts.push("not seen to arrive");
    const style = flags.includes("RST") || lost ? "packet bad" : again ? "packet odd" : "packet";
    return { text: parts.join("  "), result: "", style };
  }
  function queueLabel(index) {
    const receive = raw(index, "receive_queue"), send = raw(index, "send_queue"), half = raw(index, "half_open");
    if (text(index, "state") === "LISTEN")
      return { text: `accept queue ${receive} of ${send}${half ? `, ${half} half-open` : ""}`, result: "", style: receive > send ? "queue bad" : "queue" };
    const timer = text(index, "timer");
    return { text: `receive queue ${receive}, send queue ${send}${timer ? `, ${timer}` : ""}`, result: text(index, "state"), style: "queue" };
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

  // ---- Rows: what the filters leave, in the order of time

  const BEGIN = 1, END = 2, SILENCE = 3;
  // All entries: each event, and the returns of calls.
  const returns = [];
  for (let index = 0; index < count; index++)
    if (kinds[index] === "C" && raw(index, "until_ns") !== null) returns.push(index);
  const returned = Float64Array.from(returns, (index) => at[index] + raw(index, "until_ns"));
  const returnOrder = Uint32Array.from(returns, (_, number) => number).sort((a, b) => returned[a] - returned[b] || a - b);

  // Room for all entries and a silence before each, of which `rows` are the used part.
  const room = 2 * (count + returns.length);
  const buffer = { event: new Int32Array(room), part: new Uint8Array(room), time: new Float64Array(room) };
  let rows = { event: new Int32Array(0), part: new Uint8Array(0), time: new Float64Array(0) };
  let firstRow = new Int32Array(count), lastRow = new Int32Array(count);
  let spans = [], openAt = [];
  const shown = { steps: true, calls: true, packets: true, kernel: true, queues: true, output: true, upkeep: false };
  const range = { from: Math.min(0, count ? at[0] : 0), until: Math.max(data.ended, count ? at[count - 1] : 0, 1) };
  const whole = { ...range };
  let selected = -1, followed = null, onlyConnection = false, onlyFound = false;
  const hits = new Uint8Array(count);

  function isShown(index) {
    if (joined[index] || unchanged[index] || !shown[groups[index]]) return false;
    if (onlyFound && search.value && !hits[index]) return false;
    return !(onlyConnection && followed !== null && connectionOf(index) !== followed && kinds[index] !== "S");
  }
  function buildRows() {
    const { event, part, time } = buffer, kept = new Uint8Array(count);
    for (let index = 0; index < count; index++) kept[index] = isShown(index) ? 1 : 0;
    firstRow.fill(-1);
    lastRow.fill(-1);
    let previous = null, length = 0;
    const put = (index, which, when) => { event[length] = index; part[length] = which; time[length++] = when; };
    const add = (index, which, when) => {
      if (when < range.from || when > range.until) return;
      if (previous !== null && when - previous >= LONG_SILENCE_NS) put(-1, SILENCE, when - previous);
      previous = when;
      const last = length - 1;
      if (which === END && last >= 0 && event[last] === index && part[last] === BEGIN) { part[last] = 0; return; }
      if (firstRow[index] < 0) firstRow[index] = length;
      lastRow[index] = length;
      put(index, which, when);
    };
    let next = 0;
    for (let index = 0; index <= count; index++) {
      const now = index < count ? at[index] : Infinity;
      while (next < returnOrder.length) {
        const number = returnOrder[next];
        if (returned[number] > now || returns[number] >= index) break;
        if (kept[returns[number]]) add(returns[number], END, returned[number]);
        next++;
      }
      if (index < count && kept[index]) add(index, kinds[index] === "C" ? BEGIN : 0, now);
    }
    rows = { event: event.subarray(0, length), part: part.subarray(0, length), time: time.subarray(0, length) };
    buildSpans();
  }
  // The bars of calls during which something else happened; lanes keep those of a host apart.
  function buildSpans() {
    spans = [];
    const lanes = hosts.map(() => []);
    for (let row = 0; row < rows.event.length; row++) {
      const index = rows.event[row];
      if (rows.part[row] !== BEGIN) continue;
      const column = columnOf(text(index, "host"));
      if (column < 0) continue;
      const end = raw(index, "until_ns") === null ? rows.event.length - 1 : lastRow[index];
      if (end === row) continue;
      const busy = lanes[column];
      let lane = busy.findIndex((until) => until <= row);
      if (lane < 0) lane = busy.length;
      busy[lane] = end;
      spans.push({ index, row, end, column, lane: lane % 4 });
    }
    openAt = Array.from({ length: Math.ceil(rows.event.length / BLOCK) + 1 }, () => []);
    spans.forEach((span, number) => {
      for (let block = Math.ceil(span.row / BLOCK); block * BLOCK <= span.end; block++) openAt[block].push(number);
    });
  }
  function rowAt(when, from = 0) { // the last row that is not later
    let low = from, high = rows.event.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const silent = rows.part[middle] === SILENCE ? middle + 1 : middle;
      if (rows.time[Math.min(silent, rows.event.length - 1)] <= when) low = middle; else high = middle - 1;
    }
    return Math.max(low, 0);
  }

  // ---- Drawing

  const SVG = "http://www.w3.org/2000/svg";
  function svg(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    element.append(...children);
    return element;
  }
  function html(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    element.append(...children);
    return element;
  }
  let width = 0, letter = 7.2;
  const x = (column) => hosts.length < 2 ? LEFT : LEFT + (column * (width - LEFT - RIGHT)) / (hosts.length - 1);
  const growsRight = (column) => column * 2 < hosts.length || hosts.length === 1;

  function fitted(shownText, result, room) {
    const letters = Math.max(Math.floor(room / letter), 4);
    const all = shownText.length + (result ? result.length + 1 : 0);
    if (all <= letters) return [shownText, result];
    if (result.length + 8 < letters) return [`${shownText.slice(0, letters - result.length - 2)}\u2026`, result];
    return [`${shownText.slice(0, Math.ceil(letters / 3))}\u2026`, `${result.slice(0, letters - Math.ceil(letters / 3) - 3)}\u2026`];
  }
  function labelled(place, anchor, room, shownLabel) {
    const [first, result] = fitted(shownLabel.text, shownLabel.result, room);
    const node = svg("text", { x: place, y: 15, "text-anchor": anchor, class: shownLabel.style }, first);
    if (result) node.append(svg("tspan", { class: "result" }, ` ${result}`));
    return node;
  }
  function arrow(row, index) {
    const last = lastHop.get(index) ?? index, from = columnOf(text(index, "host")), to = columnOf(text(last, "receiver"));
    const shownLabel = label(index, 0), group = svg("g", { class: shownLabel.style });
    const lost = !text(last, "receiver");
    if (from === to || (from < 0 && to < 0)) { // on a loopback interface
      const column = Math.max(from, 0), side = growsRight(column) ? 1 : -1, here = x(column);
      const loop = `M${here} 7 h${side * 12} q${side * 6} 0 ${side * 6} 4 t${side * -6} 4 h${side * -9}`;
      group.append(svg("path", { class: "wire", d: loop, "marker-end": `url(#tip${style(shownLabel.style)})` }));
      group.append(labelled(here + side * 28, side > 0 ? "start" : "end", width - LEFT, shownLabel));
      return group;
    }
    const arrives = moment(last, "arrived_ns");
    let down = arrives === null ? 0 : rowAt(arrives, row) - row;
    if (down >= AHEAD) down = 0;
    const begin = from < 0 ? (x(to) + x(to > 0 ? to - 1 : 1)) / 2 : x(from);
    let end = to < 0 ? (x(from) + x(from > 0 ? from - 1 : 1)) / 2 : x(to);
    if (lost) end = begin + (end - begin) * 0.8;
    const side = end > begin ? 1 : -1, top = 7, bottom = down * ROW + 15;
    const x1 = begin + side * 3, x2 = end - side * 3;
    const kind = style(shownLabel.style);
    group.append(svg("line", { class: "wire", x1, y1: top, x2, y2: bottom, "marker-end": lost ? "url(#cross)" : `url(#tip${kind})` }));
    const middle = (begin + end) / 2, slope = (bottom - top) / (x2 - x1);
    const low = Math.min(begin, end), high = Math.max(begin, end), long = Math.min(shownLabel.text.length * letter, width - LEFT - 60);
    const [shownText] = fitted(shownLabel.text, "", long + 1), half = long / 2;
    // Within the arrow; beside it if there is no room.
    const isWide = long + 36 > high - low, fitsRight = high + long + 20 < width;
    const centre = lost ? end + side * (12 + half) : isWide ? (fitsRight ? high + 10 + half : Math.max(low - 10 - half, LEFT + half))
      : down ? begin + side * (22 + half) : middle;
    const y = down || lost || isWide ? 15 : top + slope * (middle - x1) + 4;
    group.append(svg("rect", { class: "under", x: centre - long / 2 - 4, y: y - 11, width: long + 8, height: 14 }),
      svg("text", { x: centre, y, "text-anchor": "middle" }, shownText));
    return group;
  }
  const style = (names) => names.includes("bad") ? "-bad" : names.includes("odd") ? "-odd" : "";

  function drawRow(row, y) {
    const index = rows.event[row], part = rows.part[row];
    const group = svg("g", { transform: `translate(0 ${y})`, class: "row" });
    if (part === SILENCE) {
      group.append(svg("line", { class: "silence", x1: 0, x2: width, y1: ROW / 2, y2: ROW / 2 }),
        svg("text", { class: "silence", x: width / 2, y: 15, "text-anchor": "middle" }, `${duration(rows.time[row])} of silence`));
      group.setAttribute("aria-label", `${duration(rows.time[row])} of silence`);
      group.setAttribute("role", "option");
      return group;
    }
    group.id = `row-${row}`;
    group.setAttribute("role", "option");
    group.setAttribute("aria-label", sentence(index, part));
    group.setAttribute("aria-posinset", row + 1);
    group.setAttribute("aria-setsize", rows.event.length);
    group.append(svg("rect", { class: "hover", x: 0, y: 0, width, height: ROW }));
    group.append(svg("text", { class: "time", x: LEFT - 24, y: 15, "text-anchor": "end" }, milliseconds(rows.time[row])));
    const column = columnOf(text(index, "host"));
    if (kinds[index] === "S") {
      const shownLabel = label(index, 0), right = width - RIGHT;
      group.append(svg("rect", { class: "heading", x: LEFT - 16, y: 2, width: width - LEFT + 16, height: ROW - 4, rx: 3 }));
      const [title] = fitted(shownLabel.text, "", right - LEFT - shownLabel.result.length * letter - 12);
      group.append(svg("text", { class: "step", x: LEFT - 8, y: 15 }, title),
        svg("text", { class: shownLabel.style, x: right, y: 15, "text-anchor": "end" }, shownLabel.result));
    } else if (kinds[index] === "P") group.append(arrow(row, index));
    else {
      const right = column < 0 || growsRight(column), here = column < 0 ? LEFT : x(column);
      const kind = kinds[index];
      if (column >= 0 && (kind === "T" || kind === "D" || kind === "X" || kind === "R"))
        group.append(svg("circle", { class: label(index, part).style, cx: here, cy: ROW / 2, r: 3.5 }));
      group.append(labelled(here + (right ? GAP : -GAP), right ? "start" : "end", right ? width - RIGHT - here : here - LEFT, label(index, part)));
    }
    mark(group, index);
    return group;
  }
  const markOf = (index) => index === selected ? "selected" : hits[index] ? "hit" : followed !== null && connectionOf(index) === followed ? "same" : "";
  function mark(group, index) {
    const marked = markOf(index);
    for (const name of ["selected", "hit", "same"]) group.classList.toggle(name, name === marked);
    group.classList.toggle("apart", followed !== null && marked !== "selected" && connectionOf(index) !== followed && kinds[index] !== "S");
    group.setAttribute("aria-selected", index === selected);
  }
  function background(first, last, y) {
    const group = svg("g", { class: "background", "aria-hidden": "true" });
    for (let row = first; row < last; row++) {
      const marked = rows.event[row] < 0 ? "" : markOf(rows.event[row]);
      if (marked) group.append(svg("rect", { class: `mark ${marked}`, x: 0, y: y + (row - first) * ROW, width, height: ROW }));
    }
    const bottom = y + (last - first) * ROW;
    hosts.forEach((_, column) => group.append(svg("line", { class: "life", x1: x(column), x2: x(column), y1: y, y2: bottom })));
    const block = Math.floor(first / BLOCK), seen = new Set(openAt[block]);
    spans.slice(spanFrom(block * BLOCK), spanFrom(last)).forEach((_, number) => seen.add(spanFrom(block * BLOCK) + number));
    for (const number of seen) {
      const span = spans[number];
      if (span.end < first || span.row >= last) continue;
      const top = span.row < first ? y : y + (span.row - first) * ROW + TOP;
      const end = Math.min(y + (span.end - first + 1) * ROW - TOP, bottom), side = growsRight(span.column) ? 1 : -1;
      group.append(svg("rect", { class: `bar ${raw(span.index, "until_ns") === null || text(span.index, "errno") ? "odd" : ""}`,
        x: x(span.column) - 3 + side * span.lane * 4, y: top, width: 6, height: Math.max(end - top, 2), rx: 3 }));
    }
    return group;
  }
  function spanFrom(row) { // the first span that begins at that row or later
    let low = 0, high = spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (spans[middle].row < row) low = middle + 1; else high = middle;
    }
    return low;
  }

  const drawn = new Map();
  let behind = null, queued = false;
  function draw() {
    queued = false;
    const all = rows.event.length, begin = Math.floor(ladder.scrollTop / ROW);
    const first = Math.max(begin - AHEAD, 0), last = Math.min(begin + Math.ceil(ladder.clientHeight / ROW) + AHEAD, all);
    const y0 = first * ROW;
    canvas.setAttribute("viewBox", `0 0 ${width} ${Math.max((last - first) * ROW, 1)}`);
    canvas.setAttribute("width", width);
    canvas.setAttribute("height", Math.max((last - first) * ROW, 1));
    canvas.style.top = `${y0}px`;
    for (const [row, group] of drawn) if (row < first || row >= last) { group.remove(); drawn.delete(row); }
    behind?.remove();
    behind = background(first, last, 0);
    canvas.prepend(behind);
    for (let row = first; row < last; row++) {
      const known = drawn.get(row);
      if (known) known.setAttribute("transform", `translate(0 ${row * ROW - y0})`);
      else {
        const group = drawRow(row, row * ROW - y0);
        drawn.set(row, group);
        canvas.append(group);
      }
    }
  }
  function redraw() { if (!queued) { queued = true; requestAnimationFrame(draw); } }
  function refresh() { // after a change of the rows or the width
    for (const group of drawn.values()) group.remove();
    drawn.clear();
    spacer.style.height = `${Math.max(rows.event.length, 3) * ROW}px`;
    spacer.style.width = `${width}px`;
    drawHeads(heads);
    draw();
    const left = rows.event.length ? "" : "nothing matches the filters";
    status.textContent = left || `${plural(rows.event.length, "row")}, ${milliseconds(range.from)} to ${milliseconds(range.until)} ms`;
  }
  function remark() {
    for (const [row, group] of drawn) if (rows.event[row] >= 0) mark(group, rows.event[row]);
    redraw();
  }
  function drawHeads(heads) {
    heads.setAttribute("viewBox", `0 0 ${width} 30`);
    heads.setAttribute("width", width);
    const names = hosts.map((name, column) => {
      const first = column === 0, last = column === hosts.length - 1 && !first;
      const place = first ? x(0) - 6 : last ? x(column) + 6 : x(column);
      return svg("text", { class: "host", x: place, y: 20, "text-anchor": first ? "start" : last ? "end" : "middle" }, name);
    });
    heads.replaceChildren(svg("text", { class: "time", x: LEFT - 24, y: 20, "text-anchor": "end" }, "ms"), ...names,
      ...hosts.map((_, column) => svg("line", { class: "life", x1: x(column), x2: x(column), y1: 25, y2: 30 })));
  }
  function measure() {
    const probe = svg("text", { class: "call" }, "0".repeat(50));
    canvas.append(probe);
    letter = probe.getComputedTextLength() / 50 || 7.2;
    probe.remove();
    width = Math.max(ladder.clientWidth, LEFT + RIGHT + (hosts.length - 1) * 170, 300);
  }
  function rebuild() {
    const kept = selected >= 0 ? selected : rows.event[Math.floor(ladder.scrollTop / ROW)] ?? -1;
    buildRows();
    refresh();
    if (kept >= 0 && firstRow[kept] >= 0) showRow(firstRow[kept]);
    setTimeout(drawPlots); // in a task of its own, for short frames
  }

  // ---- Selection and details

  function showRow(row) {
    const top = row * ROW, height = ladder.clientHeight - heads.getBoundingClientRect().height;
    if (top < ladder.scrollTop || top + 2 * ROW > ladder.scrollTop + height) ladder.scrollTop = Math.max(top - height / 3, 0);
    draw();
  }
  function select(index, row = firstRow[index]) {
    selected = index;
    followed = index < 0 || kinds[index] === "S" ? null : connectionOf(index);
    byId("follow").disabled = followed === null;
    if (index < 0 && onlyConnection) { onlyConnection = false; byId("follow").setAttribute("aria-pressed", "false"); rebuild(); }
    if (row >= 0) {
      showRow(row);
      ladder.setAttribute("aria-activedescendant", `row-${row}`);
    } else ladder.removeAttribute("aria-activedescendant");
    remark();
    showDetails(index);
    placeNow();
  }
  const currentRow = () => selected >= 0 && firstRow[selected] >= 0 ? firstRow[selected] : Math.floor(ladder.scrollTop / ROW) - 1;
  function step(by, accepts = () => true) { // the next row of an event in that direction
    const all = rows.event.length;
    if (!all) return;
    let row = Math.min(Math.max(currentRow(), by > 0 ? -1 : 0), all);
    if (by > 0 && selected >= 0 && rows.event[row] === selected) row += 0;
    for (let left = Math.abs(by), next = row + Math.sign(by); next >= 0 && next < all; next += Math.sign(by)) {
      const index = rows.event[next];
      if (index < 0 || index === selected || firstRow[index] !== next || !accepts(index)) continue;
      row = next;
      if (--left === 0) break;
    }
    const index = rows.event[Math.min(Math.max(row, 0), all - 1)];
    if (index >= 0) select(index);
  }
  const isProblem = (index) => /\b(bad|odd|failed|error)\b/.test(label(index, 0).style);

  const TITLES = { S: "Step", C: "Call", P: "Packet", T: "State of a socket", R: "Retransmission", X: "Reset", D: "Dropped packet",
    Q: "Queues of a socket", N: "Counter of the kernel", O: "Output", M: "Mark" };
  const help = [...details.childNodes];
  let detailed = -1;
  function showDetails(index) {
    if (index === detailed) return;
    detailed = index;
    if (index < 0) {
      details.replaceChildren(...help);
      return;
    }
    const list = html("dl", {});
    const put = (name, value) => { if (value !== "" && value !== null) list.append(html("dt", {}, name), html("dd", {}, value)); };
    put("at", `${milliseconds(at[index])} ms`);
    const hops = kinds[index] === "P" ? journeys.get(raw(index, "journey")) : [];
    for (const hop of hops) {
      const taken = raw(hop, "arrived_ns"), ends = [[text(hop, "host"), text(hop, "interface")], [text(hop, "receiver"), text(hop, "receiver_interface")]];
      const [from, to] = ends.map(([host, name]) => host ? `${host}:${name}` : "not seen");
      put(hops.length > 1 ? `wire ${hops.indexOf(hop) + 1}` : "wire", `${from} \u2192 ${to}${taken === null ? "" : `, ${duration(taken)} later`}`);
    }
    const { rows: _, columns } = data.tables[NAMES[kinds[index]]];
    const hidden = new Set(["source", "preview", "connection", "relative_seq", "relative_ack", "journey", "interface", "receiver", "receiver_interface", "arrived_ns", "wire"]);
    for (const name in columns) {
      if (name === "repeated" && raw(index, name) === 1) continue;
      const [kind] = columns[name], value = raw(index, name);
      if ((kinds[index] === "P" || name === "source" || name === "preview" || name === "connection") && hidden.has(name)) continue;
      if (value === null || value === false || (value === 0 && !/result|fd|seq|ack|queue/.test(name))) {
        if (!(name === "is_checksum_ready" && value === false) && !(name === "until_ns" && value === null)) continue;
      }
      const title = name.replace("header.", "").replace(/_(ns|us|bit_s)$/, "").replaceAll("_", " ");
      if (name === "is_checksum_ready") put("checksum", value ? "in the packet" : "left to the device");
      else if (name === "until_ns") put("duration", value === null ? "has not returned" : duration(value));
      else if (name === "since_ns") put("in the last", duration(-value));
      else if (name === "header.seq" && raw(index, "relative_seq") !== null) put("seq", `${raw(index, "relative_seq")} (${value})`);
      else if (name === "header.ack" && raw(index, "relative_ack") !== null) put("ack", `${raw(index, "relative_ack")} (${value})`);
      else if (/^header\.(seq|ack|window)$/.test(name) && text(index, "header.protocol") !== "tcp") continue;
      else if (kind === "text") put(title, data.texts[value]);
      else if (kind === "flow") put(title, data.flows[value]);
      else if (kind === "socket") putSocket(put, data.sockets[value]);
      else if (kind !== "bytes") put(title, value === true ? "yes" : name.endsWith("_us") ? quantity(value, "us") : name.endsWith("_bit_s") ? quantity(value, "bit/s") : value.toLocaleString("en"));
    }
    const connection = connectionOf(index);
    if (connection !== null) put("connection", data.connections[connection]);
    const block = html("pre", { class: "bytes" });
    details.replaceChildren(html("h3", {}, TITLES[kinds[index]]), list, block);
    bytesOf(index).then((bytes) => { if (detailed === index && bytes.length) block.textContent = dump(bytes); });
  }
  function putSocket(put, socket) {
    put("socket", socket.flow);
    if (socket.inode) put("inode", String(socket.inode));
    if (socket.cookie !== "0") put("cookie", socket.cookie);
  }
  function dump(bytes) {
    const lines = [];
    for (let start = 0; start < bytes.length; start += 8) {
      const part = [...bytes.subarray(start, start + 8)];
      const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
      const letters = part.map((byte) => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".").join("");
      lines.push(`${start.toString(16).padStart(4, "0")}  ${hex.padEnd(23)}  ${letters}`);
    }
    return lines.join("\n");
  }
  let offsets = null; // of each event in the stream of bytes
  const chunks = new Map();
  const BYTES = { P: "frame", D: "frame", C: "data" };
  async function bytesOf(index) {
    const field = BYTES[kinds[index]];
    if (!field || !raw(index, field)) return new Uint8Array(0);
    if (offsets === null) {
      offsets = new Float64Array(count + 1);
      for (let each = 0; each < count; each++) {
        const name = BYTES[kinds[each]];
        offsets[each + 1] = offsets[each] + (name ? raw(each, name) : 0);
      }
    }
    const begin = offsets[index], end = offsets[index + 1], parts = [];
    for (let chunk = Math.floor(begin / CHUNK_BYTES); chunk * CHUNK_BYTES < end; chunk++) {
      if (!chunks.has(chunk)) chunks.set(chunk, unpacked(byId(`bytes-${chunk}`)).arrayBuffer());
      const bytes = new Uint8Array(await chunks.get(chunk)), base = chunk * CHUNK_BYTES;
      parts.push(...bytes.subarray(Math.max(begin - base, 0), end - base));
    }
    return Uint8Array.from(parts);
  }

  // ---- Search

  let searching = 0;
  async function find() {
    const wanted = search.value.trim().toLowerCase(), turn = ++searching;
    hits.fill(0);
    if (!wanted) { found.textContent = ""; if (onlyFound) rebuild(); else remark(); return; }
    let number = 0, started = performance.now();
    for (let index = 0; index < count; index++) {
      if (!joined[index] && !unchanged[index]) {
        const connection = connectionOf(index);
        const all = `${sentence(index, 0)} ${connection === null ? "" : data.connections[connection]}`;
        if (all.toLowerCase().includes(wanted)) { hits[index] = 1; number++; }
      }
      if (index % 64 === 0 && performance.now() - started > 8) {
        found.textContent = `${number.toLocaleString("en")} \u2026`;
        remark();
        await new Promise((resolve) => setTimeout(resolve));
        if (turn !== searching) return;
        started = performance.now();
      }
    }
    found.textContent = number ? plural(number, "match").replace("matchs", "matches") : "no match";
    if (onlyFound) rebuild(); else remark();
  }
  const nextHit = (by) => step(by, (index) => hits[index] === 1);

  // ---- Plots

  const COLOURS = 6;
  const plots = [];
  function series() {
    const rates = new Map(), queues = { accept: new Map(), receive: new Map(), send: new Map(), window: new Map(), rtt: new Map(), rate: new Map() };
    const into = (map, key, name, when, value) => {
      if (!map.has(key)) map.set(key, { name, times: [], values: [], top: 0 });
      const one = map.get(key);
      one.times.push(when); one.values.push(value); one.top = Math.max(one.top, value);
    };
    for (let index = 0; index < count; index++) {
      if (kinds[index] === "P") {
        const last = lastHop.get(index) ?? index, to = text(last, "receiver");
        if (joined[index] || !to) continue;
        const name = `${text(index, "host") || "?"} \u2192 ${to}`;
        into(rates, name, name, at[index], raw(index, "length") * 8);
      } else if (kinds[index] === "Q") {
        const key = raw(index, "socket"), socket = data.sockets[key];
        const name = `${socket.host} ${(socket.flow ?? `inode ${socket.inode}`).replace(/^(\S+) (.*) -> (.*)$/, (_, protocol, own, peer) => /:0$/.test(peer) ? `${protocol} ${own}` : `${own} \u2192 ${peer}`)}`;
        if (text(index, "state") === "LISTEN") into(queues.accept, key, name, at[index], raw(index, "receive_queue"));
        else {
          into(queues.receive, key, name, at[index], raw(index, "receive_queue"));
          into(queues.send, key, name, at[index], raw(index, "send_queue"));
          into(queues.window, key, name, at[index], raw(index, "congestion_window"));
          into(queues.rtt, key, name, at[index], raw(index, "rtt_us"));
          into(queues.rate, key, name, at[index], raw(index, "throughput_bit_s"));
        }
      }
    }
    const add = (title, unit, map, isRate) => {
      const useful = [...map.values()].filter((one) => one.top > 0).sort((a, b) => b.top - a.top);
      if (useful.length) plots.push({ title, unit, isRate, series: useful.slice(0, COLOURS), more: useful.length - COLOURS });
    };
    add("Throughput on the wire", "bit/s", rates, true);
    add("Accept queue", "", queues.accept);
    add("Receive queue", "B", queues.receive);
    add("Send queue", "B", queues.send);
    add("Congestion window", "segments", queues.window);
    add("Round-trip time", "us", queues.rtt);
    add("Delivery rate", "bit/s", queues.rate);
  }
  const PLOT = { height: 96, left: LEFT, right: RIGHT, top: 8, bottom: 6 };
  // The steps of a series in the range, one value (the greatest) for each pixel.
  function stepsOf(plot, one, pixels) {
    const values = new Float64Array(pixels).fill(plot.isRate ? 0 : NaN), length = (range.until - range.from) / pixels;
    let low = 0, high = one.times.length;
    while (low < high) { const middle = (low + high) >> 1; if (one.times[middle] < range.from) low = middle + 1; else high = middle; }
    let before = !plot.isRate && low > 0 ? one.values[low - 1] : NaN;
    for (let number = low; number < one.times.length && one.times[number] <= range.until; number++) {
      const pixel = Math.min(Math.floor((one.times[number] - range.from) / length), pixels - 1);
      if (plot.isRate) values[pixel] += one.values[number] / (length / SECOND);
      else values[pixel] = Math.max(Number.isNaN(values[pixel]) ? 0 : values[pixel], one.values[number]);
    }
    if (!plot.isRate) for (let pixel = 0; pixel < pixels; pixel++) { if (Number.isNaN(values[pixel])) values[pixel] = before; else before = values[pixel]; }
    return values;
  }
  function drawPlots(wide = byId("plots").clientWidth) {
    const inner = wide - PLOT.left - PLOT.right;
    if (inner < 50) return;
    for (const plot of plots) {
      const size = plot.isRate ? 4 : 1, pixels = Math.floor(inner / size);
      const all = plot.series.map((one) => stepsOf(plot, one, pixels));
      plot.steps = all; plot.size = size;
      const top = Math.max(1, ...all.map((values) => values.reduce((most, value) => value > most ? value : most, 0)));
      const y = (value) => PLOT.height - PLOT.bottom - (value / top) * (PLOT.height - PLOT.top - PLOT.bottom);
      const lines = all.map((values, number) => {
        let path = "", last = NaN;
        values.forEach((value, pixel) => {
          const place = (PLOT.left + pixel * size).toFixed(0);
          if (Number.isNaN(value)) { last = NaN; return; }
          if (Number.isNaN(last)) path += `M${place} ${y(value).toFixed(1)}`;
          else if (value !== last) path += `H${place}V${y(value).toFixed(1)}`;
          last = value;
        });
        if (!Number.isNaN(last)) path += `H${PLOT.left + pixels * size}`;
        return svg("path", { class: `line colour-${number}`, d: path });
      });
      plot.svg.setAttribute("viewBox", `0 0 ${wide} ${PLOT.height}`);
      plot.svg.setAttribute("height", PLOT.height);
      plot.svg.replaceChildren(
        svg("line", { class: "axis", x1: PLOT.left, x2: wide - PLOT.right, y1: y(0), y2: y(0) }),
        svg("line", { class: "grid", x1: PLOT.left, x2: wide - PLOT.right, y1: y(top), y2: y(top) }),
        svg("text", { class: "tick", x: PLOT.left - 6, y: y(top) + 4, "text-anchor": "end" }, quantity(top, plot.unit)),
        svg("text", { class: "tick", x: PLOT.left - 6, y: y(0) + 4, "text-anchor": "end" }, "0"),
        ...lines,
        plot.now = svg("line", { class: "now", y1: 0, y2: PLOT.height }),
        svg("line", { class: "cross", x1: -9, x2: -9, y1: 0, y2: PLOT.height }),
        svg("rect", { class: "brush", x: -9, y: 0, width: 0, height: PLOT.height }),
      );
      plot.svg.setAttribute("aria-label", `${plot.title}: at most ${quantity(top, plot.unit)}; ${plot.series.map((one) => one.name).join(", ")}`);
    }
    drawAxis(wide, inner);
    placeNow(wide);
  }
  function placeNow(wide = byId("plots").clientWidth) { // the line at the selected event
    const share = selected < 0 ? -1 : (at[selected] - range.from) / (range.until - range.from);
    const here = share < 0 || share > 1 ? -99 : PLOT.left + share * (wide - PLOT.left - PLOT.right);
    for (const plot of plots) { plot.now?.setAttribute("x1", here); plot.now?.setAttribute("x2", here); }
  }
  function drawAxis(wide, inner) {
    const axis = byId("axis"), length = range.until - range.from;
    const raws = length / Math.max(Math.floor(inner / 110), 1), power = 10 ** Math.floor(Math.log10(raws));
    const stepNs = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= raws);
    axis.setAttribute("viewBox", `0 0 ${wide} 22`);
    const ticks = [];
    for (let when = Math.ceil(range.from / stepNs) * stepNs; when <= range.until; when += stepNs) {
      const place = PLOT.left + ((when - range.from) / length) * inner;
      const digits = Math.max(0, Math.ceil(-Math.log10(stepNs / MILLISECOND)));
      ticks.push(svg("line", { class: "axis", x1: place, x2: place, y1: 0, y2: 4 }),
        svg("text", { class: "tick", x: place, y: 16, "text-anchor": "middle" }, (when / MILLISECOND).toFixed(Math.min(digits, 6))));
    }
    axis.replaceChildren(svg("text", { class: "tick", x: PLOT.left - 24, y: 16, "text-anchor": "end" }, "ms"), ...ticks);
  }
  function makePlots() {
    const box = byId("plots");
    series();
    byId("plots-section").hidden = !plots.length;
    for (const plot of plots) {
      plot.svg = svg("svg", { role: "img", class: "plot" });
      plot.readings = plot.series.map(() => html("output", {}));
      const legend = html("ul", { class: "legend" }, ...plot.series.map((one, number) =>
        html("li", {}, html("i", { class: `swatch colour-${number}` }), one.name, plot.readings[number])));
      if (plot.more > 0) legend.append(html("li", { class: "hint" }, `and ${plot.more} more with smaller values`));
      box.append(html("figure", {}, html("figcaption", {}, html("b", {}, plot.title), legend), plot.svg));
    }
    const axis = svg("svg", { id: "axis", "aria-hidden": "true", height: 22 });
    box.append(axis);
    let pressed = null;
    const when = (event) => {
      const box = event.currentTarget.getBoundingClientRect ? byId("plots").getBoundingClientRect() : null;
      const inner = box.width - PLOT.left - PLOT.right;
      const share = Math.min(Math.max((event.clientX - box.left - PLOT.left) / inner, 0), 1);
      return { share, time: range.from + share * (range.until - range.from), place: PLOT.left + share * inner };
    };
    box.addEventListener("pointermove", (event) => {
      const { share, place } = when(event);
      for (const plot of plots) {
        const cross = plot.svg.querySelector(".cross"), brush = plot.svg.querySelector(".brush");
        cross.setAttribute("x1", place); cross.setAttribute("x2", place);
        if (pressed) { brush.setAttribute("x", Math.min(place, pressed.place)); brush.setAttribute("width", Math.abs(place - pressed.place)); }
        plot.steps.forEach((values, number) => {
          const value = values[Math.min(Math.floor(share * values.length), values.length - 1)];
          plot.readings[number].textContent = Number.isNaN(value) ? "" : ` ${quantity(value, plot.unit)}`;
        });
      }
    });
    box.addEventListener("pointerleave", () => plots.forEach((plot) => {
      plot.svg.querySelector(".cross").setAttribute("x1", -9); plot.svg.querySelector(".cross").setAttribute("x2", -9);
      plot.readings.forEach((reading) => reading.replaceChildren());
    }));
    box.addEventListener("pointerdown", (event) => { if (event.target.closest("svg")) { pressed = when(event); event.preventDefault(); } });
    addEventListener("pointerup", (event) => {
      if (!pressed) return;
      const begin = pressed, end = when({ clientX: event.clientX, currentTarget: box });
      pressed = null;
      if (Math.abs(end.place - begin.place) > 5) setRange(Math.min(begin.time, end.time), Math.max(begin.time, end.time));
      else if (rows.event.length) { showRow(rowAt(end.time)); drawPlots(); }
    });
  }
  function setRange(from, until) {
    const shortest = 1000; // 1 us
    const middle = (from + until) / 2, half = Math.max((until - from) / 2, shortest / 2);
    range.from = Math.max(middle - half, whole.from);
    range.until = Math.min(middle + half, whole.until);
    byId("zoom-all").disabled = byId("zoom-out").disabled = range.from <= whole.from && range.until >= whole.until;
    rebuild();
  }
  function zoom(factor) {
    const first = rows.event[Math.floor(ladder.scrollTop / ROW)] ?? -1;
    const centre = selected >= 0 && at[selected] >= range.from && at[selected] <= range.until ? at[selected]
      : first >= 0 && ladder.scrollTop > 0 ? at[first] : (range.from + range.until) / 2;
    const half = ((range.until - range.from) * factor) / 2;
    setRange(centre - half, centre + half);
  }

  // ---- Input

  function toggle(id, change) {
    byId(id).addEventListener("click", (event) => {
      const button = event.currentTarget, isOn = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(isOn));
      change(isOn);
      rebuild();
    });
  }
  const present = new Set(groups);
  for (const box of document.querySelectorAll("#filters input")) {
    box.closest("label").hidden = !present.has(box.value);
    box.addEventListener("change", () => { shown[box.value] = box.checked; rebuild(); });
  }
  toggle("follow", (isOn) => { onlyConnection = isOn; });
  toggle("only-found", (isOn) => { onlyFound = isOn; });
  byId("zoom-in").addEventListener("click", () => zoom(0.5));
  byId("zoom-out").addEventListener("click", () => zoom(2));
  byId("zoom-all").addEventListener("click", () => setRange(whole.from, whole.until));
  byId("problem").addEventListener("click", () => { step(1, isProblem); ladder.focus(); });
  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { nextHit(event.shiftKey ? -1 : 1); event.preventDefault(); }
    if (event.key === "Escape") { search.value = ""; find(); ladder.focus(); }
  });
  ladder.addEventListener("scroll", redraw);
  const indexAt = (event) => {
    const group = event.target.closest?.("g.row"), row = group && group.id ? Number(group.id.slice(4)) : -1;
    return row >= 0 ? [rows.event[row], row] : [-1, -1];
  };
  ladder.addEventListener("pointerover", (event) => { const [index] = indexAt(event); if (index >= 0) showDetails(index); });
  ladder.addEventListener("pointerleave", () => showDetails(selected));
  ladder.addEventListener("click", (event) => {
    if (String(getSelection())) return; // text was selected, for copying
    const [index, row] = indexAt(event);
    if (index >= 0) select(index, row);
  });
  const KEYS = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), j: () => step(1), k: () => step(-1),
    PageDown: () => step(Math.floor(ladder.clientHeight / ROW) - 2), PageUp: () => step(2 - Math.floor(ladder.clientHeight / ROW)),
    Home: () => { selected = -1; ladder.scrollTop = 0; step(1); },
    End: () => { const index = rows.event[rows.event.length - 1]; if (index >= 0) select(index); },
    c: () => { if (followed !== null) step(1, (index) => connectionOf(index) === followed); },
    C: () => { if (followed !== null) step(-1, (index) => connectionOf(index) === followed); },
    f: () => { if (!byId("follow").disabled) byId("follow").click(); },
    e: () => step(1, isProblem), E: () => step(-1, isProblem), n: () => nextHit(1), N: () => nextHit(-1),
    "+": () => zoom(0.5), "-": () => zoom(2), 0: () => setRange(whole.from, whole.until), Escape: () => select(-1, -1),
    Enter: () => details.focus(),
  };
  ladder.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); search.select(); }
    if (event.key === "Escape" && event.target === details) ladder.focus();
  });
  for (const link of document.querySelectorAll("[data-event]"))
    link.addEventListener("click", () => { select(Number(link.dataset.event)); ladder.focus(); });

  // ---- Printing: all rows, in drawings that no page break divides

  const printed = byId("printed");
  addEventListener("beforeprint", () => {
    const kept = [width, selected, followed];
    [width, selected, followed] = [700, -1, null];
    const names = svg("svg", { class: "ladder" }), pages = [];
    drawHeads(names);
    for (let first = 0; first < rows.event.length; first += PRINTED_ROWS) {
      const last = Math.min(first + PRINTED_ROWS, rows.event.length);
      const page = svg("svg", { class: "ladder", viewBox: `0 0 ${width} ${(last - first) * ROW}` }, background(first, last, 0));
      for (let row = first; row < last; row++) {
        const group = drawRow(row, (row - first) * ROW);
        group.removeAttribute("id");
        page.append(group);
      }
      pages.push(page);
    }
    printed.replaceChildren(names, ...pages);
    drawPlots(width);
    [width, selected, followed] = kept;
  });
  addEventListener("afterprint", () => { printed.replaceChildren(); drawPlots(); });

  // ---- Start

  ladder.setAttribute("aria-label", `Events in the order of time, hosts: ${hosts.join(", ")}`);
  makePlots();
  measure();
  buildRows();
  refresh();
  drawPlots();
  new ResizeObserver(() => { const before = width; measure(); if (width !== before) { refresh(); drawPlots(); } }).observe(ladder);
  const start = byId("failed-event");
  if (start) select(Number(start.dataset.event));
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})().catch((error) => {
  document.getElementById("status").textContent = `This page cannot show its timeline: ${error}. It needs a browser of 2023 or later.`;
  document.documentElement.dataset.failed = String(error);
});
