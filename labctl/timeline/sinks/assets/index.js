"use strict";
// The index of pages: search, and order by a column. The table is complete without it.
{
  const body = document.querySelector("tbody"), rows = [...body.rows];
  const search = document.getElementById("search"), found = document.getElementById("found");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, number) => {
      row.hidden = !texts[number].includes(wanted);
      if (!row.hidden) shown++;
    });
    found.textContent = wanted ? `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    search.focus();
  });
  let sorted = null, up = true;
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  document.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    up = sorted === column ? !up : true;
    sorted = column;
    for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = [...rows].sort((a, b) => {
      const one = valueOf(a, column), two = valueOf(b, column);
      return (typeof one === "number" ? one - two : one.localeCompare(two)) * (up ? 1 : -1);
    });
    body.append(...order);
  }));
}
