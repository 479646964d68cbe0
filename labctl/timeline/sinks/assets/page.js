// Buttons, keys, printing, and the start of the page.

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
  [width, selected, followed] = [Math.min(Math.max(PRINTED_WIDTH, least()), WIDEST_PRINT), -1, null];
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
  // The head of a table stands on each page.
  printed.replaceChildren(html("div", { class: "head" }, names), html("div", { class: "body" }, ...pages));
  drawPlots(PRINTED_WIDTH);
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
