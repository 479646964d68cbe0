// The ladder: rows of what the filters leave, of which those in view are drawn.

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
const laneCounts = hosts.map(() => 0); // of each column: the greatest number of a lane
const shown = { steps: true, calls: true, packets: true, kernel: true, queues: true, output: true, upkeep: false };
const range = { from: Math.min(0, count ? at[0] : 0), until: Math.max(data.ended, count ? at[count - 1] : 0, 1) };
const whole = { ...range };
let selected = -1, followed = null, onlyConnection = false, onlyFound = false;
const hits = new Uint8Array(count);

function isShown(index) {
  const isOutside = kinds[index] === "P" && columnOf(text(index, "host")) < 0 && columnOf(text(lastHop.get(index) ?? index, "receiver")) < 0;
  if (isOutside || joined[index] || unchanged[index] || !shown[groups[index]]) return false;
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
  laneCounts.fill(0);
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
    laneCounts[column] = Math.max(laneCounts[column], lane);
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
  group.append(svg("line", { class: "wire", x1, y1: top, x2, y2: bottom, "marker-end": lost || isDropped(last) ? "url(#cross)" : `url(#tip${kind})` }));
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
    const shownLabel = label(index, part), host = text(index, "host");
    if (column < 0 && host) shownLabel.text = `${host}: ${shownLabel.text}`;
    const room = right ? width - RIGHT - here : here - LEFT;
    const gap = column < 0 ? GAP : GAP + Math.min(laneCounts[column], 3) * 4;
    group.append(labelled(here + (right ? gap : -gap), right ? "start" : "end", room - gap, shownLabel));
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
    // Beyond the drawing, of a bar that begins before it or ends after it.
    const top = span.row < first ? y - TOP : y + (span.row - first) * ROW + TOP;
    const end = Math.min(y + (span.end - first + 1) * ROW - TOP, bottom + TOP), side = growsRight(span.column) ? 1 : -1;
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
  const levels = Math.ceil(least() / width); // of names, where they have no room beside each other
  const bottom = 30 + (levels - 1) * HEAD, level = (column) => 20 + (column % levels) * HEAD;
  heads.setAttribute("viewBox", `0 0 ${width} ${bottom}`);
  heads.setAttribute("width", width);
  const names = hosts.map((name, column) => {
    const first = column === 0, last = column === hosts.length - 1 && !first;
    const place = first ? x(0) - 6 : last ? x(column) + RIGHT - 4 : x(column);
    return svg("text", { class: "host", x: place, y: level(column), "text-anchor": first ? "start" : last ? "end" : "middle" }, name);
  });
  const lines = hosts.map((_, column) => svg("line", { class: "life", x1: x(column), x2: x(column), y1: level(column) + 5, y2: bottom }));
  heads.replaceChildren(svg("text", { class: "time", x: LEFT - 24, y: 20, "text-anchor": "end" }, "ms"), ...lines, ...names);
}
function least() { // the width at which the names of hosts stand beside each other, the last one ending at the edge
  const longest = Math.max(0, ...hosts.map((name) => name.length));
  return LEFT + RIGHT + (hosts.length - 1) * Math.max(NARROWEST, longest * letter * 1.5 - RIGHT + GAP);
}
function measure() {
  const probe = svg("text", { class: "call" }, "0".repeat(50));
  canvas.append(probe);
  letter = probe.getComputedTextLength() / 50 || 7.2;
  probe.remove();
  width = Math.max(ladder.clientWidth, least(), 300);
}
function rebuild() {
  const kept = selected >= 0 ? selected : rows.event[Math.floor(ladder.scrollTop / ROW)] ?? -1;
  buildRows();
  refresh();
  if (kept >= 0 && firstRow[kept] >= 0) showRow(firstRow[kept]);
  setTimeout(drawPlots); // in a task of its own, for short frames
}
