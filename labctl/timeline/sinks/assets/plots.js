// Plots of queues, windows and throughput on one axis of time, which zooms the ladder, too.

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
