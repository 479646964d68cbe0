// Selection, the details of an event, and search.

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
  const hidden = new Set(["source", "preview", "connection", "relative_seq", "relative_ack", "journey", "port", "interface", "receiver", "receiver_interface", "arrived_ns", "wire"]);
  for (const name in columns) {
    if (name === "repeated" && raw(index, name) === 1) continue;
    const [kind] = columns[name], value = raw(index, name);
    if ((kinds[index] === "P" || name === "source" || name === "preview" || name === "connection") && hidden.has(name)) continue;
    if (value === null || value === false || (value === 0 && !/text|flow|socket/.test(kind) && !/result|fd|seq|ack|queue/.test(name))) {
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
  if (kinds[index] === "O") block.textContent = text(index, "preview");
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
